//! What makes the pictures: the model as a [`Generator`](diorama_core::generator::Generator), with every setting that a
//! task leaves open decided, and a generator without a model.
//!
//! Knows no queue, no store and no worker, and reads no configuration.

#[cfg(feature = "libtorch")]
mod explained;
#[cfg(feature = "libtorch")]
mod libtorch;
mod measures;
#[cfg(feature = "libtorch")]
mod resolve;
mod synthetic;

#[cfg(feature = "libtorch")]
pub use diorama_diffusion::device;
#[cfg(feature = "libtorch")]
pub use libtorch::{InForce, LibtorchGenerator, LibtorchOptions, prepare_process};
pub use measures::SyntheticMeasurer;
pub use synthetic::{SyntheticGenerator, SyntheticOptions};
