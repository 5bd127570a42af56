//! The worker: pulls shards and makes their pictures: fetch inputs, generate, store outputs, commit, acknowledge.
//!
//! Top-down: `pull` is the loop, `shard` one shard from delivery to acknowledgement, `generate` its pictures, `group` what
//! happens to a group of them on either side of the `device`, `tries` which of them are made again; `context` is what all attempts share.
//!
//! Knows no model (it drives a [`diorama_core::generator::Generator`]), no coordinator, and no particular backend.
//! Never prints; it reports through [`diorama_backends::progress::Progress`] and `tracing`.

mod archive;
mod context;
pub mod device;
mod ending;
mod error;
mod fit;
mod generate;
mod group;
mod hold;
mod input;
mod journal;
mod lock;
mod made;
mod metrics;
mod output;
mod plan;
mod poison;
mod pull;
mod reference;
mod runs;
mod scratch;
mod shard;
mod sink;
#[cfg(test)]
mod tests;
mod tries;
mod vitals;
mod work;

pub use context::{Layout, OnOutage, WorkerConfig, WorkerReport};
pub use device::Device;
pub use error::WorkerError;
pub use metrics::Metrics;
pub use output::SafeNames;
pub use plan::variants;
pub use pull::Worker;
pub use reference::{CacheConfig, Remote, RemoteConfig, RemoteError};
pub use scratch::Scratch;
