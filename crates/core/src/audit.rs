//! What the events of the audit are told from other log lines by.

/// The target of every event that says who did what, and of no other one. Whatever the format of the log, they are JSON.
pub const TARGET: &str = "diorama_audit";
