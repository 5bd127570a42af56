//! What docs/protocol.md says, in code: a run's log of decisions and the state that follows from it, its objects and
//! their formats, what is written once and how, what a marker counts, and the points where tests let a process die.
//!
//! Coordinators and workers stand on this; it drives nothing by itself and knows no particular service.

pub mod count;
pub mod decision;
pub mod error;
pub mod fault;
pub mod history;
pub mod mutant;
pub mod once;
pub mod outcomes;
pub mod results;
pub mod run_store;

pub use error::ProtocolError;
pub use once::{Backends, CLAIM, DecideError, Exclusive, SENT_WITHIN};
pub use run_store::RunStore;
