//! A simulation: two coordinators with their APIs and three workers on a simulated store, queue and progress
//! service, in paused time, with a seed for every choice. Calls get lost, late or refused; nodes die, freeze past their
//! lease, are cut off and go on, some of them by what they run; messages, keys and references vanish; and all the while
//! somebody submits, pauses, cancels, retries, deletes, repairs. A checker follows everything that is written and every
//! answer. Then the weather clears, and every run must end, with exactly one outcome a task.
//!
//! A seed tells its story again, write by write. `SEED=7 cargo test … --test simulation` tells that one, `ALOUD=1` with
//! every write and every answer in it; `SEEDS=1000` so many.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

mod checker;
mod client;
mod fleet;
mod node;
mod progress;
mod queue;
mod story;
mod studio;
mod worker;
mod world;

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use diorama_protocol::mutant::{Mutant, put_back};

/// Seeds of an ordinary test run.
const SEEDS: u64 = 500;

/// Seeds within which a fault that is put back is found.
fn found_within(mutant: Mutant) -> u64 {
    match mutant {
        Mutant::LogIsRewritten
        | Mutant::MarkersAreRewritten
        | Mutant::FinalFilesShareNames
        | Mutant::FilesShareNames
        | Mutant::ModelIsNotChecked => 40,
        Mutant::LostStaysLost
        | Mutant::CountsOutliveBits
        | Mutant::ProgressIsNeeded
        | Mutant::DeafIsBelieved
        | Mutant::CancelIsForgotten => 150,
        Mutant::BellIsMissed
        | Mutant::BriefPauseIsMissed
        | Mutant::ClaimsAreTimeless
        | Mutant::CompleteIsTimeless
        | Mutant::RepairTakesNewRounds
        | Mutant::NobodySweeps
        | Mutant::LostAnswerIsRefusal => 500,
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Tells one story on this thread: its digest, or what was broken.
fn tell(seed: u64) -> Result<u64, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(story::story(seed)).map_err(|broken| format!("SEED={seed}: {broken}"))
}

/// Tells the stories on all cores, with `mutant` back, until as many are broken as are wanted. Those that are, by seed.
fn tell_all(seeds: Range<u64>, mutant: Option<Mutant>, wanted: usize) -> Vec<(u64, String)> {
    let (next, broken) = (AtomicU64::new(seeds.start), Mutex::new(Vec::new()));
    let found = || broken.lock().unwrap_or_else(PoisonError::into_inner);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                put_back(mutant);
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || found().len() >= wanted {
                        return;
                    }
                    if let Err(what) = tell(seed) {
                        found().push((seed, what));
                    }
                }
            });
        }
    });
    let mut broken = broken.into_inner().unwrap_or_else(PoisonError::into_inner);
    broken.sort();
    broken
}

#[test]
fn whatever_happens_every_run_ends_once_and_stays_as_it_ended() {
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(SEEDS),
    };
    let (began, count) = (Instant::now(), seeds.end - seeds.start);
    let broken: Vec<String> = tell_all(seeds, None, usize::MAX).into_iter().map(|(_, what)| what).collect();
    println!("{count} seeds in {:.1} s", began.elapsed().as_secs_f64());
    assert!(broken.is_empty(), "{} of {count} seeds are broken:\n{}", broken.len(), broken.join("\n"));
}

#[test]
fn each_fault_that_was_there_is_found_when_it_is_put_back() {
    let mut missed = Vec::new();
    let only = std::env::var("MUTANT").ok();
    for mutant in Mutant::ALL {
        if only.as_ref().is_some_and(|only| *only != format!("{mutant:?}")) {
            continue;
        }
        let within = number("SEEDS").unwrap_or(found_within(mutant));
        match tell_all(0..within, Some(mutant), 1).first() {
            Some((_, what)) => println!("{mutant:?}: {}", what.chars().take(200).collect::<String>()),
            None => missed.push((mutant, within)),
        }
    }
    assert!(missed.is_empty(), "these are back, each by itself, and so many seeds do not find them: {missed:?}");
}

#[test]
fn a_seed_tells_its_story_again() {
    for seed in 0..5 {
        assert_eq!(tell(seed), tell(seed), "SEED={seed}");
    }
}
