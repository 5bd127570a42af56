//! Whether it can help to try again: one notion of it for the queue, the progress and the objects.
//!
//! Who handles an error asks its kind and nothing else: [`ErrorKind::Transient`] is waited for, and everything else is
//! told to a person, because no waiting mends it.

use std::error::Error;
use std::sync::Arc;

/// What an error of a service calls for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Somebody has to mend something first: an address, a certificate, a password, a right, a setting of the service.
    Permanent,
    /// It may pass by itself: the service is away, starting, overloaded or failing over.
    Transient,
    /// Somebody else was faster, and it is theirs now.
    Conflict,
    /// What was asked for is not there.
    NotFound,
}

impl ErrorKind {
    /// Whether the same call may succeed later with nothing changed.
    pub fn is_retryable(self) -> bool {
        self == Self::Transient
    }
}

/// What caused an error, in the words of the library that met it. Shared, because one lost connection fails many calls.
pub type Cause = Arc<dyn Error + Send + Sync>;
