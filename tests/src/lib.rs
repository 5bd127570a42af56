//! What whole-system tests, `make fleet` and `make soak` stand on: private RabbitMQ, Redis and S3 servers on free ports,
//! in folders of their own, gone with the value that stands for them; and the soak itself.

#![allow(clippy::unwrap_used, reason = "a test that cannot start its services stops there, and says why")]

pub mod browser;
pub mod children;
pub mod http;
pub mod services;
pub mod soak;
