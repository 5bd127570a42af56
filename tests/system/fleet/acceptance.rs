//! Runs that measure and accept, on a fleet: what is refused, what workers do, what is counted.

use serde_json::{Value, json};

use super::{Fleet, ask};
use crate::case::{end, lines, until};

#[test]
fn a_fleet_makes_pictures_again_until_they_are_accepted_and_counts_them_everywhere() {
    let fleet = Fleet::new();
    let (_coordinator, _workers) = (fleet.serve(), [fleet.worker("one"), fleet.worker("two")]);
    let run = fleet.submit_as("picky", 32, &["--accept", "luma_mean > 130 and coverage < 0.9", "--accept-tries", "2"]);
    fleet.proves_whole(&run, 32);
    let status = fleet.status(&run);
    fleet.run(&["results", &run, "--to", "results"]).expect(0);
    let results = lines(&fleet.case.path("results/results.jsonl"));
    let with = |accepted: bool| results.iter().filter(|line| line["accepted"] == accepted).count();
    let tries: usize = results.iter().map(|line| line["tries"].as_array().unwrap().len() - 1).sum();
    let told = json!({"accepted": with(true), "kept": with(false), "tries": tries});
    assert_eq!((with(true) + with(false), &status["acceptance"]), (32, &told), "{status}");
    assert!(with(true) > 0 && with(false) > 0 && tries > 0, "{told}: the case shows nothing");
    assert_eq!(status["summary"]["acceptance"], told);
    let said = fleet.run(&["status", &run]).expect(0).stdout;
    assert!(said.contains(&format!("{} accepted, {} kept", with(true), with(false))), "{said}");
    let marker = ask(&fleet.coordinator, &format!("GET /v1/runs/{run}/tasks/0")).unwrap();
    let picture: Value = serde_json::from_str(&marker).unwrap();
    let first = results.iter().find(|line| line["task"] == 0).unwrap();
    for key in ["seed", "measures", "accepted", "tries"] {
        assert_eq!(picture["picture"][key], first[key], "{key}: {picture}");
    }
}

#[test]
fn what_cannot_be_asked_is_refused_at_submission_and_what_no_worker_can_measure_waits_for_its_owner() {
    let fleet = Fleet::new();
    let (_coordinator, _worker) = (fleet.serve(), fleet.worker("one"));
    for (arguments, expected) in [
        (&["--accept", "luma_mean >"][..], "^ a number was expected"),
        (&["--measures", "cilp"], "cilp is not a measure; did you mean clip?"),
        (&["--accept", "kid < 3"], "kid is a measure of sets"),
        (&["--measures", "clip_inside"], "row has no region"),
    ] {
        let mut submitting = fleet.submitting("refused", 4, arguments);
        let refused = end(&mut submitting).expect(42);
        assert!(refused.stderr.contains(expected), "{arguments:?}: {}", refused.stderr);
    }
    let run = fleet.submit_as("unmeasurable", 8, &["--measures", "clip"]);
    until("the run is paused", || fleet.status(&run)["state"] == "paused");
    let reason = fleet.status(&run)["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("clip needs the network clip") && reason.contains("networks"), "{reason}");
    assert_eq!(fleet.status(&run)["done"], 0);
}
