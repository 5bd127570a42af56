//! What every part of Diorama agrees on: ids, settings, tasks, outcomes, records, commit markers, object keys, wire
//! messages, and the [`Generator`](generator::Generator) trait between a worker and a model.
//!
//! Never does I/O, never spawns, never touches a tensor.

#![warn(missing_docs)]

pub mod address;
pub mod audit;
pub mod caps;
pub mod causes;
pub mod clock;
pub mod fit;
pub mod generator;
pub mod id;
pub mod key;
pub mod manifest;
pub mod marker;
pub mod measure;
pub mod message;
pub mod outcome;
pub mod picture;
pub mod range;
pub mod record;
pub mod retry;
pub mod round;
pub mod run;
pub mod settings;
pub mod shards;
pub mod stop;
pub mod task;
pub mod text;
