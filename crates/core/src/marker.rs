//! The commit marker: the one small object whose existence means "this shard is done", written once.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::{AttemptId, RunId, Sha256Hex, ShardId, WorkerId};
use crate::outcome::TaskOutcome;

/// What a worker commits: which archive counts, and the outcome of every task of the shard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CommitMarker {
    /// The format of this marker: 1.
    pub version: u32,
    /// The run.
    pub run: RunId,
    /// The shard.
    pub shard: ShardId,
    /// The delivery that won.
    pub attempt: AttemptId,
    /// The worker that won.
    pub worker: WorkerId,
    /// The archive; none in files format and where no task made a picture.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub archive: Option<ArchiveRef>,
    /// One outcome a task, in the shard's order.
    pub outcomes: Vec<TaskOutcome>,
    /// When the attempt began.
    pub started_at: Timestamp,
    /// When it was committed.
    pub committed_at: Timestamp,
    /// Seconds that the model ran.
    pub device_seconds: f64,
}

/// An archive in the object store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveRef {
    /// Its key, relative to the run.
    pub key: String,
    /// The digest of its bytes.
    pub sha256: Sha256Hex,
    /// Its length.
    pub bytes: u64,
}
