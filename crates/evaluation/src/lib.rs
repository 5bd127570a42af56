//! How good pictures, runs and settings are (docs/evaluation.md).
//!
//! Pictures in, rows out: [`evaluator::Evaluator`] measures a batch of pictures and adds what sets need to sums that can
//! be merged, so that a shard can be measured anywhere. [`run`] does so for whole folders, streamed and resumable;
//! [`report`] makes tables, plots and a page of the rows. A measure whose network is not there is absent, never 0.
//! Waits for nothing and fetches nothing.

#![warn(missing_docs)]

pub mod error;
pub mod evaluator;
pub mod measures;
pub mod near;
pub mod networks;
pub mod report;
pub mod row;
pub mod run;
pub mod selection;
pub mod sets;
pub mod source;
pub mod statistics;

pub use error::{Error, Result};
