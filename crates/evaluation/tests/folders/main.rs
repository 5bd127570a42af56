//! Evaluations of folders: runs, archives, plain pictures; what is missing, broken or stopped half-way.

#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

mod comparing;
mod damage;
mod fake;
mod plain;
mod resuming;
