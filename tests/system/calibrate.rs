//! `diorama calibrate` on the bundled model and its judge, with so small a budget that only its ways are tried: how good
//! what it finds is, is measured in docs/evaluation.md.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::case::{Case, end, lines, start, tree, until, wait};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/demo");
const JUDGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/eval");

/// The bundled model in a folder of its own, with few steps, and four rows on two references.
fn case() -> Case {
    let case = Case::new();
    fs::create_dir(case.path("model")).unwrap();
    for entry in fs::read_dir(MODEL).unwrap() {
        let from = fs::canonicalize(entry.unwrap().path()).unwrap();
        symlink(&from, case.path("model").join(from.file_name().unwrap())).unwrap();
    }
    let file = case.path("model/diorama.json");
    let mut settings: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    settings["steps"] = 6.into();
    fs::remove_file(&file).unwrap();
    fs::write(&file, settings.to_string()).unwrap();
    let row = |n: usize| {
        json!({"custom_id": format!("row-{n}"), "reference": format!("place-{}.png", n / 2),
               "prompt": format!("a {} circle on a beach", ["red", "blue"][n % 2])})
    };
    case.write_rows(&(0..4).map(row).collect::<Vec<_>>());
    case
}

/// The fewest pictures for the one axis: five thresholds on one picture each, three on another, three finalists on two.
fn calibrate(case: &Case, budget: &str, more: &[&str]) -> Command {
    let arguments =
        ["calibrate", "model", "rows.jsonl", "--networks", JUDGE, "--axes", "threshold", "--budget", budget];
    case.diorama(&[&arguments, more].concat())
}

fn settings(case: &Case) -> Value {
    serde_json::from_slice(&fs::read(case.path("model/diorama.json")).unwrap()).unwrap()
}

fn images(case: &Case) -> Vec<PathBuf> {
    tree(&case.path("calibration")).into_keys().filter(|name| name.contains("/images/")).map(PathBuf::from).collect()
}

#[test]
fn a_calibration_that_was_killed_goes_on_and_says_beside_the_model_what_was_measured() {
    let case = case();
    let before = settings(&case);
    let plan = end(&mut calibrate(&case, "14", &["--dry-run", "--json"])).expect(0).json();
    assert_eq!((&plan["pictures"]["pictures"], &plan["subject"]), (&json!(14), &json!("judge_right")));
    assert_eq!(plan["in_force"]["threshold"], before["threshold"]);
    assert!(!case.path("calibration").exists() && settings(&case) == before, "a plan makes nothing");

    let mut begun = start(&mut calibrate(&case, "14", &[]));
    until("some pictures are made", || images(&case).len() > 1);
    begun.kill();
    assert_eq!(settings(&case), before, "nothing is said before everything was measured");
    drop(begun);
    let kept = tree(&case.path("calibration"));
    let said = wait(start(&mut calibrate(&case, "14", &[]))).expect(0).stdout;
    assert!(
        said.contains("judge_right") && said.contains("--preset paper") && said.contains("threshold 1.5"),
        "{said}"
    );
    let after = tree(&case.path("calibration"));
    for (name, bytes) in kept.iter().filter(|(name, _)| name.contains("/images/")) {
        assert_eq!(after.get(name), Some(bytes), "{name} was made again");
    }

    let written = settings(&case);
    let calibration = &written["calibration"];
    assert_eq!(
        (&written["guidance"], &written["steps"]),
        (&before["guidance"], &json!(6)),
        "what else stood there stays"
    );
    assert_eq!(calibration["references"].as_object().unwrap().len(), 2);
    assert_eq!(calibration["model_sha256"].as_str().unwrap().len(), 64);
    assert_eq!(calibration["networks"]["judge"].as_str().unwrap().len(), 64);
    assert!(calibration["command"].as_str().unwrap().contains("--budget 14"));
    assert!(calibration["pictures"].as_u64().unwrap() <= 14);
    assert_eq!(calibration["search"][0]["tried"].as_array().unwrap().len(), 5);
    let search = |half: &str| -> Vec<String> {
        let files = fs::read_dir(case.path("calibration")).unwrap().map(|entry| entry.unwrap().path());
        let rows = files.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&format!("{half}-")));
        rows.flat_map(|path| lines(&path)).map(|row| row["reference"].as_str().unwrap().to_owned()).collect()
    };
    assert!(search("search").iter().all(|one| !search("confirm").contains(one)), "confirmed on what was searched on");
    // The model takes what was written, note included.
    let pictures = images(&case);
    end(&mut calibrate(&case, "14", &[])).expect(0);
    assert_eq!(images(&case), pictures, "the same command again makes nothing");
    let other = end(&mut calibrate(&case, "15", &[])).expect(42);
    assert!(other.stderr.contains("another budget"), "{}", other.stderr);
}

#[test]
fn what_cannot_be_calibrated_is_refused_before_any_picture() {
    let case = case();
    let model = case.path("model");
    let model = model.to_str().unwrap();
    fs::create_dir(case.path("pictures")).unwrap();
    fs::copy(case.path("place-0.png"), case.path("pictures/a.png")).unwrap();
    for (arguments, code, expected) in [
        (&["calibrate", model, "rows.jsonl"][..], 42, "nothing here can say whether a picture shows its subject"),
        (&["calibrate", model, "rows.jsonl", "--networks", JUDGE, "--budget", "5"], 2, "pictures are the least"),
        (&["calibrate", model, "rows.jsonl", "--networks", JUDGE, "--axes", "blur"], 2, "edit-steps"),
        (&["calibrate", model, "pictures", "--networks", JUDGE], 42, "a.txt"),
        (
            &["calibrate", model, "pictures", "--networks", JUDGE, "--prompt", "a red circle"],
            42,
            "one row is not enough",
        ),
        (&["calibrate", model, "rows.jsonl", "--networks", JUDGE, "--work", "model/work"], 42, "is inside the model"),
        (
            &["calibrate", model, "rows.jsonl", "--networks", JUDGE, "--prompt", "a red circle"],
            2,
            "--prompt is for a folder",
        ),
        (
            &["calibrate", model, "pictures", "--networks", JUDGE, "--prompt", "a gull", "--prompt", "a red circle"],
            42,
            "not the row 0000-0 (\"a gull\")",
        ),
    ] {
        let end = end(&mut case.diorama(arguments)).expect(code);
        assert!(end.stderr.contains(expected), "{arguments:?}: {}", end.stderr);
    }
    fs::write(case.path("place-1.png"), "no picture").unwrap();
    let row = |n: usize| json!({"custom_id": format!("row-{n}"), "reference": "place-1.png", "prompt": "a red circle on a beach"});
    case.write_rows(&[row(0), row(1)]);
    let broken = end(&mut calibrate(&case, "14", &["--work", "broken"])).expect(42);
    assert!(broken.stderr.contains("no picture could be made; errors.jsonl"), "{}", broken.stderr);
    assert_eq!(images(&case).len(), 0);
}
