//! Configuration, tracing, metrics endpoint and shutdown of a process.

pub mod config;
pub mod fleet;
pub mod logging;
pub mod metrics;
pub mod options;
pub mod references;
pub mod shutdown;
