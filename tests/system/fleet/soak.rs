//! The small soak: what `make soak` does with a million tasks, with 20,000 of them.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use diorama_tests::soak::{self, Kind, Options, Programs};

use super::turns;
use crate::case::PROGRAM;

#[test]
fn a_fleet_whose_parts_are_killed_all_the_time_loses_no_task_and_doubles_none() {
    let _alone = turns::alone();
    let programs = Programs { diorama: PROGRAM.into(), s3: Path::new(env!("CARGO_BIN_EXE_diorama-s3")).to_owned() };
    let options = Options {
        tasks: 20_000,
        shard_size: 64,
        workers: 2,
        // Half a minute at least: time for a blow of every kind.
        latency: Duration::from_millis(100),
        seed: 7,
        strike_every: Duration::from_millis(1500),
        broker_kills: Some(1),
        logs: None,
    };
    let report = soak::run(&programs, &options, &AtomicBool::new(false)).expect("nobody stops it");
    println!("{report}");
    assert!(report.faults().is_empty(), "{report}");
    let struck: BTreeSet<Kind> = report.struck.blows.keys().map(|(kind, _)| *kind).collect();
    let all = [Kind::Worker, Kind::Coordinator, Kind::RabbitMq, Kind::Redis, Kind::S3];
    assert_eq!(struck, all.into(), "the run was over before every part was struck: {report}");
}
