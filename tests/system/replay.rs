//! `diorama replay` on the folder of a run: the same bytes again, or what is different.

use std::fs;

use serde_json::Value;

use crate::case::{Case, End, end};

const SYNTHETIC: [&str; 3] = ["--engine", "synthetic", "--json"];

fn replay(case: &Case, more: &[&str]) -> End {
    end(&mut case.diorama(&[&["replay", "--out", "out", "row-001"][..], &SYNTHETIC, more].concat()))
}

#[test]
fn a_picture_is_made_again_with_the_same_bytes_from_files_and_from_archives() {
    for format in ["files", "webdataset"] {
        let case = Case::new();
        case.manifest(3);
        end(&mut case.run("out", &["--format", format, "--batch-size", "3"])).expect(0);
        let again = replay(&case, &["--to", "again.png"]).expect(0).json();
        assert_eq!((&again["same"], &again["sha256"]), (&true.into(), &again["committed_sha256"]), "{again}");
        assert_eq!(again["environment"].as_array().unwrap().len(), 0, "the record's batch size is taken: {again}");
        if format == "files" {
            assert_eq!(
                fs::read(case.path("again.png")).unwrap(),
                fs::read(case.path("out/images/row-001.png")).unwrap()
            );
        }
        let other = replay(&case, &["--batch-size", "1"]).expect(0).json();
        assert_eq!(other["environment"][0]["what"], "batch size", "{other}");
    }
}

#[test]
fn a_picture_that_cannot_be_made_again_is_refused_with_the_reason() {
    let case = Case::new();
    case.manifest(3);
    end(&mut case.run("out", &[])).expect(0);
    let refused = |arguments: &[&str], code: i32, reason: &str| {
        let over = end(&mut case.diorama(&[&["replay"][..], arguments].concat())).expect(code);
        assert!(over.stderr.contains(reason), "{}", over.stderr);
    };
    refused(&["--out", "out", "row-001"], 42, "give --engine synthetic");
    refused(&["--out", "nowhere", "row-001", "--engine", "synthetic"], 42, "there is no run in nowhere");
    refused(&["--out", "out", "row-9", "--engine", "synthetic"], 42, "no picture of row-9");
    refused(&["row-001", "--engine", "synthetic"], 2, "say which run");

    // The reference is another one by now.
    fs::copy(case.path("place-0.png"), case.path("kept.png")).unwrap();
    fs::copy(case.path("place-1.png"), case.path("right.png")).unwrap();
    fs::copy(case.path("place-0.png"), case.path("place-1.png")).unwrap();
    refused(&["--out", "out", "row-001", "--engine", "synthetic"], 42, "--reference FILE");
    replay(&case, &["--reference", "right.png"]).expect(0);

    // The committed picture was damaged.
    fs::write(case.path("out/images/row-001.png"), "x").unwrap();
    refused(&["--out", "out", "row-001", "--engine", "synthetic", "--reference", "right.png"], 42, "diorama verify");
}

#[test]
fn a_difference_is_measured_and_what_was_different_is_named() {
    let case = Case::new();
    case.manifest(3);
    end(&mut case.run("out", &[])).expect(0);
    // As if another version had made it: other pixels, and a record that says so.
    let marker = case.path("out/commits/r0-000000.json");
    let mut picture = image::open(case.path("out/images/row-001.png")).unwrap().to_rgb8();
    picture.as_mut()[0] ^= 0x40;
    picture.save(case.path("out/images/row-001.png")).unwrap();
    let record = case.path("out/records/row-001.json");
    let text = fs::read_to_string(&record).unwrap();
    let mut value: Value = serde_json::from_str(&text).unwrap();
    value["generator"]["engine"] = "diorama 0.0.1".into();
    fs::write(&record, serde_json::to_vec(&value).unwrap()).unwrap();
    let mut text = fs::read_to_string(&marker).unwrap();
    let mut committed: Value = serde_json::from_str(&text).unwrap();
    for (role, path) in [("image", "out/images/row-001.png"), ("record", "out/records/row-001.json")] {
        let old = &mut committed["outcomes"][1]["files"][role];
        old["sha256"] = diorama_core::id::Sha256Hex::of(&fs::read(case.path(path)).unwrap()).as_str().into();
    }
    text = committed.to_string();
    fs::write(&marker, text).unwrap();

    let differs = replay(&case, &[]).expect(3).json();
    assert_eq!((&differs["same"], &differs["max_difference"]), (&false.into(), &0x40.into()), "{differs}");
    let mean = differs["mean_difference"].as_f64().unwrap();
    assert!((mean - 64.0 / (16.0 * 16.0 * 3.0)).abs() < 1e-9, "{mean}");
    let environment = &differs["environment"];
    assert_eq!((&environment[0]["what"], &environment[0]["then"]), (&"version".into(), &"diorama 0.0.1".into()));
    assert_eq!(environment.as_array().unwrap().len(), 1, "{environment}");
}

#[cfg(feature = "engine")]
#[test]
fn the_bundled_model_makes_the_same_bytes_again_and_no_other_generator_is_taken_for_it() {
    const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/demo");
    let case = Case::new();
    case.manifest(3);
    let quick = ["--steps", "4", "--edit-steps", "2", "--batch-size", "2", "--dtype", "bf16"];
    let run = [&["run", "rows.jsonl", "--model", MODEL, "--out", "out"][..], &quick].concat();
    end(&mut case.diorama(&run)).expect(0);
    let replay =
        |more: &[&str]| end(&mut case.diorama(&[&["replay", "--out", "out", "row-001", "--json"], more].concat()));
    let again = replay(&["--model", MODEL]).expect(0).json();
    assert_eq!((&again["same"], again["environment"].as_array().unwrap().len()), (&true.into(), 0), "{again}");
    let other = replay(&["--engine", "synthetic"]).expect(42);
    assert!(
        other.stderr.contains("was made with the model demo") && other.stderr.contains("--model"),
        "{}",
        other.stderr
    );
    let differs = replay(&["--model", MODEL, "--dtype", "f32"]);
    let differs = differs.expect(3).json();
    assert_eq!(differs["environment"][0]["what"], "dtype", "{differs}");
}
