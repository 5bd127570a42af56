//! What can go wrong with an object: what was being done, to what, why, and how to mend it.

use std::error::Error;
use std::io;
use std::sync::Arc;

use crate::kind::{Cause, ErrorKind};

/// The kinds that callers tell apart, finer than [`ErrorKind`], to which each of them belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ObjectErrorKind {
    /// There is no such object.
    NotFound,
    /// The store does not let us.
    Permission,
    /// No space, or no quota, is left.
    DiskFull,
    /// The file system is mounted read-only.
    ReadOnly,
    /// The key could leave the store.
    InvalidKey,
    /// The object is there, but it is not what Diorama wrote.
    Damaged,
    /// The store cannot do what the protocol needs, such as hard links.
    Unsupported,
    /// A store refuses us, or we refuse it: key, bucket, region, certificate or address are not right, and no try will
    /// succeed before somebody mends that.
    Refused,
    /// A fault that may pass: an interrupted call, a time-out.
    Transient,
    /// A fault that may pass, and was tried again for as long as a call may take: only who can wait longer tries again.
    Away,
    /// The store's host has no address: a wrong name, or a name service that is away. Who connects for the first time
    /// wants to hear that at once, so it is not tried again in place, as [`Self::Transient`] is.
    UnknownHost,
    /// Anything else that the system reports.
    Io,
}

/// A failed operation on the object store.
#[derive(Debug, thiserror::Error)]
#[error("{doing} {what} failed: {problem}{}", .kind.remedy())]
pub struct ObjectError {
    pub kind: ObjectErrorKind,
    /// `reading`, `writing`, `listing` …
    pub doing: &'static str,
    /// The object's place: the file's path, or the key.
    pub what: String,
    pub problem: String,
    /// The error below, where there is one.
    #[source]
    pub cause: Option<Cause>,
}

impl From<ObjectErrorKind> for ErrorKind {
    fn from(kind: ObjectErrorKind) -> Self {
        match kind {
            ObjectErrorKind::NotFound => Self::NotFound,
            ObjectErrorKind::Transient | ObjectErrorKind::Away | ObjectErrorKind::UnknownHost => Self::Transient,
            ObjectErrorKind::Permission
            | ObjectErrorKind::DiskFull
            | ObjectErrorKind::ReadOnly
            | ObjectErrorKind::InvalidKey
            | ObjectErrorKind::Damaged
            | ObjectErrorKind::Unsupported
            | ObjectErrorKind::Refused
            | ObjectErrorKind::Io => Self::Permanent,
        }
    }
}

impl ObjectErrorKind {
    fn remedy(self) -> &'static str {
        match self {
            Self::Permission => "; give this user the right to read and write there, or choose another folder",
            Self::DiskFull => "; free some space and run the same command again: what is committed is kept",
            Self::ReadOnly => "; remount it writable or choose another folder",
            Self::Unsupported => "; choose a folder on a file system such as ext4, xfs or btrfs",
            Self::Damaged => "; restore it from a copy, or start the run over",
            Self::Away => "; it was retried",
            // Who refused knows what to do about it.
            Self::Refused | Self::NotFound | Self::InvalidKey | Self::Transient | Self::UnknownHost | Self::Io => "",
        }
    }
}

impl ObjectError {
    /// An error that nothing below caused; [`Self::caused_by`] adds what did.
    pub fn new(
        kind: ObjectErrorKind,
        doing: &'static str,
        what: impl Into<String>,
        problem: impl Into<String>,
    ) -> Self {
        Self { kind, doing, what: what.into(), problem: problem.into(), cause: None }
    }

    /// The same, with the error that caused it.
    #[must_use]
    pub fn caused_by(self, cause: impl Error + Send + Sync + 'static) -> Self {
        Self { cause: Some(Arc::new(cause)), ..self }
    }

    /// An error of the file system.
    pub fn io(doing: &'static str, what: impl Into<String>, error: &io::Error) -> Self {
        use io::ErrorKind as K;
        let kind = match error.kind() {
            K::NotFound => ObjectErrorKind::NotFound,
            K::PermissionDenied => ObjectErrorKind::Permission,
            K::StorageFull | K::QuotaExceeded => ObjectErrorKind::DiskFull,
            K::ReadOnlyFilesystem => ObjectErrorKind::ReadOnly,
            K::Unsupported => ObjectErrorKind::Unsupported,
            K::Interrupted | K::TimedOut | K::WouldBlock | K::ResourceBusy | K::StaleNetworkFileHandle => {
                ObjectErrorKind::Transient
            }
            _ => ObjectErrorKind::Io,
        };
        Self::new(kind, doing, what, error.to_string()).caused_by(again(error))
    }

    /// A key that is refused.
    pub fn invalid_key(key: &str) -> Self {
        let what = format!("{:?}", key.chars().take(80).collect::<String>());
        let problem = "a key is made of letters, digits, '.', '_' and '-' between slashes";
        Self::new(ObjectErrorKind::InvalidKey, "naming", what, problem)
    }

    /// An object whose content is not what it should be.
    pub fn damaged(what: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::new(ObjectErrorKind::Damaged, "reading", what, problem)
    }

    /// Content that ended before its end; it may arrive whole the next time.
    pub fn broken_off(what: impl Into<String>, error: &io::Error) -> Self {
        let problem = format!("it was cut off: {error}");
        Self::new(ObjectErrorKind::Transient, "reading", what, problem).caused_by(again(error))
    }

    /// What it calls for.
    pub fn kind(&self) -> ErrorKind {
        self.kind.into()
    }

    /// Whether a new process may succeed later: a fault that may pass, or a disk that someone may free.
    pub fn may_pass_later(&self) -> bool {
        self.is_retryable() || self.kind == ObjectErrorKind::DiskFull
    }

    /// Whether the same call may succeed later with nothing changed.
    pub fn is_retryable(&self) -> bool {
        self.kind().is_retryable()
    }
}

/// The same error once more: the system's cannot be cloned, and whoever met it keeps it.
fn again(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}
