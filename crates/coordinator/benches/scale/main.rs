//! What a coordinator asks of the object store, and how long it takes, where runs are large or many: the real service and
//! the real API over a store in memory that takes a while for each request. Time is tokio's and stands still while anybody
//! works, so waits are exact and cost nothing; the CPU is measured beside them.
//!
//! `make bench-scale` runs all of it and writes the table in docs/benchmarks-fleet.md; arguments choose parts.

#![allow(clippy::unwrap_used, reason = "a benchmark stops where anything is not as it should be")]

mod fairness;
mod large;
mod lists;
mod report;
mod shards;
mod stop;
mod store;
mod world;

use report::Report;

const PARTS: [&str; 7] = ["lists", "idle", "takeover", "cancel", "end", "fairness", "stop"];

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> std::process::ExitCode {
    // `cargo bench` says `--bench`.
    let asked: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let Some(unknown) = asked.iter().find(|part| !PARTS.contains(&part.as_str())) {
        eprintln!("{unknown:?} is no part: they are {}", PARTS.join(", "));
        return std::process::ExitCode::from(2);
    }
    let mut report = Report::default();
    for part in PARTS.into_iter().filter(|part| asked.is_empty() || asked.iter().any(|asked| asked == part)) {
        match part {
            "lists" => lists::measure(&mut report).await,
            "idle" => lists::idle(&mut report).await,
            "takeover" => large::takeover(&mut report).await,
            "cancel" => large::cancel(&mut report).await,
            "end" => large::end(&mut report).await,
            "fairness" => fairness::measure(&mut report).await,
            _ => stop::measure(&mut report).await,
        }
    }
    if report.print() { std::process::ExitCode::SUCCESS } else { std::process::ExitCode::FAILURE }
}
