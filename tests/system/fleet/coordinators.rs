//! Coordinators that die at any step, and two at once.

use std::fs;
use std::time::{Duration, Instant};

use diorama_protocol::fault::POINTS;
use diorama_tests::services::free_port;

use super::{Fleet, leads};
use crate::case::{start, until, wait};

fn points(parts: &[&str]) -> Vec<&'static str> {
    let points: Vec<_> =
        POINTS.iter().copied().filter(|point| parts.iter().any(|part| point.starts_with(part))).collect();
    assert!(!points.is_empty(), "no point is called {parts:?}");
    points
}

#[test]
fn a_coordinator_killed_while_it_takes_a_submission_makes_one_run_of_the_repeated_request() {
    let fleet = Fleet::new();
    let _worker = fleet.worker("one");
    for (before, point) in points(&["submit.", "decide."]).into_iter().enumerate() {
        let mut doomed = fleet.serving(&fleet.coordinator);
        doomed.env("DIORAMA_FAULT", point);
        let mut doomed = fleet.start(doomed);
        until("the coordinator answers", || fleet.run(&["status"]).code == Some(0));
        let sender = start(&mut fleet.submitting(point, 40, &[]));
        doomed.until_dead();
        let _other = fleet.serve();
        // The sender has tried again meanwhile, with the same key.
        let run = wait(sender).expect(0).json()["run"].as_str().unwrap().to_owned();
        assert_eq!(fleet.submit_as(point, 40, &[]), run, "{point}: the same submission is another run");
        let submitted = fs::read_dir(fleet.s3.folder().join("index/submitted")).unwrap().count();
        assert_eq!(submitted, before + 1, "{point}: a run that nobody knows");
        fleet.proves_whole(&run, 40);
    }
}

#[test]
fn a_coordinator_killed_at_any_step_of_a_run_is_replaced_and_every_task_has_one_outcome() {
    let fleet = Fleet::new();
    let mut worker = fleet.working("one", "5");
    worker.args(["--synthetic-fail-rate", "0.2"]);
    let _worker = fleet.start(worker);
    for point in points(&["pump.", "rounds.", "finalise."]) {
        let mut doomed = fleet.serving(&fleet.coordinator);
        doomed.env("DIORAMA_FAULT", point);
        let mut doomed = fleet.start(doomed);
        until("the coordinator answers", || fleet.run(&["status"]).code == Some(0));
        let sender = start(&mut fleet.submitting(point, 40, &["--max-rounds", "1", "--retry-delay", "0"]));
        doomed.until_dead();
        let _other = fleet.serve();
        let run = wait(sender).expect(0).json()["run"].as_str().unwrap().to_owned();
        let failed = fleet.proves_one_outcome_each(&run, 40);
        assert!(failed > 0, "no task failed, so there was no round");
        assert_eq!(fleet.status(&run)["round"], 1);
    }
}

/// Waits until the coordinator leads; how long that took.
fn until_it_leads(coordinator: &str) -> Duration {
    let since = Instant::now();
    until("the coordinator leads", || leads(coordinator) == Some(true));
    since.elapsed()
}

#[test]
fn of_two_coordinators_both_answer_and_when_the_leader_dies_the_other_leads_within_half_a_minute() {
    let mut fleet = Fleet::new();
    let second = format!("127.0.0.1:{}", free_port());
    // With the lease that is in force where nobody chose another one.
    let serve = |address: &str| fleet.command(&["serve", "--listen", address, "--publish-again", "3"]);
    let mut first = fleet.start(serve(&fleet.coordinator));
    until_it_leads(&fleet.coordinator);
    let _second = fleet.start(serve(&second));
    until("the second one answers", || leads(&second).is_some());
    let _worker = fleet.worker("one");
    let run = fleet.submit(400);
    fleet.until_done(&run, 40);
    assert_eq!((leads(&fleet.coordinator), leads(&second)), (Some(true), Some(false)));
    first.kill();
    let took = until_it_leads(&second);
    // Ten seconds of lease on a machine that does nothing else.
    assert!(took < Duration::from_secs(15 + 15), "the other one took over after {took:?}");
    fleet.coordinator = second;
    fleet.proves_whole(&run, 400);
}

#[test]
fn a_leader_that_stands_still_loses_its_lease_and_steps_back_when_it_goes_on() {
    let fleet = Fleet::new();
    let second = format!("127.0.0.1:{}", free_port());
    let first = fleet.serve();
    until_it_leads(&fleet.coordinator);
    let other = fleet.start(fleet.serving(&second));
    until("the second one answers", || leads(&second).is_some());
    let _worker = fleet.worker("one");
    let run = fleet.submit(400);
    fleet.until_done(&run, 40);
    first.freeze();
    let took = until_it_leads(&second);
    // The lease, and the time that this takes to be seen on a busy machine; the first one is frozen all the while.
    assert!(took < Duration::from_secs(3 + 17), "the other one took over after {took:?}");
    first.go_on();
    until("the first one steps back", || leads(&fleet.coordinator) == Some(false));
    assert_eq!(leads(&second), Some(true));
    other.until_logged("this coordinator is the leader now");
    fleet.proves_whole(&run, 400);
}
