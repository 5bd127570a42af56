//! One module a command.

#[cfg(feature = "engine")]
pub(crate) mod calibrate;
pub(crate) mod config;
pub(crate) mod doctor;
#[cfg(feature = "engine")]
pub(crate) mod eval;
pub(crate) mod gc;
pub(crate) mod generate;
pub(crate) mod model;
pub(crate) mod open;
pub(crate) mod replay;
pub(crate) mod report;
pub(crate) mod results;
pub(crate) mod retry;
pub(crate) mod run;
pub(crate) mod runs;
pub(crate) mod serve;
pub(crate) mod submit;
pub(crate) mod token;
pub(crate) mod verify;
pub(crate) mod worker;

use diorama_backends::blocking;

use crate::exit::Failure;

/// Does what blocks; a panic of it ends the command.
async fn blocking<T: Send + 'static>(step: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    blocking::run(step).await.map_err(Failure::permanent)
}
