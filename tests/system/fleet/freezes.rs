//! Every step of the protocol is a place to stand still: workers, leaders and those who answer the API stop there, for
//! longer than any lease or heartbeat, while others take over, and then go on as if no time had passed.

use std::fs;
use std::io::Read;
use std::thread::JoinHandle;

use diorama_tests::children::PATIENCE;
use diorama_tests::http;
use diorama_tests::services::free_port;

use super::{Fleet, Member, ask, leads, points};
use crate::case::{start, tree, until, wait};

/// Only a worker that hands its shard back passes it.
const AFTER_PART: &str = "worker.after-part";

/// A coordinator that stands still, or will.
struct Coordinator {
    point: &'static str,
    address: String,
    member: Member,
}

impl Coordinator {
    /// Starts one that stands still when it passes `point`; it answers when this returns.
    fn start(fleet: &Fleet, point: &'static str) -> Self {
        let address = format!("127.0.0.1:{}", free_port());
        let mut command = fleet.serving(&address);
        command.env("DIORAMA_FREEZE", point);
        let member = fleet.start(command);
        until("the coordinator answers", || leads(&address).is_some());
        Self { point, address, member }
    }

    /// The same, and waits until it drives the runs.
    fn leading(fleet: &Fleet, point: &'static str) -> Self {
        let coordinator = Self::start(fleet, point);
        // It may stand still as soon as it does.
        let is_there = || coordinator.member.is_frozen() || leads(&coordinator.address) == Some(true);
        until("the coordinator leads", is_there);
        coordinator
    }

    fn until_frozen(&self) {
        self.member.until_frozen(self.point);
    }

    /// Sends a request that makes it stand still; the status of the answer that comes when it goes on.
    fn stops_at(&self, request: String) -> JoinHandle<Option<u16>> {
        let address = self.address.parse().unwrap();
        let asking = std::thread::spawn(move || Some(http::send(address, &request, PATIENCE)?.0));
        self.until_frozen();
        asking
    }
}

/// Lets all of them go on at once; each finds that it is late, and ends as it should.
fn go_on(frozen: Vec<Coordinator>, fleet: &Fleet) {
    frozen.iter().for_each(|coordinator| coordinator.member.go_on());
    for coordinator in &frozen {
        until("the late one steps back", || leads(&coordinator.address) == Some(false));
    }
    assert_eq!(leads(&fleet.coordinator), Some(true), "somebody took the lease from who has it");
    for Coordinator { point, member, .. } in frozen {
        member.ends_in_good_order(point);
    }
}

#[test]
fn workers_that_stand_still_at_every_step_for_longer_than_their_heartbeats_change_nothing_when_they_go_on() {
    const ROWS: usize = 320;
    let fleet = Fleet::new();
    let _coordinator = fleet.serve();
    for (format, nth, other) in
        [("webdataset", 1, "worker.after-half-of-the-files"), ("files", 2, "worker.after-archive")]
    {
        let passed = points(&["worker."]).into_iter().filter(|point| *point != other);
        let start = |point: &'static str, nth: u32, latency: &str| {
            let mut command = fleet.working(point, latency);
            command.env("DIORAMA_FREEZE", format!("{point}:{nth}")).env("DIORAMA_AMQP_HEARTBEAT", "1");
            fleet.start(command)
        };
        fleet.case.manifest(ROWS);
        let submit = ["submit", "rows.jsonl", "--name", format, "--shard-size", "8", "--format", format, "--json"];
        let run = fleet.run(&submit).expect(0).json()["run"].as_str().unwrap().to_owned();
        // Drained in the middle of a shard, by itself: what is in work is its own.
        let drained = start(AFTER_PART, 1, "5000");
        until("some of its shard is made", || fleet.status(&run)["in_work"] != 0);
        drained.drain();
        drained.until_frozen(AFTER_PART);
        let mut workers = vec![(AFTER_PART, drained)];
        workers.extend(passed.filter(|point| *point != AFTER_PART).map(|point| (point, start(point, nth, "20"))));
        workers.iter().for_each(|(point, worker)| worker.until_frozen(point));
        let mut next = fleet.worker("next");
        fleet.proves_whole(&run, ROWS as u64);

        workers.iter().for_each(|(_, worker)| worker.go_on());
        // They make the next run, all by themselves.
        next.kill();
        let again = fleet.submit_as(&format!("after {format}"), ROWS, &[]);
        fleet.proves_whole(&again, ROWS as u64);
        for (point, worker) in workers {
            worker.ends_in_good_order(point);
        }
        fleet.proves_whole(&run, ROWS as u64);
    }
}

#[test]
fn leaders_that_stand_still_at_every_step_of_a_run_for_longer_than_their_lease_change_nothing_when_they_go_on() {
    let mut fleet = Fleet::new();
    let mut first = fleet.serve();
    let run = fleet.submit_as("run", 40, &["--max-rounds", "1", "--retry-delay", "0"]);
    first.kill();
    // So that whoever comes next has something to publish.
    fleet.rabbitmq.purge("diorama.default");
    let mut frozen = vec![Coordinator::leading(&fleet, "pump.after-publish")];
    frozen[0].until_frozen();
    let mut worker = fleet.working("one", "5");
    worker.args(["--synthetic-fail-rate", "0.2"]);
    let _worker = fleet.start(worker);
    // Each takes over from the one before, in the order in which they are passed.
    let decisions = ["decide.before", "decide.after", "rounds.after-decision"];
    let rounds = ["rounds.before-inputs", "rounds.after-inputs"];
    let endings = [
        "finalise.before-results",
        "finalise.before-errors",
        "finalise.after-sweep",
        "finalise.before-ended",
        "finalise.after-ended",
    ];
    assert_eq!([points(&["rounds."]).len(), points(&["finalise."]).len()], [3, 5], "a point is left out");
    for point in rounds.into_iter().chain(decisions).chain(endings) {
        let coordinator = Coordinator::leading(&fleet, point);
        coordinator.until_frozen();
        frozen.push(coordinator);
    }
    fleet.coordinator = format!("127.0.0.1:{}", free_port());
    let _last = fleet.serve();
    until("the last one leads", || leads(&fleet.coordinator) == Some(true));
    let failed = fleet.proves_one_outcome_each(&run, 40);
    let status = fleet.status(&run);
    assert!(failed > 0 && status["round"] == 1, "there was no round of retries: {status}");
    go_on(frozen, &fleet);
    assert_eq!(fleet.proves_one_outcome_each(&run, 40), failed);
    assert_eq!(fleet.status(&run), status, "an ended run has changed");
}

#[test]
fn leaders_that_stand_still_while_a_run_is_cancelled_reopened_or_deleted_change_nothing_when_they_go_on() {
    let mut fleet = Fleet::new();
    let mut first = fleet.serve();
    let run = fleet.submit(40);
    first.kill();
    let mut frozen = vec![Coordinator::leading(&fleet, "ending.after-void")];
    assert!(ask(&frozen[0].address, &format!("POST /v1/runs/{run}/cancel")).is_some());
    frozen[0].until_frozen();
    frozen.push(Coordinator::leading(&fleet, "ending.after-begun"));
    frozen[1].until_frozen();

    let ends = |coordinator: &str| {
        let summary = || ask(coordinator, &format!("GET /v1/runs/{run}")).is_some_and(|it| it.contains("\"summary\""));
        until("the run ends", summary);
    };
    frozen.push(Coordinator::leading(&fleet, "reopen.after-inputs"));
    ends(&frozen[2].address);
    assert!(ask(&frozen[2].address, &format!("POST /v1/runs/{run}/retry")).is_some());
    frozen[2].until_frozen();

    let _worker = fleet.worker("one");
    frozen.push(Coordinator::leading(&fleet, "delete.after-page"));
    ends(&frozen[3].address);
    fleet.coordinator = frozen[3].address.clone();
    fleet.proves_whole(&run, 40);
    // Answered with 202, which is not what `ask` calls a good answer.
    ask(&fleet.coordinator, &format!("DELETE /v1/runs/{run}"));
    frozen[3].until_frozen();

    fleet.coordinator = format!("127.0.0.1:{}", free_port());
    let _last = fleet.serve();
    until("the last one leads", || leads(&fleet.coordinator) == Some(true));
    let folder = fleet.s3.folder();
    let index = ["submitted", "active"].map(|kind| folder.join(format!("index/{kind}/{run}")));
    let left = || {
        let of_run = tree(&folder.join("runs").join(&run));
        index.iter().filter(|key| key.exists()).count()
            + of_run.keys().filter(|key| !key.starts_with("decisions/")).count()
    };
    until("nothing of the run is left but its log", || left() == 0);
    go_on(frozen, &fleet);
    assert_eq!(fleet.run(&["status", &run]).code, Some(42));
    fleet.run(&["gc", "--grace", "0", "--yes"]).expect(0);
    assert!(left() == 0 && tree(&folder.join("runs").join(&run)).is_empty(), "somebody late left something");
}

#[test]
fn submissions_to_coordinators_that_stand_still_at_every_step_become_one_run_each() {
    let fleet = Fleet::new();
    let _leader = fleet.serve();
    until("it leads", || leads(&fleet.coordinator) == Some(true));
    let _worker = fleet.worker("one");
    let frozen: Vec<_> =
        points(&["submit.", "decide."]).into_iter().map(|point| Coordinator::start(&fleet, point)).collect();
    let senders: Vec<_> = frozen
        .iter()
        .map(|coordinator| {
            let mut sender = fleet.submitting(coordinator.point, 40, &[]);
            let sender = start(sender.env("DIORAMA_COORDINATOR", format!("http://{}", coordinator.address)));
            coordinator.until_frozen();
            sender
        })
        .collect();
    // Whoever has no answer asks somebody else.
    let runs: Vec<String> = frozen.iter().map(|coordinator| fleet.submit_as(coordinator.point, 40, &[])).collect();
    runs.iter().for_each(|run| fleet.proves_whole(run, 40));
    frozen.iter().for_each(|coordinator| coordinator.member.go_on());
    for ((sender, run), coordinator) in senders.into_iter().zip(&runs).zip(&frozen) {
        assert_eq!(wait(sender).expect(0).json()["run"], **run, "{}", coordinator.point);
    }
    let submitted = fs::read_dir(fleet.s3.folder().join("index/submitted")).unwrap().count();
    assert_eq!(submitted, runs.len(), "a run that nobody knows");
    for Coordinator { point, member, .. } in frozen {
        member.ends_in_good_order(point);
    }
    runs.iter().for_each(|run| fleet.proves_whole(run, 40));
}

#[test]
fn what_an_owner_asked_of_a_coordinator_that_stood_still_is_held_against_what_was_decided_meanwhile() {
    const ROWS: usize = 24;
    let fleet = Fleet::new();
    let _leader = fleet.serve();
    until("it leads", || leads(&fleet.coordinator) == Some(true));
    let ended = {
        let mut failing = fleet.working("failing", "5");
        failing.args(["--synthetic-fail-rate", "0.3"]);
        let _failing = fleet.start(failing);
        let ended =
            ["again", "reopened", "kept", "gone"].map(|name| fleet.submit_as(name, ROWS, &["--max-rounds", "0"]));
        for run in &ended {
            assert!(fleet.proves_one_outcome_each(run, ROWS as u64) > 0, "nothing failed");
        }
        ended
    };
    let [again, reopened, kept, gone] = &ended;
    let [late, cancelled] = ["late", "cancelled"].map(|name| fleet.submit_as(name, ROWS, &[]));
    let decide = |act: &str, run: &str| format!("POST /v1/runs/{run}/{act}");
    let delete = |run: &str| format!("DELETE /v1/runs/{run}");
    let frozen: Vec<_> = [
        ("decide.before", decide("retry", again)),
        ("reopen.after-decision", decide("retry", reopened)),
        ("decide.before", delete(kept)),
        ("delete.after-decision", delete(gone)),
        ("decide.before", decide("cancel", &late)),
        ("decide.after", decide("cancel", &cancelled)),
    ]
    .into_iter()
    .map(|(point, request)| {
        let coordinator = Coordinator::start(&fleet, point);
        let answer = coordinator.stops_at(request);
        (coordinator, answer)
    })
    .collect();

    // Another coordinator is asked meanwhile, and decides. Whoever got no answer asks again; what took place is not done twice.
    for (request, wanted) in [
        (decide("retry", again), &[200][..]),
        (decide("retry", kept), &[200]),
        (decide("pause", kept), &[200]),
        (decide("retry", reopened), &[409]),
        // Gone altogether, where the leader has heard of it by itself.
        (delete(gone), &[202, 404]),
    ] {
        let address = fleet.coordinator.parse().unwrap();
        let (status, mut body) = http::send(address, &request, PATIENCE).expect("the leader answers");
        let mut said = String::new();
        body.read_to_string(&mut said).unwrap();
        assert!(wanted.contains(&status), "{request}: {status} {said}");
    }
    let _good = fleet.worker("good");
    for run in [again, reopened, &late] {
        fleet.proves_whole(run, ROWS as u64);
    }
    assert_eq!(fleet.proves_one_outcome_each(&cancelled, ROWS as u64), ROWS as u64);
    let before = [reopened, &late, &cancelled].map(|run| fleet.status(run));

    frozen.iter().for_each(|(coordinator, _)| coordinator.member.go_on());
    let mut statuses = Vec::new();
    for (Coordinator { point, member, .. }, answer) in frozen {
        statuses.push(answer.join().unwrap());
        member.ends_in_good_order(point);
    }
    // All of `again` has worked meanwhile, `kept` goes on, `late` has finished.
    assert_eq!(statuses, [409, 200, 409, 202, 409, 200].map(Some));
    assert_eq!([reopened, &late, &cancelled].map(|run| fleet.status(run)), before, "an ended run has changed");
    assert_eq!(fleet.status(kept)["state"], "paused");
    assert!(ask(&fleet.coordinator, &decide("resume", kept)).is_some());
    for run in [again, kept] {
        fleet.proves_whole(run, ROWS as u64);
    }
    assert_eq!(fleet.run(&["status", gone]).code, Some(42));
    let of_the_gone = || tree(&fleet.s3.folder().join("runs").join(gone));
    until("nothing of the deleted run is left but its log", || {
        of_the_gone().keys().all(|key| key.starts_with("decisions/"))
    });
    fleet.run(&["gc", "--grace", "0", "--yes"]).expect(0);
    assert!(of_the_gone().is_empty(), "{:?}", of_the_gone().keys());
}
