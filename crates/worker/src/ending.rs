//! How a delivery ends, and what keeps one step of an attempt from leading to the next.

use diorama_backends::objects::ObjectErrorKind;
use diorama_backends::queue::Settlement;

use crate::device::DeviceError;
use crate::error::WorkerError;

/// How a delivery ends in good order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Our marker is the one that counts.
    Committed,
    /// Another marker was there, before or first.
    AlreadyCommitted,
    /// Its round, or its run, is over or cancelled: what becomes of its tasks is decided.
    Decided,
    /// Another worker has it: it was published twice. The coordinator publishes again what nobody holds.
    HeldElsewhere,
    /// We are draining, or a service is away; somebody else will run it.
    HandedBack,
    /// Its run is paused, or makes room for another one; the coordinator publishes it again if it is wanted.
    LetGo,
    /// Its spec, log, input or marker is missing or damaged; the coordinator decides.
    DeadLettered,
}

impl Ending {
    /// Every one.
    pub(crate) const ALL: [Self; 7] = [
        Self::Committed,
        Self::AlreadyCommitted,
        Self::Decided,
        Self::HeldElsewhere,
        Self::HandedBack,
        Self::LetGo,
        Self::DeadLettered,
    ];

    /// Its label in the metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::AlreadyCommitted => "already_committed",
            Self::Decided => "decided",
            Self::HeldElsewhere => "held_elsewhere",
            Self::HandedBack => "handed_back",
            Self::LetGo => "let_go",
            Self::DeadLettered => "dead_lettered",
        }
    }

    /// What the queue is told.
    pub(crate) fn settlement(self) -> Settlement {
        match self {
            Self::Committed | Self::AlreadyCommitted | Self::Decided | Self::HeldElsewhere | Self::LetGo => {
                Settlement::Ack
            }
            Self::HandedBack => Settlement::HandBack,
            Self::DeadLettered => Settlement::DeadLetter,
        }
    }
}

/// Why a step did not lead to the next one.
#[derive(Debug)]
pub(crate) enum Interrupt {
    /// The attempt ends here, in good order.
    Ended(Ending),
    /// This worker cannot go on.
    Broken(WorkerError),
}

impl<E: Into<WorkerError>> From<E> for Interrupt {
    fn from(error: E) -> Self {
        match error.into() {
            WorkerError::Device(DeviceError::Stopped) => Self::Ended(Ending::HandedBack),
            // An object that is there but damaged is nothing that a worker can mend or retry, and it is one run's only.
            WorkerError::Objects(error) if error.kind == ObjectErrorKind::Damaged => {
                tracing::error!(%error, "the shard cannot be run");
                Self::Ended(Ending::DeadLettered)
            }
            error => Self::Broken(error),
        }
    }
}
