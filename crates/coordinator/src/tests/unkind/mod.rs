//! Services that do to a coordinator what real ones may do.

mod objects;
mod progress;
mod queue;

pub(crate) use objects::{Gate, Hook, Hooked, MemoryObjects};
pub(crate) use progress::MoodyProgress;
pub(crate) use queue::OpenQueue;
