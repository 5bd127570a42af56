//! Parity with the Python originals of the measures, on random weights that both sides make of a tensor's name, and on the
//! golden data that `scripts/evaluation/golden.py` writes.

#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

mod batches;
mod golden;
mod measures;
mod networks;
mod sets;
mod strangers;
