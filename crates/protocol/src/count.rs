//! What a marker adds to the counts of its run.

use diorama_backends::progress::{Counts, Progress, ProgressError, RECENT_FAILURES};
use diorama_core::id::{RunId, ShardId};
use diorama_core::marker::{CommitMarker, Tally};
use diorama_core::outcome::{ErrorCode, Outcome, TaskOutcome};
use diorama_core::round::RoundInfo;
use diorama_core::run::AcceptanceCounts;

/// What a marker adds. A failure counts as `retrying` where it may be tried again and its round is not the last one that
/// it may go into.
pub fn counts_of(marker: &CommitMarker, last_round: u32) -> Counts {
    counts(marker.shard, &Tally::from(marker), last_round)
}

fn counts(shard: ShardId, tally: &Tally, last_round: u32) -> Counts {
    let AcceptanceCounts { accepted, kept, tries } = tally.acceptance;
    let device_ms = (tally.device_seconds.max(0.0) * 1000.0).round() as u64;
    let mut counts = Counts { shards: 1, done: tally.done, accepted, kept, tries, device_ms, ..Counts::default() };
    for outcome in &tally.failed {
        match &outcome.outcome {
            Outcome::Done { .. } => {}
            Outcome::Failed(error) if error.retryable && shard.round.0 < last_round => counts.retrying += 1,
            Outcome::Failed(_) => counts.failed += 1,
        }
    }
    counts
}

/// What a shard adds that an ending left out: its tasks have failed for good.
pub fn counts_of_void(round: &RoundInfo, index: u32, shard_size: u32) -> Counts {
    let before = u64::from(index) * u64::from(shard_size.max(1));
    let tasks = round.tasks.saturating_sub(before).min(u64::from(shard_size.max(1)));
    Counts { shards: 1, failed: tasks, ..Counts::default() }
}

/// Tells `progress` of a committed shard: what its marker adds to the counts, its failures. `last_round` is that of
/// [`counts_of`]. Whether it was new.
pub async fn count_marker(
    progress: &dyn Progress,
    run: &RunId,
    marker: &CommitMarker,
    last_round: u32,
) -> Result<bool, ProgressError> {
    count_tally(progress, run, Tally::from(marker), last_round).await
}

/// The same of a marker of which only that was read.
pub async fn count_tally(
    progress: &dyn Progress,
    run: &RunId,
    tally: Tally,
    last_round: u32,
) -> Result<bool, ProgressError> {
    let counts = counts(tally.shard, &tally, last_round);
    progress.commit(run, tally.shard, counts, &worth_showing(tally.failed)).await
}

/// The failures that are worth showing, at most [`RECENT_FAILURES`]: those of tasks that were tried.
fn worth_showing(mut failed: Vec<TaskOutcome>) -> Vec<TaskOutcome> {
    failed.retain(|outcome| match &outcome.outcome {
        Outcome::Failed(error) => error.code != ErrorCode::Cancelled,
        Outcome::Done { .. } => false,
    });
    failed.drain(..failed.len().saturating_sub(RECENT_FAILURES));
    failed
}
