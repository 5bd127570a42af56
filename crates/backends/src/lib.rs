//! The three services a run stands on, each as a trait with an embedded implementation: the queue that hands out
//! shards, the progress that everybody may look at, and the objects that are the truth.
//!
//! Each trait has one conformance suite, run against every implementation. What is done with them is the protocol's.

pub mod blocking;
mod certificates;
pub mod diagnosis;
pub mod kind;
pub mod meter;
mod mismatch;
pub mod objects;
pub mod progress;
pub mod queue;
mod userinfo;
