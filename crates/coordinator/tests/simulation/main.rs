//! A simulation: two coordinators with their APIs and three workers on a simulated store, queue and progress
//! service, in paused time, with a seed for every choice. Calls get lost, late or refused; nodes die, freeze past their
//! lease and go on; messages and keys vanish; and all the while somebody submits, pauses, cancels, retries, deletes,
//! repairs. Then the weather clears, and every run must end, with exactly one outcome a task, and nothing may have
//! changed that had ended.
//!
//! `SEED=7 cargo test … --test simulation` runs that one; `SEEDS=1000` so many. A seed repeats every choice; what the
//! threads for blocking files add to the order of things it does not, so a rare story may need a few tries.

#![allow(clippy::unwrap_used, reason = "a test")]

mod checker;
mod fleet;
mod store;
mod worker;

use std::time::Instant;

use diorama_protocol::mutant::{Mutant, put_back};

/// Seeds of an ordinary test run.
const SEEDS: u64 = 40;

/// Seeds within which a fault that is put back is found.
const FOUND_WITHIN: u64 = 150;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn tell(seed: u64) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(fleet::story(seed)).map_err(|problem| format!("SEED={seed}: {problem}"))
}

#[test]
fn whatever_happens_every_run_ends_once_and_stays_as_it_ended() {
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(SEEDS),
    };
    let (began, count) = (Instant::now(), seeds.end - seeds.start);
    let broken: Vec<String> = seeds.filter_map(|seed| tell(seed).err()).collect();
    println!("{count} seeds in {:.1} s", began.elapsed().as_secs_f64());
    assert!(broken.is_empty(), "{} of {count} seeds are broken:\n{}", broken.len(), broken.join("\n"));
}

#[test]
fn each_fault_that_was_there_is_found_when_it_is_put_back() {
    let mut missed = Vec::new();
    for mutant in Mutant::ALL {
        put_back(Some(mutant));
        let found = (0..FOUND_WITHIN).find_map(|seed| tell(seed).err());
        put_back(None);
        match found {
            Some(found) => println!("{mutant:?}: {}", found.chars().take(200).collect::<String>()),
            None => missed.push(mutant),
        }
    }
    assert!(missed.is_empty(), "{missed:?} are back, each by itself, and {FOUND_WITHIN} seeds do not find them");
}
