//! Runs that measure their pictures and accept only some: on one machine. The fleet's are in fleet/acceptance.rs.

use std::fs;

use serde_json::{Value, json};

use crate::case::{Case, end, outcomes, pictures, tree};

/// Some pictures of the synthetic engine are brighter than that at once, some after tries, some never.
const BRIGHT: [&str; 6] = ["--measures", "coverage", "--accept", "luma_mean > 130", "--accept-tries", "2"];

#[test]
fn a_run_killed_between_tries_ends_with_the_same_pictures_seeds_and_scores() {
    for (format, kills) in [("files", &[1, 3][..]), ("webdataset", &[4])] {
        let case = Case::new();
        case.manifest(24);
        let run = |out: &str| {
            let more =
                ["--format", format, "--shard-size", "12", "--batch-size", "2", "--compare", "img2img", "--json"];
            case.run(out, &[&BRIGHT[..], &more].concat())
        };
        let summary = end(&mut run("calm")).expect(0).json();
        let calm = outcomes(&case.path("calm"));
        let of = |what: &dyn Fn(&Value) -> bool| calm.values().filter(|outcome| what(outcome)).count() as u64;
        let tries = |outcome: &Value| outcome["tries"].as_array().unwrap().len();
        let (accepted, kept) = (of(&|one| one["accepted"] == true), of(&|one| one["accepted"] == false));
        let later = of(&|one| one["accepted"] == true && tries(one) > 1);
        assert!(accepted > 0 && kept > 0 && later > 0, "{accepted} {kept} {later}: the case shows nothing");
        let made: usize = calm.values().map(|one| tries(one) - 1).sum();
        let told = json!({"accepted": accepted, "kept": kept, "tries": made});
        assert_eq!((accepted + kept, &summary["acceptance"]), (24, &told));
        for outcome in calm.values() {
            let kept = outcome["tries"].as_array().unwrap().iter().find(|one| one["seed"] == outcome["seed"]).unwrap();
            assert!(outcome["measures"]["coverage"].is_number(), "{outcome}");
            assert_eq!((&kept["measures"], &kept["accepted"]), (&outcome["measures"], &outcome["accepted"]));
        }

        for nth in kills {
            let out = format!("killed-{nth}");
            let killed = end(run(&out).env("DIORAMA_FAULT", format!("worker.after-generate:{nth}")));
            assert_eq!(killed.code, None, "it was not passed so often:\n{}", killed.stderr);
            end(&mut run(&out)).expect(0);
            assert_eq!(outcomes(&case.path(&out)), calm, "{format}, killed at {nth}");
            assert_eq!(pictures(&case.path(&out)), pictures(&case.path("calm")), "{format}, killed at {nth}");
        }
        // What is kept is made again with the seed that it was kept for.
        let (id, _) = calm.iter().find(|(_, one)| one["accepted"] == true && tries(one) > 1).unwrap();
        let again = ["replay", "--out", "calm", id, "--engine", "synthetic", "--json"];
        assert_eq!(end(&mut case.diorama(&again)).expect(0).json()["same"], true);
        // Another condition is another run.
        let other = ["--accept", "luma_mean > 131", "--format", format, "--shard-size", "12", "--compare", "img2img"];
        let refused = end(&mut case.run("calm", &other)).expect(42);
        assert!(refused.stderr.contains("accept: luma_mean > 130 (2 tries) there"), "{}", refused.stderr);
    }
}

#[test]
fn what_cannot_be_measured_or_accepted_is_refused_before_anything_is_written() {
    let case = Case::new();
    case.manifest(3);
    for (arguments, expected) in [
        (&["--accept", "luma_mean >"][..], "luma_mean >\n           ^ a number was expected"),
        (&["--accept", "cilp > 26"], "cilp is not a measure; did you mean clip?"),
        (&["--accept", "fid < 20"], "fid is a measure of sets"),
        (&["--measures", "coverge"], "coverge is not a measure; did you mean coverage?"),
        (&["--measures", "clip,coverage"], "clip needs the network clip, which is not there"),
        (&["--accept", "ssim > 0.5", "--method", "txt2img"], "ssim"),
        (&["--measures", "coverage", "--method", "img2img"], "coverage cannot be measured: it is of the mask"),
    ] {
        let refused = end(&mut case.run("out", arguments)).expect(42);
        assert!(refused.stderr.contains(expected), "{arguments:?}: {}", refused.stderr);
        assert!(!case.path("out/run.json").exists(), "{arguments:?}: a run was begun");
    }
    let out_of_range = end(&mut case.run("out", &["--accept-tries", "11"])).expect(2);
    assert!(out_of_range.stderr.contains("0 to 10"), "{}", out_of_range.stderr);
}

/// The bundled model and its judge: what the judge does not find right is made again, killed between tries or not.
#[cfg(feature = "engine")]
#[test]
fn the_bundled_models_pictures_are_made_again_until_the_judge_finds_them_right() {
    let case = Case::new();
    let place = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/demo/references/beach-1.png");
    fs::copy(place, case.path("beach.png")).unwrap();
    let row = |n: usize, subject: &str| json!({"custom_id": format!("row-{n}"), "reference": "beach.png", "prompt": format!("a {subject} on a beach"), "seed": n});
    let rows = ["red circle", "green square", "yellow triangle", "blue circle"];
    case.write_rows(&rows.iter().enumerate().map(|(n, subject)| row(n, subject)).collect::<Vec<_>>());
    let run = |out: &str| {
        let model =
            ["--model", concat!(env!("CARGO_MANIFEST_DIR"), "/../models/demo"), "--steps", "6", "--edit-steps", "2,4"];
        let networks = ["--networks", concat!(env!("CARGO_MANIFEST_DIR"), "/../models/eval")];
        let accept = ["--accept", "judge_right = 1", "--measures", "psnr", "--accept-tries", "2", "--batch-size", "2"];
        case.diorama(&[&["run", "rows.jsonl", "--out", out, "--json"][..], &model, &networks, &accept].concat())
    };
    let summary = end(&mut run("calm")).expect(0).json();
    let calm = outcomes(&case.path("calm"));
    assert_eq!(summary["done"], 4);
    assert!(summary["acceptance"]["tries"].as_u64().unwrap() > 0, "all are right at once: {summary}");
    for outcome in calm.values() {
        let right = outcome["measures"]["judge_right"].as_f64().unwrap();
        assert_eq!(outcome["accepted"], right == 1.0, "{outcome}");
        assert_eq!(outcome["measures"]["outside"], 1.0, "no region is given, so that psnr is of the whole picture");
        assert!(outcome["measures"]["psnr"].as_f64().unwrap() > 5.0, "{outcome}");
    }
    let killed = end(run("killed").env("DIORAMA_FAULT", "worker.after-generate:2"));
    assert_eq!(killed.code, None, "there was no second try:\n{}", killed.stderr);
    end(&mut run("killed")).expect(0);
    assert_eq!(outcomes(&case.path("killed")), calm);
    assert_eq!(tree(&case.path("killed/images")), tree(&case.path("calm/images")));
}
