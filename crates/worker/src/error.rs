//! What ends a worker. A task that fails, a damaged shard, a lost race for a commit do not.

use diorama_backends::blocking::{Panicked, panic_message};
use diorama_backends::objects::ObjectError;
use diorama_backends::queue::QueueError;
use tokio::task::JoinError;

use crate::device::DeviceError;

/// Why a worker stopped. The shards that it held were handed back; what is committed is kept.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The object store, or the disk that holds the references.
    #[error(transparent)]
    Objects(#[from] ObjectError),
    /// This machine's disk, on which archives are prepared: another worker may have room, so this one does not wait.
    #[error(transparent)]
    Scratch(ObjectError),
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A defect of ours.
    #[error("a task of the worker panicked: {0}; please report this")]
    Panicked(String),
}

impl From<Panicked> for WorkerError {
    fn from(Panicked(message): Panicked) -> Self {
        Self::Panicked(message)
    }
}

impl WorkerError {
    /// Whether a new worker may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Objects(error) | Self::Scratch(error) => error.may_pass_later(),
            Self::Queue(error) => error.is_retryable(),
            Self::Device(DeviceError::Lost(_) | DeviceError::Stopped) => true,
            Self::Device(DeviceError::Start(_)) | Self::Panicked(_) => false,
        }
    }
}

/// The result of a spawned task; its panic becomes an error.
pub(crate) fn flatten<T>(ended: Result<Result<T, WorkerError>, JoinError>) -> Result<T, WorkerError> {
    match ended {
        Ok(result) => result,
        Err(error) => Err(WorkerError::Panicked(match error.try_into_panic() {
            Ok(panic) => panic_message(&*panic),
            Err(error) => error.to_string(),
        })),
    }
}
