//! Bad manifests, as a user meets them: everything is said, and nothing is started.

use std::fs;

use serde_json::json;

use crate::case::{Case, end, lines};

#[test]
fn every_problem_of_a_manifest_is_listed_and_nothing_is_started() {
    let case = Case::new();
    let good = json!({"custom_id": "a", "reference": "place-0.png", "prompt": "seagull"});
    let with = |id: &str, key: &str, value: serde_json::Value| {
        let mut row = good.clone();
        row["custom_id"] = id.into();
        row[key] = value;
        row
    };
    case.write_rows(&[
        good.clone(),
        with("b", "stepps", json!(20)),
        with("c", "steps", json!("many")),
        with("d", "size", json!("511x512")),
        with("../e", "seed", json!(1)),
        good.clone(),
        with("f", "reference", json!("gone.png")),
        with("g", "reference", json!("s3://bucket/x.png")),
        with("h", "prompt", json!("")),
        with("i", "prompt", json!("x".repeat(10_001))),
    ]);
    let text = end(&mut case.run("out", &[])).expect(42);
    let json = end(&mut case.run("out", &["--json"])).expect(42).json();
    let found: Vec<String> = json["issues"]
        .as_array()
        .unwrap()
        .iter()
        .map(|issue| {
            format!("{} {} {}", issue["line"], issue["code"].as_str().unwrap(), issue["param"].as_str().unwrap())
        })
        .collect();
    assert_eq!(
        found,
        [
            "2 unknown_key stepps",
            "3 wrong_type steps",
            "4 out_of_range size",
            "5 unsafe_id custom_id",
            "6 duplicate_id custom_id",
            "7 missing_file reference",
            "8 needs_fleet reference",
            "9 empty_prompt prompt",
            "10 prompt_too_long prompt",
        ]
    );
    for line in 2..=10 {
        assert!(text.stderr.contains(&format!("line {line}: ")), "line {line} is not in\n{}", text.stderr);
    }
    assert!(!case.path("out/run.json").exists() && !case.path("out/images").exists());
}

#[test]
fn the_good_rows_run_where_the_user_says_skip_and_the_bad_ones_are_listed() {
    let case = Case::new();
    case.manifest(4);
    let rows = fs::read_to_string(case.path("rows.jsonl")).unwrap();
    fs::write(case.path("rows.jsonl"), format!("{rows}\nnonsense\n{{\"custom_id\":\"x\"}}\n")).unwrap();
    let over = end(&mut case.run("out", &["--on-invalid", "skip", "--json"])).expect(3);
    assert_eq!((&over.json()["done"], &over.json()["invalid_rows"]), (&4.into(), &2.into()));
    let errors = lines(&case.path("out/errors.jsonl"));
    assert!(errors.iter().all(|error| error["status"] == "invalid"), "{errors:?}");
    assert_eq!(errors.iter().map(|error| error["line"].as_u64().unwrap()).max(), Some(6));

    // Where no row is good there is nothing to go on with.
    fs::write(case.path("rows.jsonl"), "nonsense\n").unwrap();
    end(&mut case.run("none", &["--on-invalid", "skip"])).expect(42);
}

#[test]
fn a_manifest_from_windows_runs_like_any_other() {
    let case = Case::new();
    case.manifest(3);
    let rows = fs::read_to_string(case.path("rows.jsonl")).unwrap();
    fs::write(case.path("rows.jsonl"), format!("\u{feff}{}\r\n", rows.replace('\n', "\r\n"))).unwrap();
    end(&mut case.run("out", &[])).expect(0);
}

#[test]
fn csv_runs_like_jsonl() {
    let case = Case::new();
    let table = "custom_id,reference,prompt,subjects\na,place-0.png,\"a seagull, standing\",seagull\n";
    fs::write(case.path("rows.csv"), table).unwrap();
    fs::write(case.path("rows.txt"), table).unwrap();
    let run = |manifest, more: &[&str]| {
        end(&mut case.diorama(&[&["run", manifest, "--out", "out", "--engine", "synthetic"], more].concat()))
    };
    run("rows.csv", &[]).expect(0);
    let refused = run("rows.txt", &[]).expect(2);
    assert!(refused.stderr.contains("--manifest-format"), "{}", refused.stderr);
}

#[test]
fn columns_of_the_users_own_are_in_results_errors_and_records() {
    let case = Case::new();
    let row = |id: &str, reference: &str| json!({"custom_id": id, "image": reference, "caption": "seagull", "licence": "CC0", "id_there": 7});
    fs::write(case.path("place-2.png"), "no picture").unwrap();
    case.write_rows(&[row("a", "place-0.png"), row("b", "place-2.png")]);
    end(&mut case.run("out", &["--columns", "prompt=caption,reference=image", "--format", "files"])).expect(3);
    let carried = json!({"licence": "CC0", "id_there": 7});
    assert_eq!(lines(&case.path("out/results.jsonl"))[0]["extra"], carried);
    assert_eq!(lines(&case.path("out/errors.jsonl"))[0]["extra"], carried);
    let record: serde_json::Value =
        serde_json::from_slice(&fs::read(case.path("out/records/a.json")).unwrap()).unwrap();
    assert_eq!(record["task"]["extra"], carried);
    // With other names for its columns it is another manifest.
    end(&mut case.run("out", &["--columns", "prompt=licence,reference=image"])).expect(42);
    let refused = end(&mut case.run("out", &["--columns", "promt=caption"])).expect(2);
    assert!(refused.stderr.contains("\"promt\" is not a key of a row"), "{}", refused.stderr);
}

#[test]
fn what_is_no_manifest_is_refused_with_the_reason() {
    let case = Case::new();
    for (bytes, code) in [
        (b"".as_slice(), "empty_manifest"),
        (b"\xff\xfe{\0".as_slice(), "not_utf8"),
        (b"[1, 2]".as_slice(), "wrong_type"),
        (b"\x1f\x8b\x08\0\0\0\0\0".as_slice(), "compressed"),
    ] {
        fs::write(case.path("rows.jsonl"), bytes).unwrap();
        let json = end(&mut case.run("out", &["--json"])).expect(42).json();
        assert_eq!(json["issues"][0]["code"], code, "{json}");
    }
    fs::remove_file(case.path("rows.jsonl")).unwrap();
    assert!(end(&mut case.run("out", &[])).expect(42).stderr.contains("rows.jsonl"));
}
