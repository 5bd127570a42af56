//! Parity with diffusers, on the golden data that `scripts/golden/make.py` writes: small random models in the layouts of
//! Stable Diffusion 1.x and 2.x, and what diffusers and brute-force autograd make of them. See docs/method.md.

#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

mod components;
mod damaged_folders;
mod fuzz;
mod golden;
mod gpu;
mod kernels;
mod method;
mod model_folders;
mod pictures;
mod precision;
mod runs;
mod schedulers;
mod scores;
mod together;
