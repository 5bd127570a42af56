//! Whatever dies in the middle of a run: the run goes on, and ends whole.

use std::time::{Duration, Instant};

use super::Fleet;
use crate::case::until;

#[test]
fn killed_workers_lose_no_task_and_double_none() {
    let fleet = Fleet::new();
    let _coordinator = fleet.serve();
    let (mut first, _second) = (fleet.worker("first"), fleet.worker("second"));
    let run = fleet.submit(400);
    for wanted in [16, 80, 160] {
        fleet.until_done(&run, wanted);
        first.kill();
        first = fleet.worker("first");
    }
    fleet.proves_whole(&run, 400);
}

#[test]
fn a_killed_coordinator_is_replaced_and_the_run_goes_on() {
    let fleet = Fleet::new();
    let mut coordinator = fleet.serve();
    let _worker = fleet.worker("one");
    let run = fleet.submit(200);
    fleet.until_done(&run, 16);
    coordinator.kill();
    let _other = fleet.serve();
    fleet.proves_whole(&run, 200);
}

#[test]
fn a_redis_that_is_emptied_in_the_middle_is_told_again() {
    let fleet = Fleet::new();
    let (_coordinator, _worker) = (fleet.serve(), fleet.worker("one"));
    let run = fleet.submit(200);
    fleet.until_done(&run, 40);
    fleet.redis.flush();
    fleet.proves_whole(&run, 200);
}

#[test]
fn a_redis_that_answers_and_takes_nothing_is_done_without() {
    let fleet = Fleet::new();
    let (_coordinator, _worker) = (fleet.serve(), fleet.worker("one"));
    let run = fleet.submit(100);
    fleet.until_done(&run, 16);
    fleet.redis.ask(&["CONFIG", "SET", "maxmemory", "1"]).unwrap();
    let begun = Instant::now();
    let other = fleet.submit_as("other", 16, &[]);
    until("both runs end", || [&run, &other].iter().all(|run| !fleet.status(run)["summary"].is_null()));
    // Whoever believes it hears of nothing, until it looks into the store all the same: after two minutes.
    assert!(begun.elapsed() < Duration::from_secs(90), "it took {:?}", begun.elapsed());
    fleet.redis.ask(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
    fleet.proves_whole(&run, 100);
    fleet.proves_whole(&other, 16);
}

#[test]
fn a_store_that_is_away_for_half_a_minute_costs_no_task() {
    let mut fleet = Fleet::new();
    let (coordinator, worker) = (fleet.serve(), fleet.worker("one"));
    let run = fleet.submit(200);
    fleet.until_done(&run, 40);
    fleet.s3.kill();
    for member in [&coordinator, &worker] {
        // Both are in the middle of it: they have tried, and wait.
        member.until_logged("the object store failed; trying again");
    }
    std::thread::sleep(Duration::from_secs(30));
    fleet.s3.start_again();
    fleet.proves_whole(&run, 200);
}

#[test]
fn a_killed_broker_costs_no_task() {
    let mut fleet = Fleet::new();
    let (_coordinator, _worker) = (fleet.serve(), fleet.worker("one"));
    let run = fleet.submit(200);
    fleet.until_done(&run, 40);
    fleet.rabbitmq.kill();
    fleet.rabbitmq.start_again();
    fleet.proves_whole(&run, 200);
}

#[test]
fn a_drained_worker_ends_within_25_seconds_even_where_the_store_is_away() {
    let mut fleet = Fleet::new();
    let _coordinator = fleet.serve();
    let run = fleet.submit(32);
    for store_is_away in [false, true] {
        // Its batch takes a minute.
        let mut worker = fleet.start(fleet.working(if store_is_away { "second" } else { "first" }, "60000"));
        until("it has two shards", || fleet.status(&run)["shards_running"] == 2);
        if store_is_away {
            fleet.s3.kill();
        }
        let asked = Instant::now();
        worker.drain();
        assert_eq!(worker.code(), Some(143), "{}", worker.logged());
        assert!(asked.elapsed() < Duration::from_secs(25), "the drain took {:?}", asked.elapsed());
        if store_is_away {
            fleet.s3.start_again();
        }
    }
    let _worker = fleet.worker("third");
    fleet.proves_whole(&run, 32);
}
