//! How the program ends: a code that scripts and job controllers can act on.

use std::fmt;

use diorama_core::causes;

use crate::output;

/// Every task has its picture.
pub(crate) const DONE: u8 = 0;
/// The command line or the configuration is wrong.
pub(crate) const USAGE: u8 = 2;
/// The run is finished, and some tasks failed or rows were rejected.
pub(crate) const FAILED_TASKS: u8 = 3;
/// It will not work if tried again with nothing changed.
pub(crate) const PERMANENT: u8 = 42;
/// It may work if tried again.
pub(crate) const TRY_AGAIN: u8 = 75;
/// A signal ended it; the same command goes on from there.
pub(crate) const DRAINED: u8 = diorama_runtime::shutdown::EXIT_DRAINED;

/// Why a command did not do what it was asked, and the code to exit with.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    error: anyhow::Error,
    /// What `--json` prints, where it is more than the message.
    json: Option<serde_json::Value>,
}

impl Failure {
    pub(crate) fn new(code: u8, error: impl Into<anyhow::Error>) -> Self {
        Self { code, error: error.into(), json: None }
    }

    pub(crate) fn usage(error: impl Into<anyhow::Error>) -> Self {
        Self::new(USAGE, error)
    }

    pub(crate) fn permanent(error: impl Into<anyhow::Error>) -> Self {
        Self::new(PERMANENT, error)
    }

    pub(crate) fn try_again(error: impl Into<anyhow::Error>) -> Self {
        Self::new(TRY_AGAIN, error)
    }

    /// One of both: an error knows by its kind whether trying again can help.
    pub(crate) fn judged<E: Into<anyhow::Error>>(error: E, is_retryable: impl FnOnce(&E) -> bool) -> Self {
        if is_retryable(&error) { Self::try_again(error) } else { Self::permanent(error) }
    }

    pub(crate) fn with_json(self, json: serde_json::Value) -> Self {
        Self { json: Some(json), ..self }
    }

    /// Says what went wrong: for people on standard error, with `--json` for programs on standard output too.
    pub(crate) fn report(&self, json: bool) {
        output::error_line(&format!("diorama: {self}"));
        if json {
            let plain =
                || serde_json::json!({ "status": "error", "exit_code": self.code, "message": self.to_string() });
            output::line(&self.json.clone().unwrap_or_else(plain).to_string());
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&causes::in_one_line(self.error.as_ref()))
    }
}
