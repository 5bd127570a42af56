//! The worker: pulls shards and makes their pictures: fetch inputs, generate, store outputs, commit, acknowledge.
//!
//! Knows no model (it drives a [`diorama_core::generator::Generator`]), no coordinator, and no particular backend.
//! Never prints; it reports through [`diorama_backends::progress::Progress`] and `tracing`.

mod archive;
pub mod engine;
mod error;
mod fit;
mod group;
mod hold;
mod journal;
mod metrics;
mod output;
pub mod picture;
mod plan;
mod preservation;
mod reference;
mod shard;
mod store;
pub mod synthetic;
mod worker;

pub use engine::Engine;
pub use error::WorkerError;
pub use metrics::Metrics;
pub use output::SafeNames;
pub use plan::variants;
pub use reference::{CacheConfig, Remote, RemoteConfig, RemoteError};
pub use worker::{Layout, OnOutage, Worker, WorkerConfig, WorkerReport};
