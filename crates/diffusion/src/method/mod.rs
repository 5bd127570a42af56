//! Abs-Grad-SAM (arXiv 2408.16232): which latent elements depend on the prompt's subject, and the mask that follows.
//!
//! [`score`] says how much each latent element depends on a token, by the exact [`closed_form`] at the last
//! cross-attention layer ([`mixed_form`] of the random mixtures that the paper's author took) and by [`gradients`] through the network elsewhere; [`mask`] turns scores into masks;
//! [`settings`] are the method's knobs, all of them set. The derivation is in `docs/method.md`.

mod closed_form;
pub mod extent;
mod gradients;
pub mod mask;
mod mixed_form;
pub mod score;
pub mod settings;

pub use closed_form::Arithmetic;
pub use score::{Estimator, Scorer};
pub use settings::{Edits, Method, Score, Settings, Smoothing, Start, SubjectTokens};
