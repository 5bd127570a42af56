//! The three services a run stands on, each as a trait with an embedded implementation: the queue that hands out
//! shards, the progress that everybody may look at, and the objects that are the truth.
//!
//! Each trait has one conformance suite, run against every implementation. Nothing here knows what a shard does.

use std::sync::Arc;

pub mod fault;
pub mod objects;
pub mod progress;
pub mod queue;
pub mod run_store;

use crate::objects::Objects;
use crate::progress::Progress;
use crate::queue::Queue;

/// The services, as a coordinator or a worker holds them.
#[derive(Clone)]
pub struct Backends {
    /// Hands out shards.
    pub queue: Arc<dyn Queue>,
    /// Counts, holders and heartbeats; can be rebuilt from the objects.
    pub progress: Arc<dyn Progress>,
    /// The truth.
    pub objects: Arc<dyn Objects>,
}
