//! Deterministic simulation: two coordinators with their APIs and three workers on a simulated store, queue and progress
//! service, in paused time, with a seed for every choice. Calls get lost, late or refused; nodes die, freeze past their
//! lease and go on; messages and keys vanish; and all the while somebody submits, pauses, cancels, retries, deletes,
//! repairs. Then the weather clears, and every run must end, with exactly one outcome a task, and nothing may have
//! changed that had ended.
//!
//! `SEED=7 cargo test … --test simulation` runs that one; `SEEDS=1000` so many.

#![allow(clippy::unwrap_used, reason = "a test")]

mod checker;
mod fleet;
mod store;
mod worker;

use std::time::Instant;

/// Seeds of an ordinary test run.
const SEEDS: u64 = 40;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn whatever_happens_every_run_ends_once_and_stays_as_it_ended() {
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(SEEDS),
    };
    let (began, count) = (Instant::now(), seeds.end - seeds.start);
    let mut broken = Vec::new();
    for seed in seeds {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        if let Err(problem) = runtime.block_on(fleet::story(seed)) {
            broken.push(format!("SEED={seed}: {problem}"));
        }
    }
    println!("{count} seeds in {:.1} s", began.elapsed().as_secs_f64());
    assert!(broken.is_empty(), "{} of {count} seeds are broken:\n{}", broken.len(), broken.join("\n"));
}
