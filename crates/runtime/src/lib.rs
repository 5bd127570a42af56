//! Configuration, tracing, HTTP server, metrics endpoint and shutdown of a process.

pub mod config;
pub mod home;
pub mod http;
mod keys;
pub mod logging;
pub mod metrics;
pub mod options;
pub mod shutdown;
mod source;

pub use source::Source;
