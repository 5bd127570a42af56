//! What keeps a manifest from being read.

use std::io;
use std::path::PathBuf;

/// A manifest that cannot be read at all. What is wrong inside one is a
/// [`ManifestIssue`](diorama_core::manifest::ManifestIssue).
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file cannot be opened or read.
    #[error("reading the manifest {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    /// The system's temporary folder does not take what a long manifest needs: 24 bytes a row.
    #[error(
        "checking the manifest {path} for ids that occur twice, in a temporary file: {source}; free some space, or set TMPDIR to a folder with more"
    )]
    Scratch { path: PathBuf, source: io::Error },
    /// The extension names no format.
    #[error("cannot tell the manifest format of {0}: name it .jsonl, .csv or .parquet, or use --manifest-format")]
    UnknownFormat(PathBuf),
    /// The extension names no format, and what it begins with is something else.
    #[error("{path}: {what}")]
    Foreign { path: PathBuf, what: String },
    /// Its check took more than it may.
    #[error(
        "checking the manifest {path} took more than {seconds:.0} CPU seconds, which is more than any manifest of its size \
         needs; send it in parts, or as JSONL"
    )]
    TooCostly { path: PathBuf, seconds: f64 },
    /// Nobody waits for its check any more.
    #[error("the check of the manifest {0} was stopped, because nobody waits for it any more")]
    Stopped(PathBuf),
    /// The file is not the one that was validated.
    #[error("the manifest {0} changed while it was read; start again")]
    Changed(PathBuf),
}
