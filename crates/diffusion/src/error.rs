//! Everything that can go wrong between a model folder and a picture, told apart by who can mend it.

use std::path::{Path, PathBuf};

use tch::TchError;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model folder cannot be used as it is. Trying again does not help.
    #[error("{}: {problem}", path.display())]
    Model {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it and, where known, how to mend it.
        problem: String,
    },
    /// A setting does not fit the model or another setting.
    #[error("{param}: {message}")]
    Setting {
        /// The setting, as it is written in manifests.
        param: &'static str,
        /// What is wrong, with the range or the choices.
        message: String,
    },
    /// The prompt has no noun that the method could edit.
    #[error("no subject was found in the prompt {prompt:?}; name one with --subjects or the manifest's \"subjects\"")]
    NoSubject {
        /// The prompt.
        prompt: String,
    },
    /// A subject does not occur in the prompt that the text encoder sees.
    #[error("the subject {subject:?} does not occur in the prompt {prompt:?}{hint}")]
    SubjectNotInPrompt {
        /// The subject.
        subject: String,
        /// The prompt.
        prompt: String,
        /// Empty, or what else to know, such as that the prompt was cut.
        hint: String,
    },
    /// A latent became NaN or infinite.
    #[error("the latents became NaN or infinite at step {step} (timestep {timestep}); {hint}")]
    NonFinite {
        /// The step of the truncated list, from 0.
        step: usize,
        /// Its timestep.
        timestep: f64,
        /// What helps.
        hint: String,
    },
    /// A picture cannot be used as a reference.
    #[error("reference: {0}")]
    Picture(String),
    /// The caller asked to stop.
    #[error("stopped before the picture was done")]
    Stopped,
    /// libtorch reports an error.
    #[error("libtorch: {0}")]
    Torch(String),
    /// libtorch reports that the device has no memory left. A smaller batch may run.
    #[error("out of memory: {0}")]
    OutOfMemory(String),
}

/// Results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The error of a model folder that cannot be used as it is.
pub(crate) fn broken(path: &Path, problem: impl Into<String>) -> Error {
    Error::Model { path: path.to_owned(), problem: problem.into() }
}

impl From<TchError> for Error {
    fn from(error: TchError) -> Self {
        // libtorch's messages carry a C++ stack after the first line.
        let full = error.to_string();
        let message = full.lines().next().unwrap_or_default().to_owned();
        if full.contains("out of memory") || full.contains("can't allocate memory") {
            Self::OutOfMemory(message)
        } else {
            Self::Torch(message)
        }
    }
}
