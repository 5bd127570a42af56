//! What a coordinator asks of the object store, and how long it takes, where runs are large or many: the real service and
//! the real API over a store in memory that takes a while for each request. Time is tokio's and stands still while anybody
//! works, so waits are exact and cost nothing; the CPU is measured beside them.
//!
//! `make bench-scale` runs all of it and writes the table in docs/benchmarks-fleet.md; arguments choose parts, and a
//! number how many tasks the shards of the largest run have.

#![allow(clippy::unwrap_used, reason = "a benchmark stops where anything is not as it should be")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints what it measured")]

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
    let given: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let (sizes, asked): (Vec<_>, Vec<_>) = given.into_iter().partition(|argument| argument.parse::<u32>().is_ok());
    let tasks_a_shard = sizes.last().and_then(|size| size.parse().ok()).unwrap_or(64);
    if let Some(unknown) = asked.iter().find(|part| !PARTS.contains(&part.as_str())) {
        eprintln!("{unknown:?} is no part: they are {}", PARTS.join(", "));
        return std::process::ExitCode::from(2);
    }
    let mut report = Report::default();
    for part in PARTS.into_iter().filter(|part| asked.is_empty() || asked.iter().any(|asked| asked == part)) {
        match part {
            "lists" => lists::measure(&mut report).await,
            "idle" => lists::idle(&mut report).await,
            "takeover" => large::takeover(&mut report, tasks_a_shard).await,
            "cancel" => large::cancel(&mut report, tasks_a_shard).await,
            "end" => large::end(&mut report, tasks_a_shard).await,
            "fairness" => fairness::measure(&mut report).await,
            _ => stop::measure(&mut report).await,
        }
    }
    if report.print() { std::process::ExitCode::SUCCESS } else { std::process::ExitCode::FAILURE }
}
