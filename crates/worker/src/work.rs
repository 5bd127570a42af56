//! What the parallel parts of an attempt share: its tasks, and where its files go.

use std::sync::Arc;

use diorama_core::id::{AttemptId, Sha256Hex, ShardId};
use diorama_core::run::{ModelIdentity, RunSpec};
use diorama_core::task::Task;
use diorama_protocol::RunStore;

use crate::hold::Hold;
use crate::reference::References;
use crate::sink::Sink;

/// An attempt on a shard.
pub(crate) struct Work {
    pub(crate) id: ShardId,
    pub(crate) attempt: AttemptId,
    pub(crate) spec: Arc<RunSpec>,
    /// The digest of the spec's settings.
    pub(crate) settings: Sha256Hex,
    /// What makes and measures its pictures.
    pub(crate) model: ModelIdentity,
    pub(crate) tasks: Vec<Task>,
    /// `variants[position][variant]`: the task, then its comparisons.
    pub(crate) variants: Vec<Vec<Task>>,
    pub(crate) store: RunStore,
    pub(crate) references: References,
    pub(crate) sink: Sink,
    pub(crate) hold: Arc<Hold>,
}
