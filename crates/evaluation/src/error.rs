//! Everything that can go wrong in an evaluation, told apart by who can mend it.

use std::io;
use std::path::{Path, PathBuf};

use tch::TchError;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A folder or a file cannot be evaluated as it is. Trying again does not help.
    #[error("{}: {problem}", path.display())]
    Input {
        /// The folder or the file.
        path: PathBuf,
        /// What is wrong with it, and how to mend it.
        problem: String,
    },
    /// A network cannot be loaded, or fails.
    #[error("the network {name}: {source}")]
    Network {
        /// Which, as `diorama doctor --eval` calls it.
        name: &'static str,
        /// What is wrong with it.
        source: diorama_diffusion::Error,
    },
    /// What was written cannot be written. A later try may help.
    #[error("{}: {source}", path.display())]
    Disk {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// libtorch fails.
    #[error(transparent)]
    Torch(#[from] diorama_diffusion::Error),
    /// The caller asked to stop; the same call goes on from there.
    #[error("stopped")]
    Stopped,
}

/// Results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Whether the same call may work later with nothing changed.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Disk { .. } | Self::Torch(diorama_diffusion::Error::OutOfMemory(_)))
    }

    pub(crate) fn input(path: &Path, problem: impl Into<String>) -> Self {
        Self::Input { path: path.to_owned(), problem: problem.into() }
    }

    pub(crate) fn disk(path: &Path, source: io::Error) -> Self {
        Self::Disk { path: path.to_owned(), source }
    }
}

impl From<TchError> for Error {
    fn from(error: TchError) -> Self {
        Self::Torch(error.into())
    }
}
