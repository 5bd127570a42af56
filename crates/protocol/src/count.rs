//! What a marker adds to the counts of its run.

use diorama_backends::progress::{Counts, Progress, ProgressError, RECENT_FAILURES};
use diorama_core::id::RunId;
use diorama_core::marker::CommitMarker;
use diorama_core::outcome::{ErrorCode, Outcome, TaskOutcome};
use diorama_core::round::RoundInfo;

/// What a marker adds. A failure counts as `retrying` where it may be tried again and its round is not the last one that
/// it may go into.
pub fn counts_of(marker: &CommitMarker, last_round: u32) -> Counts {
    let mut counts = Counts { shards: 1, ..Counts::default() };
    for outcome in &marker.outcomes {
        match &outcome.outcome {
            Outcome::Done { .. } => counts.done += 1,
            Outcome::Failed(error) if error.retryable && marker.shard.round.0 < last_round => counts.retrying += 1,
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
    progress.commit(run, marker.shard, counts_of(marker, last_round), &failures(marker)).await
}

/// The failures of a marker that are worth showing, at most [`RECENT_FAILURES`]: those of tasks that were tried.
fn failures(marker: &CommitMarker) -> Vec<TaskOutcome> {
    let shown = |outcome: &&TaskOutcome| match &outcome.outcome {
        Outcome::Failed(error) => error.code != ErrorCode::Cancelled,
        Outcome::Done { .. } => false,
    };
    let mut failures: Vec<_> = marker.outcomes.iter().filter(shown).cloned().collect();
    failures.drain(..failures.len().saturating_sub(RECENT_FAILURES));
    failures
}
