//! Progress: counts, who holds what, heartbeats, recent failures, and how far a run's log is. For people, for the pump's
//! window and so that workers hear soon what was decided; never the truth: all of it can be lost at any time, as a whole
//! or in part, and is rebuilt from the objects.
//!
//! A shard's counts are added only when its bit goes from 0 to 1, so a shard committed twice counts once. Bits and counts
//! are one thing: they are lost together or not at all.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use diorama_core::id::{AttemptId, Pool, Round, RunId, ShardId, WorkerId};
use diorama_core::outcome::TaskOutcome;
use diorama_core::run::{ModelIdentity, RunState};
use diorama_core::shards::ShardSet;
use jiff::Timestamp;
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
    /// Pictures that fulfil their run's condition, where it has one.
    #[serde(default)]
    pub accepted: u64,
    /// Pictures that are kept though no try of theirs does.
    #[serde(default)]
    pub kept: u64,
    /// Pictures that were made beyond the first of each task.
    #[serde(default)]
    pub tries: u64,
}

impl Counts {
    /// The names under which a store keeps them, in the order of [`Self::numbers`].
    pub const NAMES: [&'static str; 7] = ["shards", "done", "failed", "retrying", "accepted", "kept", "tries"];

    /// All of them.
    pub fn numbers(&self) -> [u64; 7] {
        [self.shards, self.done, self.failed, self.retrying, self.accepted, self.kept, self.tries]
    }

    /// The counts of these numbers.
    pub fn of([shards, done, failed, retrying, accepted, kept, tries]: [u64; 7]) -> Self {
        Self { shards, done, failed, retrying, accepted, kept, tries }
    }

    pub fn plus(self, other: Self) -> Self {
        Self {
            shards: self.shards + other.shards,
            done: self.done + other.done,
            failed: self.failed + other.failed,
            retrying: self.retrying + other.retrying,
            accepted: self.accepted + other.accepted,
            kept: self.kept + other.kept,
            tries: self.tries + other.tries,
        }
    }
}

/// The counts of a run, and whether they are all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counted {
    pub counts: Counts,
    /// Every marker that there was has been added since the counts began; false where they were lost and are being
    /// rebuilt.
    pub complete: bool,
}

/// A nonce that the counts of a run begin with and are lost with: what was learnt of one generation says nothing of the
/// next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation(pub(crate) AttemptId);

/// How far a run's log is, as whoever wrote to it last says: so that workers need not ask the object store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Entries of the log.
    pub decisions: u64,
    /// The state that follows from them.
    pub state: RunState,
    /// Shards of the run that wait and were not begun are to make room for another run of the pool.
    #[serde(default)]
    pub gives_way: bool,
}

/// A worker at work on a shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub worker: WorkerId,
    pub attempt: AttemptId,
    /// Pictures it has made of this shard so far, not committed.
    pub done: u64,
    /// Tasks of this shard that failed so far.
    pub failed: u64,
}

/// A worker's heartbeat.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Heartbeat {
    pub worker: WorkerId,
    /// The pool that it serves.
    pub pool: Pool,
    pub state: WorkerState,
    /// The model it serves, by its folder's name.
    pub model: String,
    /// The same, as runs are bound to it.
    pub identity: ModelIdentity,
    pub device: String,
    /// Pictures that it committed since it started.
    pub done: u64,
    /// How its process does.
    #[serde(flatten, default)]
    pub vitals: Vitals,
}

/// How a worker's process does, as far as it knows.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Vitals {
    /// When it was ready to work, by its clock.
    #[serde(default)]
    pub started_at: Option<Timestamp>,
    /// Seconds that its model took to load.
    #[serde(default)]
    pub model_load_seconds: Option<f64>,
    /// The share of the last minute in which its device had a batch, 0 to 1.
    #[serde(default)]
    pub device_share: Option<f64>,
    /// Pictures that it committed a second, over the last minute.
    #[serde(default)]
    pub pictures_per_second: Option<f64>,
    /// Memory of its process that is resident, in bytes.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
}

/// What a worker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    /// It waits for a shard.
    Idle,
    /// It has one.
    Working,
    /// It takes no more and hands back what it has.
    Draining,
}

/// Pictures made lately. All times are the service's, in seconds since 1970: whose clock differs compares none of them
/// with its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Throughput {
    /// When this was read.
    pub now: i64,
    /// Oldest first; intervals without any picture are left out.
    pub intervals: Vec<Interval>,
}

/// Pictures made in one interval of [`THROUGHPUT_SECONDS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval {
    /// When it began; a multiple of [`THROUGHPUT_SECONDS`].
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

    /// The same for many shards without failures worth listing; a shard whose bit is set adds nothing.
    async fn commit_many(&self, run: &RunId, shards: &[(ShardId, Counts)]) -> Result<(), ProgressError>;

    /// The committed shards of a round.
    async fn committed(&self, run: &RunId, round: Round) -> Result<ShardSet, ProgressError>;

    /// The run's counts.
    async fn counted(&self, run: &RunId) -> Result<Counted, ProgressError>;

    /// The generation of the run's counts. Where they have none, one begins.
    async fn generation(&self, run: &RunId) -> Result<Generation, ProgressError>;

    /// Says that every marker of the run has been added to this generation of its counts, `shards` of them, until they are
    /// lost or forgotten. Where another generation began, or fewer are counted because some were lost, it says nothing.
    async fn complete(&self, run: &RunId, generation: &Generation, shards: u64) -> Result<(), ProgressError>;

    /// Says, or says again, that `holder` works on the shard; forgotten after `ttl`, and refused once the shard is
    /// committed.
    async fn hold(&self, run: &RunId, shard: ShardId, holder: &Holder, ttl: Duration) -> Result<(), ProgressError>;

    /// Says that this attempt no longer works on the shard.
    async fn release(&self, run: &RunId, shard: ShardId, attempt: &AttemptId) -> Result<(), ProgressError>;

    /// Who works on the shard.
    async fn holder(&self, run: &RunId, shard: ShardId) -> Result<Option<Holder>, ProgressError>;

    /// Who works on what.
    async fn holders(&self, run: &RunId) -> Result<Vec<(ShardId, Holder)>, ProgressError>;

    /// A heartbeat, forgotten after `ttl`.
    async fn heartbeat(&self, heartbeat: &Heartbeat, ttl: Duration) -> Result<(), ProgressError>;

    /// The workers with a recent heartbeat, by name.
    async fn workers(&self) -> Result<Vec<Heartbeat>, ProgressError>;

    /// The latest failures, newest first, at most [`RECENT_FAILURES`].
    async fn recent_failures(&self, run: &RunId) -> Result<Vec<TaskOutcome>, ProgressError>;

    /// Pictures by interval, at most [`THROUGHPUT_INTERVALS`].
    async fn throughput(&self, run: &RunId) -> Result<Throughput, ProgressError>;

    /// Says how far the run's log is. What is behind that which was said before changes nothing.
    async fn announce(&self, run: &RunId, head: &Head) -> Result<(), ProgressError>;

    /// How far the run's log is, as far as anybody said; `None` where it was lost.
    async fn head(&self, run: &RunId) -> Result<Option<Head>, ProgressError>;

    /// For a store that ignores the condition of a conditional put: the one attempt that may write the run's object
    /// `what`. That is `attempt`, unless another one claimed it less than `ttl` ago. Asking again renews. Claims outlast
    /// [`Self::forget`] and [`Self::expire`]: whoever has one may be about to write.
    async fn claim(
        &self,
        run: &RunId,
        what: &str,
        attempt: &AttemptId,
        ttl: Duration,
    ) -> Result<AttemptId, ProgressError>;

    /// Takes or renews the lease `name` for `owner`; false where another owner has it and renewed it less than its
    /// `ttl` ago. A lease saves double work; safety never depends on it.
    async fn lease(&self, name: &str, owner: &str, ttl: Duration) -> Result<bool, ProgressError>;

    /// Gives the lease up, where `owner` has it.
    async fn release_lease(&self, name: &str, owner: &str) -> Result<(), ProgressError>;

    /// Rings for the leading coordinator: there is something that it does not know of.
    async fn ring(&self) -> Result<(), ProgressError>;

    /// How often anybody rang, since the service began to count.
    async fn rung(&self) -> Result<u64, ProgressError>;

    /// Forgets everything about the run, before it is rebuilt.
    async fn forget(&self, run: &RunId) -> Result<(), ProgressError>;

    /// Forgets everything about the run `after` this long, because it has ended.
    async fn expire(&self, run: &RunId, after: Duration) -> Result<(), ProgressError>;
}
