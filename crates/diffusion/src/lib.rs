//! Stable Diffusion on libtorch with Abs-Grad-SAM masked latent replacement (arXiv 2408.16232). Knows nothing of
//! fleets.

pub mod error;
pub mod scheduler;

pub use error::{Error, Result};
