//! Stable Diffusion on libtorch with Abs-Grad-SAM masked latent replacement (arXiv 2408.16232). Knows nothing of
//! fleets.
//!
//! [`pipeline::StableDiffusion`] loads a model folder and makes pictures. `model`, `text` and `scheduler` are its
//! parts, each held to diffusers' own by golden data; [`method`] is what the paper adds. No call panics on what users
//! give it: every call into libtorch is a fallible one.

#![warn(missing_docs)]

mod apart;
pub mod device;
pub mod error;
pub mod explain;
pub mod image_processor;
pub mod kernels;
pub mod memory;
pub mod method;
pub mod model;
pub mod noise;
pub mod pipeline;
mod reproducible;
pub mod scheduler;
pub mod subjects;
pub mod text;

pub use error::{Error, Result};
pub use reproducible::reproducible_arithmetic;

/// The libtorch that this crate was built against, such as `2.11.0`.
pub const LIBTORCH_VERSION: &str = env!("DIORAMA_LIBTORCH_VERSION");
