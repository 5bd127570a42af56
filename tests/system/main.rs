//! Whole-system tests: each runs the built program on real files and is named after the guarantee that it holds.
//!
//! Almost all use the synthetic engine, because what they are about is everything around the model.

#![allow(clippy::unwrap_used, reason = "a test panics where a guarantee is broken")]

mod absence;
mod accepting;
#[cfg(feature = "engine")]
mod calibrate;
mod case;
mod command_line;
mod disks;
#[cfg(feature = "engine")]
mod evaluation;
mod faults;
mod fleet;
mod gallery;
mod manifests;
#[cfg(feature = "engine")]
mod model;
mod overwriting;
mod page;
mod references;
mod replay;
mod resume;
mod shapes;
