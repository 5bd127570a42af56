//! Measures of sets. What is needed of a set is a sum that can be merged: moments of features, and a bounded sample of
//! them that depends on names alone, never on order. So shards can be measured anywhere.

mod frechet;
mod kernel;
mod moments;
mod sample;
mod sums;

pub use frechet::frechet;
pub use kernel::{KernelDistance, cmmd, kid};
pub use moments::Moments;
pub use sample::Sample;
pub use sums::{SetDistances, SetSums};
