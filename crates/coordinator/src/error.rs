//! What ends the coordination of a run. Nothing of it loses what is committed.

use std::collections::BTreeMap;

use diorama_backends::objects::{ObjectError, ObjectErrorKind};
use diorama_backends::progress::ProgressError;
use diorama_backends::queue::QueueError;
use diorama_core::id::{Sha256Hex, ShardId};
use diorama_protocol::history::Refused;
use diorama_protocol::{DecideError, ProtocolError};

/// Any error of the code that gives tasks.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a run could not be submitted or brought to its end.
#[derive(Debug, thiserror::Error)]
pub enum CoordinatorError {
    /// The object store, or the local disk on which the final files are prepared.
    #[error(transparent)]
    Objects(#[from] ObjectError),
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error(transparent)]
    Progress(#[from] ProgressError),
    /// The place holds another run, or this one with other settings.
    #[error("this folder holds a different run ({}); choose another folder, or run the \
             original command", .differences.join("; "))]
    Differs {
        /// Each thing that differs: `what: A there, B requested`.
        differences: Vec<String>,
    },
    /// The manifest gave no further task.
    #[error("the manifest could not be read completely: {0}")]
    Tasks(BoxError),
    /// The manifest gave other tasks than were counted when it was checked.
    #[error(
        "the manifest has {found} tasks now, but had {counted} when it was checked; did it change? Run the command \
         again"
    )]
    TaskCount {
        /// Tasks that it was said to have.
        counted: u64,
        /// Tasks that came.
        found: u64,
    },
    /// The manifest names uploaded references that are not there.
    #[error("{count} references in the manifest are not uploaded, or no longer are ({}); upload them and send the \
             manifest again", listed(*.count, .first))]
    UnknownBlobs {
        /// How many.
        count: u64,
        /// The first of them.
        first: Vec<Sha256Hex>,
    },
    /// The manifest names uploaded references that are just being removed.
    #[error(
        "references in the manifest were uploaded long ago and are being removed right now, because no run named them"
    )]
    BlobsGoing,
    /// The rows of a shard take more memory than a worker should have for them.
    #[error("{0}")]
    TooHeavy(String),
    /// What is decided about the run already does not allow it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Failed tasks were meant that the run does not have.
    #[error("no task of this run matches; {}", failed_like(.failures))]
    NothingFailed {
        /// Its failed tasks by code.
        failures: BTreeMap<String, u64>,
    },
    /// A shard that no worker can run.
    #[error(
        "shard {shard} cannot be used: {problem}; the run cannot end. Restore the object from a backup, or submit the \
         run again"
    )]
    Unusable {
        shard: ShardId,
        /// What is wrong with it.
        problem: String,
    },
}

impl CoordinatorError {
    /// Whether one run is at fault, or what was asked of it, and no service.
    pub(crate) fn is_of_the_run(&self) -> bool {
        match self {
            Self::Objects(error) => {
                matches!(error.kind, ObjectErrorKind::Damaged | ObjectErrorKind::NotFound | ObjectErrorKind::InvalidKey)
            }
            Self::Queue(_) | Self::Progress(_) => false,
            Self::Differs { .. }
            | Self::UnknownBlobs { .. }
            | Self::BlobsGoing
            | Self::Tasks(_)
            | Self::TaskCount { .. }
            | Self::TooHeavy(_)
            | Self::Refused(_)
            | Self::NothingFailed { .. }
            | Self::Unusable { .. } => true,
        }
    }

    /// Whether the same run may go on later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Objects(error) => error.may_pass_later(),
            Self::Queue(error) => error.is_retryable(),
            Self::Progress(error) => error.is_retryable(),
            Self::BlobsGoing => true,
            Self::Differs { .. }
            | Self::UnknownBlobs { .. }
            | Self::Tasks(_)
            | Self::TaskCount { .. }
            | Self::TooHeavy(_)
            | Self::Refused(_)
            | Self::NothingFailed { .. }
            | Self::Unusable { .. } => false,
        }
    }
}

impl From<DecideError> for CoordinatorError {
    fn from(error: DecideError) -> Self {
        match error {
            DecideError::Refused(refused) => refused.into(),
            DecideError::Objects(error) => error.into(),
        }
    }
}

impl From<ProtocolError> for CoordinatorError {
    fn from(error: ProtocolError) -> Self {
        match error {
            ProtocolError::Objects(error) => error.into(),
            ProtocolError::Unusable { shard, problem } => Self::Unusable { shard, problem },
        }
    }
}

fn failed_like(failures: &BTreeMap<String, u64>) -> String {
    let failures: Vec<_> = failures.iter().map(|(code, count)| format!("{count} failed as {code}")).collect();
    if failures.is_empty() { "none failed".to_owned() } else { failures.join(", ") }
}

fn listed(count: u64, first: &[Sha256Hex]) -> String {
    let mut text = first.iter().take(3).map(|sha256| format!("blob:{sha256}")).collect::<Vec<_>>().join(", ");
    if count > 3 {
        text.push_str(" …");
    }
    text
}
