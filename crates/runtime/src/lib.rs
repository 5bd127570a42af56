//! Configuration, tracing, metrics endpoint and shutdown of a process.

pub mod config;
mod keys;
pub mod logging;
pub mod metrics;
pub mod options;
pub mod shutdown;
mod source;

pub use source::Source;
