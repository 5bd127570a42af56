//! What can go wrong with an object: what was being done, to what, why, and how to mend it.

use std::io;

/// The kinds that callers tell apart.
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
    /// Anything else that the system reports.
    Io,
}

/// A failed operation on the object store.
#[derive(Debug, thiserror::Error)]
#[error("{doing} {what} failed: {problem}{}", .kind.remedy())]
pub struct ObjectError {
    /// Which kind.
    pub kind: ObjectErrorKind,
    /// `reading`, `writing`, `listing` …
    pub doing: &'static str,
    /// The object's place: the file's path, or the key.
    pub what: String,
    /// What went wrong.
    pub problem: String,
}

impl ObjectErrorKind {
    fn remedy(self) -> &'static str {
        match self {
            Self::Permission => "; give this user the right to read and write there, or choose another folder",
            Self::DiskFull => "; free some space and run the same command again: what is committed is kept",
            Self::ReadOnly => "; remount it writable or choose another folder",
            Self::Unsupported => "; choose a folder on a file system such as ext4, xfs or btrfs",
            Self::Damaged => "; restore it from a copy, or start in a new folder",
            Self::Away => "; it was tried again and again",
            // Who refused knows what to do about it.
            Self::Refused | Self::NotFound | Self::InvalidKey | Self::Transient | Self::Io => "",
        }
    }
}

impl ObjectError {
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
        Self { kind, doing, what: what.into(), problem: error.to_string() }
    }

    /// A key that is refused.
    pub fn invalid_key(key: &str) -> Self {
        Self {
            kind: ObjectErrorKind::InvalidKey,
            doing: "naming",
            what: format!("{:?}", key.chars().take(80).collect::<String>()),
            problem: "a key is made of letters, digits, '.', '_' and '-' between slashes".to_owned(),
        }
    }

    /// An object whose content is not what it should be.
    pub fn damaged(what: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { kind: ObjectErrorKind::Damaged, doing: "reading", what: what.into(), problem: problem.into() }
    }

    /// Content that ended before its end; it may arrive whole the next time.
    pub fn broken_off(what: impl Into<String>, error: &io::Error) -> Self {
        Self {
            kind: ObjectErrorKind::Transient,
            doing: "reading",
            what: what.into(),
            problem: format!("it broke off: {error}"),
        }
    }

    /// Whether a new process may succeed later: a fault that may pass, or a disk that someone may free.
    pub fn may_pass_later(&self) -> bool {
        self.is_retryable() || self.kind == ObjectErrorKind::DiskFull
    }

    /// Whether the same call may succeed later with nothing changed.
    pub fn is_retryable(&self) -> bool {
        matches!(self.kind, ObjectErrorKind::Transient | ObjectErrorKind::Away)
    }
}
