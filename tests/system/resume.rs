//! Two runs on one folder, Ctrl-C, folders and references that go away.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;

use crate::case::{Case, end, lines, outcomes, pictures, start, tree, until, wait};

/// Many shards, so that some are done when a test steps in.
const CUT: [&str; 4] = ["--batch-size", "1", "--shard-size", "2"];

/// The same, and slow enough for that. How slow the engine is makes no other run of it.
const SLOW: [&str; 6] = ["--batch-size", "1", "--shard-size", "2", "--synthetic-latency", "300"];

#[test]
fn a_second_run_on_the_same_folder_is_refused_and_the_first_goes_on() {
    let case = Case::new();
    case.manifest(12);
    let first = start(&mut case.run("out", &SLOW));
    until("the first commit", || !tree(&case.path("out/commits")).is_empty());
    // Held, so that it does not end before the second one has begun.
    first.freeze();
    let second = end(&mut case.run("out", &CUT)).expect(75);
    assert!(second.stderr.contains("in use by another run") && second.stderr.contains(&first.id().to_string()));
    first.go_on();
    wait(first).expect(0);
    assert_eq!(outcomes(&case.path("out")).len(), 12);
}

#[test]
fn ctrl_c_drains_and_the_same_command_goes_on_to_the_same_pictures() {
    let case = Case::new();
    case.manifest(16);
    end(&mut case.run("calm", &CUT)).expect(0);
    for stop in [Signal::INT, Signal::TERM] {
        let out = format!("out-{}", stop.as_raw());
        let child = start(&mut case.run(&out, &SLOW));
        until("the first commit", || !tree(&case.path(&out).join("commits")).is_empty());
        child.signal(stop);
        let stopped = wait(child).expect(143);
        assert!(stopped.stderr.contains("run the same command to resume"), "{}", stopped.stderr);
        let committed = tree(&case.path(&out).join("commits"));
        assert!(committed.len() < 8, "it was not stopped, it had finished");

        end(&mut case.run(&out, &CUT)).expect(0);
        assert_eq!(pictures(&case.path(&out)), pictures(&case.path("calm")));
        let commits = tree(&case.path(&out).join("commits"));
        assert!(committed.iter().all(|(shard, marker)| commits.get(shard) == Some(marker)));
    }
}

#[test]
fn a_second_ctrl_c_stops_at_once() {
    let case = Case::new();
    case.manifest(4);
    let mut command = case.run("out", &["--synthetic-latency", "60000", "--batch-size", "1"]);
    let mut child = start(command.stderr(fs::File::create(case.path("said")).unwrap()));
    let said = || fs::read_to_string(case.path("said")).unwrap();
    until("the start", || case.path("out/input").is_dir());
    child.signal(Signal::INT);
    // Two signals at once are one to a process.
    until("it drains", || said().contains("press Ctrl-C again to stop at once"));
    child.signal(Signal::INT);
    // Its batch takes a minute.
    assert_eq!(child.ended_within(Duration::from_secs(45), said).code(), Some(143));
}

#[test]
fn a_finished_run_is_not_run_again() {
    let case = Case::new();
    case.manifest(5);
    end(&mut case.run("out", &[])).expect(0);
    let before = tree(&case.path("out"));
    let again = end(&mut case.run("out", &["--json"])).expect(0);
    assert_eq!(again.json()["done"], 5);
    let mut after = tree(&case.path("out"));
    for written_each_time in [".lock", "index.html"] {
        after.insert(written_each_time.to_owned(), before[written_each_time].clone());
    }
    assert_eq!(after, before);
}

#[test]
fn another_manifest_or_other_settings_in_the_same_folder_are_refused() {
    let case = Case::new();
    case.manifest(5);
    end(&mut case.run("out", &[])).expect(0);
    let other = end(&mut case.run("out", &["--steps", "7"])).expect(42);
    assert!(other.stderr.contains("steps: unset there, 7 requested"), "{}", other.stderr);
    case.manifest(6);
    let other = end(&mut case.run("out", &[])).expect(42);
    assert!(other.stderr.contains("manifest"), "{}", other.stderr);
}

#[test]
fn a_reference_that_vanishes_fails_its_rows_and_no_others() {
    let case = Case::new();
    case.manifest(9);
    let killed = end(case.run("out", &[]).env("DIORAMA_FAULT", "submit.after-decision"));
    assert_eq!(killed.code, None, "{killed:?}");
    fs::remove_file(case.path("place-1.png")).unwrap();
    let over = end(&mut case.run("out", &["--json"])).expect(3);
    assert_eq!((&over.json()["done"], &over.json()["failed"]), (&6.into(), &3.into()));
    for error in lines(&case.path("out/errors.jsonl")) {
        assert_eq!(error["code"], "reference_unreadable");
        assert!(error["message"].as_str().unwrap().contains("place-1.png"), "{error}");
    }
}

#[test]
fn a_reference_that_is_no_picture_fails_its_row_and_no_other() {
    let case = Case::new();
    case.manifest(6);
    fs::write(case.path("place-2.png"), "no picture").unwrap();
    end(&mut case.run("out", &["--max-rounds", "0"])).expect(3);
    let codes: Vec<_> = lines(&case.path("out/errors.jsonl")).iter().map(|error| error["code"].clone()).collect();
    assert_eq!(codes, ["reference_undecodable", "reference_undecodable"]);
}

#[test]
fn an_output_folder_that_cannot_be_made_is_an_error_with_its_name() {
    let case = Case::new();
    case.manifest(3);
    fs::write(case.path("file"), "").unwrap();
    let refused = end(&mut case.run("file/out", &[]));
    assert!(matches!(refused.code, Some(42 | 75)), "{refused:?}");
    assert!(refused.stderr.contains("file/out"), "{}", refused.stderr);
}
