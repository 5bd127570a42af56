//! Places where a test may make the process die, at every step of the shard protocol.
//!
//! Compiled to nothing without the feature `fault-points`. With it, `DIORAMA_FAULT=name` aborts the process when it
//! passes that point, `DIORAMA_FAULT=name:3` when it passes it the third time, `DIORAMA_FAULT=task=ID` whenever the
//! device takes up the task ID: a task that kills its process.

/// Every point, in the order in which a run passes them.
#[cfg(feature = "fault-points")]
pub const POINTS: &[&str] = &[
    "submit.after-spec",
    "submit.after-half-of-the-inputs",
    "submit.after-inputs",
    "submit.after-round-complete",
    "pump.after-publish",
    "worker.after-journal",
    "worker.after-generate",
    "worker.after-half-of-the-files",
    "worker.after-files",
    "worker.after-archive",
    "worker.before-marker",
    "worker.after-marker",
    "worker.after-progress",
    "worker.after-ack",
    "rounds.before-inputs",
    "rounds.after-inputs",
    "rounds.after-round-complete",
    "finalise.before-results",
    "finalise.before-errors",
    "finalise.before-summary",
    "finalise.after-summary",
    "reopen.before-word",
    "reopen.after-word",
    "reopen.after-inputs",
    "reopen.after-round-complete",
    "reopen.after-results",
    "reopen.before-summary",
    "reopen.after-summary",
    "delete.before-word",
    "delete.after-word",
    "delete.after-page",
];

/// Passes the point `name`; dies here where the test asked for it.
#[cfg(not(feature = "fault-points"))]
#[inline(always)]
pub fn point(_name: &'static str) {}

/// Passes the point `name`; dies here where the test asked for it.
#[cfg(feature = "fault-points")]
pub fn point(name: &'static str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    struct Fault {
        name: String,
        left: AtomicU32,
    }
    static FAULT: OnceLock<Option<Fault>> = OnceLock::new();

    debug_assert!(POINTS.contains(&name), "{name} is not in POINTS");
    let fault = FAULT.get_or_init(|| {
        let wanted = std::env::var("DIORAMA_FAULT").ok()?;
        let (name, nth) = match wanted.split_once(':') {
            Some((name, nth)) => (name.to_owned(), nth.parse().unwrap_or(1)),
            None => (wanted, 1),
        };
        Some(Fault { name, left: AtomicU32::new(nth) })
    });
    if let Some(fault) = fault
        && fault.name == name
        && fault.left.fetch_sub(1, Ordering::SeqCst) == 1
    {
        std::process::abort();
    }
}

/// Takes up a task; dies here where the test asked for it.
#[cfg(not(feature = "fault-points"))]
#[inline(always)]
pub fn task(_id: &str) {}

/// Takes up a task; dies here where the test asked for it.
#[cfg(feature = "fault-points")]
pub fn task(id: &str) {
    if std::env::var("DIORAMA_FAULT").is_ok_and(|fault| fault.strip_prefix("task=") == Some(id)) {
        std::process::abort();
    }
}
