//! What ends a worker. A task that fails, a damaged shard, a lost race for a commit do not.

use diorama_backends::objects::ObjectError;
use diorama_backends::queue::QueueError;

use crate::engine::EngineError;

/// Why a worker stopped. The shards that it held were handed back; what is committed is kept.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The object store, or the disk that holds the references.
    #[error(transparent)]
    Objects(#[from] ObjectError),
    /// The queue.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The device.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The local disk that archives are prepared on.
    #[error("preparing an archive in {folder} failed: {problem}; free some space or choose another folder")]
    Scratch {
        /// The folder.
        folder: String,
        /// The system's words.
        problem: String,
    },
    /// A defect of ours.
    #[error("a task of the worker panicked: {0}; please report this")]
    Panicked(String),
}

impl WorkerError {
    /// Whether a new worker may succeed with nothing changed by hand.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Objects(error) => error.is_retryable(),
            Self::Queue(error) => error.is_retryable(),
            Self::Engine(EngineError::Lost(_) | EngineError::Stopped) => true,
            Self::Engine(EngineError::Start(_)) | Self::Scratch { .. } | Self::Panicked(_) => false,
        }
    }
}
