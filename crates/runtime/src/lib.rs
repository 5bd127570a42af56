//! Configuration, tracing and shutdown of a process.
