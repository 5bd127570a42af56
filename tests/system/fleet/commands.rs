//! What an owner does with a run that has ended.

use std::net::TcpStream;

use serde_json::Value;

use super::{Fleet, Member, ask, points};
use crate::case::{lines, until};

impl Fleet {
    /// A worker that fails a third of the tasks, always the same ones.
    fn failing_worker(&self) -> Member {
        let failing = ["--engine", "synthetic", "--synthetic-fail-rate", "0.3", "--heartbeat", "0.5"];
        self.start(self.command(&[&["worker", "--worker", "failing"][..], &failing].concat()))
    }

    /// A coordinator that dies when it passes `point`.
    fn serve_with_fault(&self, point: &str) -> Member {
        let mut command = self.serving(&self.coordinator);
        command.env("DIORAMA_FAULT", point);
        self.serve_as(command)
    }

    /// Submits `rows` rows of which the only worker fails some, waits for the end, and gives the run with the number
    /// that failed.
    fn ends_with_failures(&self, rows: usize) -> (String, u64) {
        let _failing = self.failing_worker();
        self.case.manifest(rows);
        let more = ["--shard-size", "8", "--max-rounds", "1", "--retry-delay", "0", "--again", "--json"];
        let submitted = self.run(&[&["submit", "rows.jsonl"][..], &more].concat()).expect(0).json();
        let run = submitted["run"].as_str().unwrap().to_owned();
        until("the run ends", || !self.status(&run)["summary"].is_null());
        let failed = self.status(&run)["failed"].as_u64().unwrap();
        assert!((1..rows as u64).contains(&failed), "{failed} of {rows} failed");
        (run, failed)
    }

    /// Waits for the end and proves that every task has its picture, by the status and by the markers.
    fn ends_whole(&self, run: &str, rows: u64) {
        until("the run ends", || !self.status(run)["summary"].is_null());
        let status = self.status(run);
        assert_eq!((&status["done"], &status["failed"]), (&rows.into(), &0.into()), "{status}");
        let verified = self.run(&["verify", run, "--json"]).expect(0).json();
        assert_eq!((&verified["done"], &verified["failed"]), (&rows.into(), &0.into()), "{verified}");
        let counts = self.run(&["reconcile", run, "--json"]).expect(0).json();
        assert_eq!((&counts["done"], &counts["failed"]), (&rows.into(), &0.into()), "{counts}");
    }
}

#[test]
fn failed_tasks_are_tried_again_by_another_worker_and_the_counters_stay_exact() {
    let fleet = Fleet::new();
    let _coordinator = fleet.serve();
    let (run, failed) = fleet.ends_with_failures(80);
    let code = |arguments: &[&str]| {
        let refused = fleet.run(&[&["retry", &run, "--json"], arguments].concat()).expect(42).json();
        (refused["status"].clone(), refused["code"].clone(), refused["detail"].as_str().unwrap().to_owned())
    };
    let (status, refusal, detail) = code(&["--where", "code=posion"]);
    assert_eq!((status, refusal), (400.into(), "unknown_code".into()));
    assert!(detail.contains("\"posion\"") && detail.contains("poison, "), "{detail}");
    let (status, refusal, detail) = code(&["--where", "code=poison"]);
    assert_eq!((status, refusal), (409.into(), "nothing_failed".into()));
    assert!(detail.contains(&format!("{failed} failed as model_error")), "{detail}");

    let again = fleet.run(&["retry", &run, "--where", "code=model_error,poison", "--json"]).expect(0).json();
    assert_eq!((&again["state"], &again["summary"]), (&"running".into(), &Value::Null), "{again}");
    let (status, refusal, detail) = code(&[]);
    assert_eq!((status, refusal), (409.into(), "not_ended".into()));
    assert!(detail.starts_with("the run is running and has not ended"), "{detail}");
    until("the failed tasks wait for a worker", || {
        let status = fleet.status(&run);
        (&status["failed"], &status["retrying"]) == (&0.into(), &failed.into())
    });
    let _worker = fleet.worker("good");
    fleet.ends_whole(&run, 80);
    fleet.run(&["results", &run, "--to", "results"]).expect(0);
    assert_eq!(lines(&fleet.case.path("results/results.jsonl")).len(), 80);
    assert_eq!(lines(&fleet.case.path("results/errors.jsonl")).len(), 0);
}

#[test]
fn a_coordinator_killed_at_any_step_of_a_reopening_leaves_the_ended_run_or_the_one_that_goes_on() {
    let fleet = Fleet::new();
    for point in points(&["reopen."]) {
        let doomed = fleet.serve_with_fault(point);
        let (run, failed) = fleet.ends_with_failures(24);
        // Sent once, by hand: the client would wait for a coordinator that answers.
        ask(&fleet.coordinator, &format!("POST /v1/runs/{run}/retry"));
        until(point, || TcpStream::connect(&fleet.coordinator).is_err());
        drop(doomed);
        let _coordinator = fleet.serve();
        let status = fleet.status(&run);
        assert_eq!((&status["summary"], &status["done"]), (&Value::Null, &(24 - failed).into()), "{point}: {status}");
        let _worker = fleet.worker("good");
        fleet.ends_whole(&run, 24);
    }
}

#[test]
fn results_of_a_run_that_goes_on_are_downloaded_where_that_is_asked_for_and_completed_later() {
    let fleet = Fleet::new();
    let _coordinator = fleet.serve();
    let run = {
        let _worker = fleet.worker("one");
        let run = fleet.submit(200);
        fleet.until_done(&run, 16);
        run
    };
    let refused = fleet.run(&["results", &run, "--to", "results"]).expect(75);
    assert!(refused.stderr.contains("--partial"), "{}", refused.stderr);
    let partial = fleet.run(&["results", &run, "--to", "results", "--partial", "--json"]).expect(0).json();
    assert_eq!(partial["complete"], false, "{partial}");
    let results = lines(&fleet.case.path("results/results.jsonl"));
    assert!((8..200).contains(&results.len()), "{} results", results.len());
    for result in &results {
        let image = result["files"]["image"]["path"].as_str().unwrap();
        assert!(fleet.case.path("results").join(image).is_file(), "{image} was not extracted");
    }
    let _worker = fleet.worker("two");
    until("the run ends", || !fleet.status(&run)["summary"].is_null());
    let all = fleet.run(&["results", &run, "--to", "results", "--json"]).expect(0).json();
    assert_eq!(all["complete"], true, "{all}");
    assert_eq!(lines(&fleet.case.path("results/results.jsonl")).len(), 200);
}

#[test]
fn a_picture_of_a_fleet_is_made_again_from_its_record_with_the_same_bytes() {
    let fleet = Fleet::new();
    let (_coordinator, _worker) = (fleet.serve(), fleet.worker("one"));
    let run = fleet.submit(8);
    let synthetic = ["--engine", "synthetic", "--json"];
    let replay = |id: &str| fleet.run(&[&["replay", &run, id][..], &synthetic].concat());
    until("the run ends", || !fleet.status(&run)["summary"].is_null());
    let again = replay("row-003").expect(0).json();
    assert_eq!((&again["same"], &again["max_difference"]), (&true.into(), &0.into()), "{again}");
    let none = replay("row-999").expect(42);
    assert!(none.stderr.contains("no picture of row-999"), "{}", none.stderr);
}

#[test]
fn a_deleted_run_leaves_nothing_whoever_dies_in_the_middle() {
    let fleet = Fleet::new();
    for point in points(&["delete."]) {
        let doomed = fleet.serve_with_fault(point);
        let (run, _) = fleet.ends_with_failures(24);
        ask(&fleet.coordinator, &format!("DELETE /v1/runs/{run}"));
        until(point, || TcpStream::connect(&fleet.coordinator).is_err());
        drop(doomed);
        let folder = fleet.s3.folder();
        let lies_there = |key: String| folder.join(key).exists();
        let _coordinator = fleet.serve();
        until("nothing of the run is left but its log", || {
            let index = ["submitted", "active"].map(|kind| format!("index/{kind}/{run}"));
            let left = crate::case::tree(&folder.join("runs").join(&run));
            !index.into_iter().any(lies_there) && left.keys().all(|key| key.starts_with("decisions/"))
        });
        assert_eq!(fleet.run(&["status", &run]).code, Some(42));
        assert!(lies_there(format!("index/deleted/{run}")));
        fleet.run(&["gc", "--grace", "0", "--yes"]).expect(0);
        assert!(!lies_there(format!("index/deleted/{run}")));
        assert!(crate::case::tree(&folder.join("runs").join(&run)).is_empty(), "the log is left");
    }
}
