//! `make soak`: a fleet of its own, a great many synthetic tasks, a random part struck every few seconds, and the proof
//! that nothing was lost or doubled. Ends when its standard input does, and leaves nothing behind.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for people who type `make soak`")]

use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use diorama_tests::soak::{self, Options};

/// The value of an environment variable, where it is set to anything.
fn variable<T: FromStr>(name: &str, default: T) -> T {
    match std::env::var(name).ok().filter(|text| !text.is_empty()) {
        None => default,
        Some(text) => text.parse().unwrap_or_else(|_| {
            eprintln!(
                "{name}={text:?} cannot be read; write for example make soak TASKS=1000000 SEED=7 KILL_EVERY=2.5"
            );
            std::process::exit(2)
        }),
    }
}

fn main() -> ExitCode {
    let options = Options {
        tasks: variable("TASKS", 1_000_000),
        runs: variable("RUNS", 10),
        shard_size: variable("SHARD_SIZE", 64),
        workers: variable("WORKERS", 4),
        latency: Duration::ZERO,
        seed: variable("SEED", fastrand::u64(..1_000_000)),
        strike_every: Duration::from_secs_f64(variable("KILL_EVERY", 3.0)),
        broker_kills: None,
        logs: std::env::var_os("SOAK_LOGS").filter(|folder| !folder.is_empty()).map(PathBuf::from),
    };
    println!("soak: SEED={} (the same seed strikes the same parts in the same order)", options.seed);
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    std::thread::spawn(move || {
        // Whoever started us holds the other end: however it dies, this ends.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        stopped.store(true, Ordering::Release);
    });
    let program = std::env::current_exe().expect("this program has a path");
    let Some(report) = soak::run(&soak::programs_beside(&program), &options, &stop) else {
        eprintln!("soak: stopped before the end; nothing is proven");
        return ExitCode::from(130);
    };
    print!("{report}");
    if report.faults().is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
