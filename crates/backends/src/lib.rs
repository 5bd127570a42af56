//! The three services a run stands on, each as a trait with an embedded implementation: the queue that hands out
//! shards, the progress that everybody may look at, and the objects that are the truth.
//!
//! Each trait has one conformance suite, run against every implementation. Nothing here knows what a shard does.

use std::sync::Arc;
use std::time::Duration;

use diorama_core::key::ObjectKey;
use diorama_core::marker::CommitMarker;

mod certificates;
pub mod diagnosis;
pub mod fault;
pub mod kind;
mod mismatch;
pub mod objects;
pub mod progress;
pub mod queue;
pub mod run_store;

use crate::objects::{ObjectError, ObjectErrorKind, Objects};
use crate::progress::Progress;
use crate::queue::Queue;
use crate::run_store::RunStore;

/// The services, as a coordinator or a worker holds them.
#[derive(Clone)]
pub struct Backends {
    /// Hands out shards.
    pub queue: Arc<dyn Queue>,
    /// Counts, holders and heartbeats; can be rebuilt from the objects.
    pub progress: Arc<dyn Progress>,
    /// The truth.
    pub objects: Arc<dyn Objects>,
    /// How a commit is made exclusive.
    pub exclusive: Exclusive,
}

/// What makes the first commit marker of a shard the only one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exclusive {
    /// The store's conditional put.
    ConditionalPut,
    /// A claim in the progress service, because the store ignores the condition. Weaker: a worker that is stopped for
    /// longer than [`CLAIM`] between its claim and its put can overwrite the marker of another one.
    Claim,
}

/// How long a claim holds without being renewed.
pub const CLAIM: Duration = Duration::from_secs(60);

impl Backends {
    /// Commits: writes the marker unless there is one. Gives the marker that counts, ours or the other's.
    pub async fn commit(&self, store: &RunStore, marker: CommitMarker) -> Result<CommitMarker, ObjectError> {
        if self.exclusive == Exclusive::ConditionalPut {
            return store.commit(marker).await;
        }
        loop {
            if let Some(winner) = store.marker(marker.shard).await? {
                return Ok(winner);
            }
            let claimed = self.progress.claim(&marker.run, marker.shard, &marker.attempt, CLAIM).await;
            let claimed = claimed.map_err(|error| {
                let kind = if error.is_retryable() { ObjectErrorKind::Transient } else { ObjectErrorKind::Refused };
                let what = store.path(&ObjectKey::Commit(marker.shard));
                ObjectError::new(kind, "claiming", what, error.to_string()).caused_by(error)
            })?;
            if claimed == marker.attempt {
                return store.commit(marker).await;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}
