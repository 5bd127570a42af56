//! Every backend against the real service: the conformance suites, and what only a real service can break.

#![allow(clippy::unwrap_used, reason = "a test panics where a guarantee is broken")]

mod progress_model;
mod rabbitmq;
mod redis;
mod s3;
mod services;
