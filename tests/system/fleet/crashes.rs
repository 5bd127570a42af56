//! Every step of the protocol is a place to die: a worker and a coordinator die at each of them, with the real services
//! around them, and each run ends whole. `faults.rs` does the same to the program that is all in one.

use super::{Fleet, Member, points};
use crate::case::{start, until, wait};

const ROWS: usize = 24;

/// Only a worker that hands its shard back passes it.
const AFTER_PART: &str = "worker.after-part";

/// Waits for the death that was asked for.
fn until_dead(member: &mut Member, point: &str) {
    member.until_dead();
    let log = member.logged();
    assert!(!log.contains("panicked"), "{point}: {log}");
}

#[test]
fn a_worker_killed_at_any_step_loses_no_task_and_doubles_none() {
    let fleet = Fleet::new();
    let _coordinator = fleet.serve();
    for point in points(&["worker."]).into_iter().filter(|point| *point != AFTER_PART) {
        // The second time, too: then something of the run is done already.
        for nth in [1, 2] {
            let fault = format!("{point}:{nth}");
            let mut command = fleet.working("dying", "20");
            let mut dying = fleet.start({
                command.env("DIORAMA_FAULT", &fault);
                command
            });
            let run = fleet.submit_as(&fault, ROWS, &[]);
            until_dead(&mut dying, &fault);
            let _next = fleet.worker("next");
            fleet.proves_whole(&run, ROWS as u64);
        }
    }
}

#[test]
fn a_worker_killed_when_it_has_kept_what_it_made_of_its_shard_loses_nothing_of_it() {
    let fleet = Fleet::new();
    let _coordinator = fleet.serve();
    let mut command = fleet.working("dying", "300");
    command.env("DIORAMA_FAULT", AFTER_PART);
    let mut dying = fleet.start(command);
    let run = fleet.submit(ROWS);
    until("some of the shard is made", || fleet.status(&run)["in_work"].as_u64().unwrap_or_default() > 0);
    dying.drain();
    until_dead(&mut dying, AFTER_PART);
    let _next = fleet.worker("next");
    fleet.proves_whole(&run, ROWS as u64);
}

#[test]
fn a_coordinator_killed_at_any_step_loses_no_task_and_doubles_none() {
    let fleet = Fleet::new();
    for point in points(&["submit.", "pump.", "rounds.", "finalise."]) {
        let mut dying = fleet.serving(&fleet.coordinator);
        dying.env("DIORAMA_FAULT", point);
        let mut dying = fleet.serve_as(dying);
        // Every task fails at first, so that there is a second round; it is another worker's.
        let mut failing = fleet.working("failing", "20");
        failing.args(["--synthetic-fail-rate", if point.starts_with("rounds.") { "1" } else { "0" }]);
        let mut worker = fleet.start(failing);
        let submitting = start(&mut fleet.submitting(point, ROWS, &["--retry-delay", "0"]));
        until_dead(&mut dying, point);
        if point.starts_with("rounds.") {
            worker.kill();
            worker = fleet.worker("healthy");
        }
        let _coordinator = fleet.serve();
        let run = wait(submitting).expect(0).json()["run"].as_str().unwrap().to_owned();
        fleet.proves_whole(&run, ROWS as u64);
        drop(worker);
    }
}
