//! Configuration, tracing and shutdown of a process.

pub mod config;
pub mod fleet;
pub mod logging;
pub mod options;
pub mod shutdown;
