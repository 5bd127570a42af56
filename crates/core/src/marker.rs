//! The commit marker: the one small object whose existence means "this shard is done", written once.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::{AttemptId, RunId, Sha256Hex, ShardId, WorkerId};
use crate::outcome::TaskOutcome;
use crate::run::{ModelIdentity, RunSpec};

/// What a worker commits: which archive counts, and the outcome of every task of the shard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CommitMarker {
    /// The format of this marker: 2.
    pub version: u32,
    /// The run.
    pub run: RunId,
    /// The shard.
    pub shard: ShardId,
    /// The delivery that won.
    pub attempt: AttemptId,
    /// The worker that won.
    pub worker: WorkerId,
    /// The model that made its pictures; none where the coordinator committed failures.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub model: Option<ModelIdentity>,
    /// The digest of the run's settings, as [`settings_digest`] makes it.
    pub settings: Sha256Hex,
    /// The archives that hold its pictures: this attempt's, and those of earlier ones that handed the shard back. None in
    /// files format and where no task made a picture.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub archives: Vec<ArchiveRef>,
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

/// What an attempt had finished of its shard when it handed it back: whoever goes on makes the rest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// The format of this part: 1.
    pub version: u32,
    /// The run.
    pub run: RunId,
    /// The shard.
    pub shard: ShardId,
    /// The attempt that made it.
    pub attempt: AttemptId,
    /// The model that made its pictures; a worker with another one makes them again.
    pub model: ModelIdentity,
    /// As in [`CommitMarker::settings`].
    pub settings: Sha256Hex,
    /// The archive that holds them; none in files format.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub archive: Option<ArchiveRef>,
    /// Outcomes of tasks with a picture, in the shard's order.
    pub outcomes: Vec<TaskOutcome>,
    /// Seconds that the model ran for them.
    pub device_seconds: f64,
}

/// SHA-256 over what of a run's spec decides its pixels, besides the model and the tasks: its settings and the methods
/// that it is compared with.
pub fn settings_digest(spec: &RunSpec) -> Sha256Hex {
    // Plain data with string keys: this cannot fail.
    Sha256Hex::of(&serde_json::to_vec(&(&spec.settings, &spec.compare)).unwrap_or_default())
}
