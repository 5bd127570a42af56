//! The process dies at every step of the shard protocol; the same command then finishes, and nothing is lost, doubled
//! or different.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use diorama_protocol::fault::POINTS;

use crate::case::{Case, Contents, end, outcomes, pictures, start, tree, until, wait};

/// One failing task in five, so that rounds of retries happen; shards of three, so that there are several.
const RUN: [&str; 10] = [
    "--synthetic-fail-rate",
    "0.2",
    "--shard-size",
    "3",
    "--max-rounds",
    "1",
    "--retry-delay",
    "0",
    "--compare",
    "img2img",
];

/// Points that only one format passes.
fn passes(point: &str, format: &str) -> bool {
    match point {
        "worker.after-half-of-the-files" => format == "files",
        "worker.after-archive" => format == "webdataset",
        // Only runs of a coordinator are cancelled, reopened and deleted: fleet/commands.rs. Nobody hands a shard back here.
        "worker.after-part" => false,
        _ => !["reopen.", "delete.", "ending."].iter().any(|part| point.starts_with(part)),
    }
}

/// The archives that the commit markers name, by shard.
fn archives(out: &Path) -> BTreeMap<String, Contents> {
    let marker = |bytes: Contents| serde_json::from_slice::<serde_json::Value>(&bytes.0).unwrap();
    tree(&out.join("commits"))
        .into_iter()
        .filter_map(|(shard, bytes)| Some((shard, marker(bytes)["archives"][0]["key"].as_str()?.to_owned())))
        .map(|(shard, key)| (shard, Contents(fs::read(out.join(key)).unwrap())))
        .collect()
}

fn killed_at_every_point_the_run_ends_as_if_nothing_had_happened(format: &str) {
    let case = Case::new();
    case.manifest(20);
    let run = |out: &str| case.run(out, &[&RUN[..], &["--format", format]].concat());
    end(&mut run("calm")).expect(3);
    let calm = outcomes(&case.path("calm"));
    assert_eq!(calm.len(), 20);
    assert!(calm.values().any(|outcome| outcome["status"] == "failed"), "no task failed, so no round was tried");

    for point in POINTS.iter().filter(|point| passes(point, format)) {
        for nth in [1, 2] {
            let out = format!("{point}-{nth}");
            let killed = end(run(&out).env("DIORAMA_FAULT", format!("{point}:{nth}")));
            if nth == 1 {
                assert_eq!(killed.code, None, "{point} was not passed:\n{}", killed.stderr);
            }
            let committed = tree(&case.path(&out).join("commits"));
            end(&mut run(&out)).expect(3);

            let after = case.path(&out);
            assert_eq!(outcomes(&after), calm, "{out}: other outcomes");
            assert_eq!(pictures(&after), pictures(&case.path("calm")), "{out}: other pictures");
            assert_eq!(archives(&after), archives(&case.path("calm")), "{out}: other archives");
            let commits = tree(&after.join("commits"));
            for (shard, marker) in committed {
                assert!(commits.get(&shard) == Some(&marker), "{out}: {shard} was committed, and was run again");
            }
        }
    }
}

#[test]
fn a_run_killed_at_any_step_ends_with_the_same_files() {
    killed_at_every_point_the_run_ends_as_if_nothing_had_happened("files");
}

#[test]
fn a_run_killed_at_any_step_ends_with_the_same_archives() {
    killed_at_every_point_the_run_ends_as_if_nothing_had_happened("webdataset");
}

#[test]
fn what_a_killed_attempt_left_is_not_taken_for_a_result() {
    let case = Case::new();
    case.manifest(6);
    let mut run = case.run("out", &["--format", "webdataset", "--shard-size", "3"]);
    let killed = end(run.env("DIORAMA_FAULT", "worker.before-marker:2"));
    assert_eq!(killed.code, None, "{}", killed.stderr);
    end(&mut case.run("out", &["--format", "webdataset", "--shard-size", "3"])).expect(0);
    let named: BTreeSet<String> = crate::case::lines(&case.path("out/results.jsonl"))
        .iter()
        .map(|outcome| outcome["archive"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(named.len(), 2, "results name other archives than those of the markers");
}

#[test]
fn a_task_that_kills_its_process_is_put_aside_and_every_other_one_is_done() {
    let case = Case::new();
    case.manifest(9);
    let run = || case.run("out", &["--shard-size", "3", "--batch-size", "3", "--max-rounds", "0"]);
    let deaths = (0..10).take_while(|_| end(run().env("DIORAMA_FAULT", "task=row-004")).code.is_none()).count();
    assert!((2..=4).contains(&deaths), "{deaths} deaths before the task was put aside");
    end(&mut run()).expect(3);
    for (id, outcome) in outcomes(&case.path("out")) {
        match id.as_str() {
            "row-004" => assert_eq!(outcome["code"], "poison"),
            _ => assert_eq!(outcome["status"], "done", "{id}"),
        }
    }
}

#[test]
fn a_run_killed_from_outside_again_and_again_ends_as_if_nothing_had_happened() {
    let case = Case::new();
    case.manifest(24);
    let cut = ["--batch-size", "1", "--shard-size", "2"];
    end(&mut case.run("calm", &cut)).expect(0);
    // Slow enough to be killed between any two commits.
    let slow = [&cut[..], &["--synthetic-latency", "150"]].concat();
    let committed = || tree(&case.path("out/commits")).len();
    for wanted in [1, 3, 4, 6] {
        let mut child = start(&mut case.run("out", &slow));
        until("the next commit", || committed() >= wanted);
        child.kill();
        wait(child);
    }
    assert!(committed() < 12, "the last one was not killed in the middle");
    end(&mut case.run("out", &cut)).expect(0);
    assert_eq!(outcomes(&case.path("out")), outcomes(&case.path("calm")));
    assert_eq!(pictures(&case.path("out")), pictures(&case.path("calm")));
}

#[test]
fn tasks_that_may_work_later_are_tried_in_rounds_and_no_longer() {
    let case = Case::new();
    case.manifest(6);
    let all = ["--synthetic-fail-rate", "1", "--shard-size", "4", "--retry-delay", "0"];
    let over = end(&mut case.run("out", &[&all[..], &["--max-rounds", "3", "--json"]].concat())).expect(3);
    assert_eq!((&over.json()["rounds"], &over.json()["failed"]), (&3.into(), &6.into()));
    assert_eq!(over.json()["failures"]["model_error"], 6);
    // Two shards in each of the rounds 0 to 3.
    assert_eq!(tree(&case.path("out/commits")).len(), 8);
}
