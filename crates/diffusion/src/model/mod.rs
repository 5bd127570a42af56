//! The networks of a Stable Diffusion 1.x / 2.x folder in diffusers layout.

pub mod config;
pub mod folder;
pub mod nn;
mod tensor_files;
pub mod unet;
pub mod vae;
pub mod weights;
