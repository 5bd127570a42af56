//! The small soak: what `make soak` does with a million tasks, with 20,000 of them.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use diorama_tests::soak::{self, Options, Programs};

use super::turns;
use crate::case::PROGRAM;

#[test]
fn runs_in_several_pools_keep_every_promise_while_everything_is_struck_and_their_owners_change_their_minds() {
    let _alone = turns::alone();
    let programs = Programs { diorama: PROGRAM.into(), s3: Path::new(env!("CARGO_BIN_EXE_diorama-s3")).to_owned() };
    let options = Options {
        tasks: 20_000,
        // Each story twice, once in each pool.
        runs: 10,
        shard_size: 64,
        workers: 4,
        // Three quarters of a minute at least: time for a blow of every kind.
        latency: Duration::from_millis(250),
        seed: 7,
        strike_every: Duration::from_millis(1200),
        broker_kills: Some(1),
        logs: None,
    };
    let report = soak::run(&programs, &options, &AtomicBool::new(false)).expect("nobody stops it");
    println!("{report}");
    assert!(report.faults().is_empty(), "{report}");
    let struck: BTreeSet<_> = report.struck.blows.keys().copied().collect();
    let all: BTreeSet<_> = soak::all_blows().collect();
    assert_eq!(struck, all, "it was over before everything was struck in every way: {report}");
    for act in ["submit", "pause", "resume", "cancel", "retry", "delete"] {
        assert!(report.acts.contains_key(act), "nobody did {act}: {report}");
    }
}
