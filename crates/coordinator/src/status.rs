//! How a run of a shared store stands, from the services alone: any coordinator can say, whoever drives it.

use diorama_backends::Backends;
use diorama_backends::progress::{ProgressError, THROUGHPUT_SECONDS, Throughput};
use diorama_backends::run_store::RunStore;
use diorama_core::id::{Pool, RunId};
use diorama_core::round::RoundInfo;
use diorama_core::run::{RunSpec, RunState, RunSummary};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::CoordinatorError;
use crate::reopen::ending;
use crate::rounds;
use crate::watch::retrying;

/// The rate is taken over this many seconds.
const RATE_SECONDS: i64 = 60;

/// How a run stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunStatus {
    /// The run.
    pub run: RunId,
    /// What its owner calls it.
    pub name: Option<String>,
    /// The pool that does the work.
    pub pool: Pool,
    /// Running, paused, cancelled or finished; a run is `cancelled` as soon as that was asked for.
    pub state: RunState,
    /// Why it is paused, where that was not its owner's wish.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// When it was submitted.
    pub submitted_at: Timestamp,
    /// Valid rows.
    pub tasks: u64,
    /// Rows that were refused and skipped.
    pub invalid_rows: u64,
    /// Pictures committed.
    pub done: u64,
    /// Pictures made of shards that are not committed yet.
    pub in_work: u64,
    /// Tasks that failed for good.
    pub failed: u64,
    /// Tasks that failed and will be, or are being, tried again.
    pub retrying: u64,
    /// The round that is under way: 0, then rounds of retries.
    pub round: u32,
    /// Shards that workers hold.
    pub shards_running: u64,
    /// Over the last minute; `None` where nothing was made in it.
    pub pictures_per_second: Option<f64>,
    /// Seconds until the rest is done at this rate.
    pub eta_seconds: Option<f64>,
    /// How it ended, once it has.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub summary: Option<RunSummary>,
}

/// Reads how the run in `store` stands.
pub async fn status(backends: &Backends, store: &RunStore, spec: &RunSpec) -> Result<RunStatus, CoordinatorError> {
    let mut status = RunStatus {
        run: spec.run.clone(),
        name: spec.name.clone(),
        pool: spec.pool.clone(),
        state: RunState::Running,
        reason: None,
        submitted_at: spec.submitted_at,
        tasks: spec.tasks,
        invalid_rows: spec.invalid_rows,
        done: 0,
        in_work: 0,
        failed: 0,
        retrying: 0,
        round: 0,
        shards_running: 0,
        pictures_per_second: None,
        eta_seconds: None,
        summary: None,
    };
    if let Some(summary) = ending(store).await? {
        status.state = summary.state;
        (status.done, status.failed, status.round) = (summary.done, summary.failed, summary.rounds);
        status.summary = Some(summary);
        return Ok(status);
    }
    let control = store.control().await?;
    (status.state, status.reason) = (control.state, control.reason);
    if let Some(round) = rounds::all(store).await?.pop() {
        status.round = round.round.0;
        live(backends, &mut status, &round).await?;
    }
    Ok(status)
}

async fn live(backends: &Backends, status: &mut RunStatus, round: &RoundInfo) -> Result<(), ProgressError> {
    let (progress, run) = (&backends.progress, &status.run);
    let (counts, holders) = (progress.counts(run).await?, progress.holders(run).await?);
    let throughput = progress.throughput(run).await?;
    status.done = counts.done;
    status.in_work = holders.iter().map(|(_, holder)| holder.done).sum();
    status.failed = round.failed(counts.failed);
    let left = status.tasks.saturating_sub(counts.done + status.failed);
    status.retrying = retrying(left, counts, round);
    status.shards_running = holders.len() as u64;
    status.pictures_per_second = rate(&throughput, Timestamp::now().as_second());
    status.eta_seconds = status.pictures_per_second.map(|rate| left as f64 / rate);
    Ok(())
}

/// Pictures a second over the last minute; `None` where there are none.
fn rate(throughput: &[Throughput], now: i64) -> Option<f64> {
    let recent = || throughput.iter().filter(|interval| interval.at + THROUGHPUT_SECONDS > now - RATE_SECONDS);
    let since = recent().next()?.at.max(now - RATE_SECONDS);
    let done: u64 = recent().map(|interval| interval.done).sum();
    (done > 0).then(|| done as f64 / (now - since).max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_minute() {
        let interval = |at, done| Throughput { at, done };
        assert_eq!(rate(&[], 1000), None);
        assert_eq!(rate(&[interval(100, 50)], 1000), None, "long ago");
        assert_eq!(rate(&[interval(980, 50), interval(990, 50)], 1000), Some(5.0));
        let hour: Vec<_> = (0..360).map(|index| interval(index * 10, 20)).collect();
        assert_eq!(rate(&hour, 3600), Some(2.0));
    }
}
