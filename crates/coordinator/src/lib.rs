//! The coordinator: submission, the pump, rounds of retries, reconciliation, finalisation.
//!
//! Knows no model and no worker, and no particular backend. Never prints: progress goes into a watch channel. Several
//! may run for one run: nothing here is needed for safety, which the commit markers alone give.

pub mod api;
mod blobs;
mod catalogue;
mod config;
mod coordinator;
mod dashboard;
mod delete;
mod ending;
mod error;
mod failures;
mod gc;
mod idle;
mod index;
mod lease;
mod pace;
mod plan;
mod pump;
mod reconcile;
mod reopen;
mod rounds;
mod scratch;
mod service;
mod share;
mod status;
mod submit;
#[cfg(test)]
mod tests;
mod verify;
mod waiting;
mod watch;
mod window;

pub use config::CoordinatorConfig;
pub use coordinator::{Coordinator, RunEnd};
pub use error::{BoxError, CoordinatorError};
pub use gc::{Collected, Grace, collect};
pub use reconcile::reconcile;
pub use service::{Service, ServiceConfig};
pub use share::Shares;
pub use status::{RunStatus, status};
pub use submit::{Submission, Tasks, is_submitted, submit};
pub use verify::{Verification, verify};
pub use waiting::Waiting;
pub use watch::RunProgress;
