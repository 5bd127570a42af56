//! Progress: counts, who holds what, heartbeats, recent failures. For people and for the pump's window, never the truth:
//! all of it can be lost at any time and is rebuilt from the commit markers.
//!
//! A shard's counts are added only when its bit goes from 0 to 1, so a shard committed twice counts once.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use diorama_core::id::{AttemptId, Pool, Round, RunId, ShardId, WorkerId};
use diorama_core::marker::CommitMarker;
use diorama_core::outcome::{ErrorCode, Outcome, TaskOutcome};
use diorama_core::run::ModelIdentity;
use serde::{Deserialize, Serialize};

use crate::kind::{Cause, ErrorKind};

#[cfg(any(test, feature = "testing"))]
#[allow(clippy::unwrap_used, reason = "a suite panics where a guarantee is broken")]
pub mod conformance;
pub mod embedded;
pub mod redis;

/// A failed operation on the progress.
#[derive(Debug, thiserror::Error)]
#[error("{doing} failed: {problem}")]
pub struct ProgressError {
    kind: ErrorKind,
    /// What was being done.
    pub doing: &'static str,
    /// What went wrong and how to mend it.
    pub problem: String,
    /// The error below, where there is one.
    #[source]
    cause: Option<Cause>,
}

impl ProgressError {
    /// An error that nothing below caused; [`Self::caused_by`] adds what did.
    pub fn new(kind: ErrorKind, doing: &'static str, problem: impl Into<String>) -> Self {
        Self { kind, doing, problem: problem.into(), cause: None }
    }

    /// The same, with the error that caused it.
    #[must_use]
    pub fn caused_by(self, cause: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self { cause: Some(Arc::new(cause)), ..self }
    }

    /// What it calls for.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        self.kind.is_retryable()
    }
}

/// The outcomes of a shard, or of a run, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Shards committed.
    pub shards: u64,
    /// Tasks with a picture.
    pub done: u64,
    /// Tasks that failed for good.
    pub failed: u64,
    /// Tasks that failed and go into the next round.
    pub retrying: u64,
}

impl Counts {
    /// What a marker adds. A failure counts as `retrying` where it may be tried again and its round is not the last one
    /// that it may go into.
    pub fn of(marker: &CommitMarker, last_round: u32) -> Self {
        let mut counts = Self { shards: 1, ..Self::default() };
        for outcome in &marker.outcomes {
            match &outcome.outcome {
                Outcome::Done { .. } => counts.done += 1,
                Outcome::Failed(error) if error.retryable && marker.shard.round.0 < last_round => counts.retrying += 1,
                Outcome::Failed(_) => counts.failed += 1,
            }
        }
        counts
    }

    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        Self {
            shards: self.shards + other.shards,
            done: self.done + other.done,
            failed: self.failed + other.failed,
            retrying: self.retrying + other.retrying,
        }
    }
}

/// Which shards of a round are committed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ShardSet {
    bits: Vec<u8>,
}

impl ShardSet {
    /// Whether the shard with this index is in the set.
    pub fn contains(&self, index: u32) -> bool {
        self.bits.get(index as usize / 8).is_some_and(|byte| byte & (0x80 >> (index % 8)) != 0)
    }

    /// Puts a shard in; whether it was not there before.
    pub fn insert(&mut self, index: u32) -> bool {
        let byte = index as usize / 8;
        if self.bits.len() <= byte {
            self.bits.resize(byte + 1, 0);
        }
        let bit = 0x80 >> (index % 8);
        let new = self.bits[byte] & bit == 0;
        self.bits[byte] |= bit;
        new
    }

    /// How many shards are in the set.
    pub fn len(&self) -> u64 {
        self.bits.iter().map(|byte| u64::from(byte.count_ones())).sum()
    }

    /// Whether no shard is in the set.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A worker at work on a shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The worker.
    pub worker: WorkerId,
    /// Its attempt.
    pub attempt: AttemptId,
    /// Pictures it has made of this shard so far, not committed.
    pub done: u64,
    /// Tasks of this shard that failed so far.
    pub failed: u64,
}

/// A sign of life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The worker.
    pub worker: WorkerId,
    /// The pool that it serves.
    pub pool: Pool,
    /// What it does: `idle`, `working`, `draining`.
    pub state: String,
    /// The model it serves, by its folder's name.
    pub model: String,
    /// The same, as runs are bound to it.
    pub identity: ModelIdentity,
    /// Its device.
    pub device: String,
    /// Pictures that it committed since it started.
    pub done: u64,
}

/// Pictures made in one interval of [`THROUGHPUT_SECONDS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Throughput {
    /// When the interval began, in seconds since 1970; a multiple of [`THROUGHPUT_SECONDS`].
    pub at: i64,
    /// Pictures committed in it.
    pub done: u64,
}

/// The length of an interval of the throughput, in seconds.
pub const THROUGHPUT_SECONDS: i64 = 10;

/// How many intervals of throughput a run keeps: the last hour.
pub const THROUGHPUT_INTERVALS: usize = 360;

/// How many recent failures a run keeps.
pub const RECENT_FAILURES: usize = 100;

/// Tells `progress` of a committed shard: what its marker adds to the counts, its failures. `last_round` is that of
/// [`Counts::of`]. Whether it was new.
pub async fn count_marker(
    progress: &dyn Progress,
    run: &RunId,
    marker: &CommitMarker,
    last_round: u32,
) -> Result<bool, ProgressError> {
    progress.commit(run, marker.shard, Counts::of(marker, last_round), &failures(marker)).await
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

/// What everybody may look at.
#[async_trait]
pub trait Progress: Send + Sync {
    /// Sets the shard's bit; where it was 0, adds `counts` to the run's, its pictures to the throughput of this
    /// moment and `failures` to the run's recent ones, and forgets the shard's holder, all in one step. Whether it was
    /// 0: false too where our own first try did all that and only its answer was lost.
    async fn commit(
        &self,
        run: &RunId,
        shard: ShardId,
        counts: Counts,
        failures: &[TaskOutcome],
    ) -> Result<bool, ProgressError>;

    /// The committed shards of a round.
    async fn committed(&self, run: &RunId, round: Round) -> Result<ShardSet, ProgressError>;

    /// The run's counts.
    async fn counts(&self, run: &RunId) -> Result<Counts, ProgressError>;

    /// Says, or says again, that `holder` works on the shard; forgotten after `ttl`, and refused once the shard is
    /// committed.
    async fn hold(&self, run: &RunId, shard: ShardId, holder: &Holder, ttl: Duration) -> Result<(), ProgressError>;

    /// Says that this attempt no longer works on the shard.
    async fn release(&self, run: &RunId, shard: ShardId, attempt: &AttemptId) -> Result<(), ProgressError>;

    /// Who works on what.
    async fn holders(&self, run: &RunId) -> Result<Vec<(ShardId, Holder)>, ProgressError>;

    /// A sign of life, forgotten after `ttl`.
    async fn heartbeat(&self, heartbeat: &Heartbeat, ttl: Duration) -> Result<(), ProgressError>;

    /// The workers that gave a sign of life, by name.
    async fn workers(&self) -> Result<Vec<Heartbeat>, ProgressError>;

    /// The latest failures, newest first, at most [`RECENT_FAILURES`].
    async fn recent_failures(&self, run: &RunId) -> Result<Vec<TaskOutcome>, ProgressError>;

    /// Pictures by interval, oldest first, at most [`THROUGHPUT_INTERVALS`]; intervals without any are left out.
    async fn throughput(&self, run: &RunId) -> Result<Vec<Throughput>, ProgressError>;

    /// For a store that ignores the condition of a conditional put: the one attempt that may write the shard's marker.
    /// That is `attempt`, unless another one was claimed less than `ttl` ago. Asking again renews.
    async fn claim(
        &self,
        run: &RunId,
        shard: ShardId,
        attempt: &AttemptId,
        ttl: Duration,
    ) -> Result<AttemptId, ProgressError>;

    /// Takes or renews the lease `name` for `owner`; false where another owner has it and renewed it less than its
    /// `ttl` ago. A lease saves double work; safety never depends on it.
    async fn lease(&self, name: &str, owner: &str, ttl: Duration) -> Result<bool, ProgressError>;

    /// Gives the lease up, where `owner` has it.
    async fn release_lease(&self, name: &str, owner: &str) -> Result<(), ProgressError>;

    /// Forgets everything about the run, before it is rebuilt.
    async fn forget(&self, run: &RunId) -> Result<(), ProgressError>;

    /// Forgets everything about the run `after` this long, because it has ended.
    async fn expire(&self, run: &RunId, after: Duration) -> Result<(), ProgressError>;
}
