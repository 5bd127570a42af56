//! Places where a test may make the process die, or stand still, at every step of the protocol.
//!
//! Compiled to nothing without the feature `fault-points`. With it, `DIORAMA_FAULT=name` aborts the process when it
//! passes that point, `DIORAMA_FAULT=name:3` when it passes it the third time, `DIORAMA_FAULT=task=ID` whenever the
//! device takes up the task ID: a task that kills its process. `DIORAMA_FREEZE` takes the same names, and the process
//! stops there as by SIGSTOP, until somebody sends it SIGCONT.

/// Every point, in the order in which a run passes them.
#[cfg(feature = "fault-points")]
pub const POINTS: &[&str] = &[
    "submit.after-spec",
    "submit.after-half-of-the-inputs",
    "submit.after-inputs",
    "submit.after-decision",
    "decide.before",
    "decide.after",
    "pump.after-publish",
    "worker.after-journal",
    "worker.after-generate",
    "worker.after-half-of-the-files",
    "worker.after-files",
    "worker.after-archive",
    "worker.after-part",
    "worker.before-marker",
    "worker.after-marker",
    "worker.after-progress",
    "worker.after-ack",
    "rounds.before-inputs",
    "rounds.after-inputs",
    "rounds.after-decision",
    "ending.after-void",
    "ending.after-begun",
    "finalise.before-results",
    "finalise.before-errors",
    "finalise.before-ended",
    "finalise.after-ended",
    "finalise.after-sweep",
    "reopen.after-decision",
    "reopen.after-inputs",
    "delete.after-decision",
    "delete.after-page",
];

/// Passes the point `name`; dies here where the test asked for it.
#[cfg(not(feature = "fault-points"))]
#[inline(always)]
pub fn point(_name: &'static str) {}

/// Passes the point `name`; dies or stands still here where the test asked for it.
#[cfg(feature = "fault-points")]
pub fn point(name: &'static str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    struct Fault {
        name: String,
        left: AtomicU32,
    }

    impl Fault {
        fn from_environment(variable: &str) -> Option<Self> {
            let wanted = std::env::var(variable).ok()?;
            let (name, nth) = match wanted.split_once(':') {
                Some((name, nth)) => (name.to_owned(), nth.parse().unwrap_or(1)),
                None => (wanted, 1),
            };
            Some(Self { name, left: AtomicU32::new(nth) })
        }

        fn strikes(&self, name: &str) -> bool {
            self.name == name && self.left.fetch_sub(1, Ordering::SeqCst) == 1
        }
    }
    static DIES: OnceLock<Option<Fault>> = OnceLock::new();
    static STOPS: OnceLock<Option<Fault>> = OnceLock::new();

    debug_assert!(POINTS.contains(&name), "{name} is not in POINTS");
    let strikes = |fault: &'static OnceLock<Option<Fault>>, variable| {
        let fault = fault.get_or_init(|| Fault::from_environment(variable));
        fault.as_ref().is_some_and(|fault| fault.strikes(name))
    };
    if strikes(&DIES, "DIORAMA_FAULT") {
        std::process::abort();
    }
    if strikes(&STOPS, "DIORAMA_FREEZE") {
        stop();
    }
}

/// Stops the process, and this thread right here. A signal to the process may reach another thread first, while this one
/// goes on for a moment.
#[cfg(feature = "fault-points")]
#[expect(unsafe_code, reason = "a signal to the calling thread is a call of C")]
fn stop() {
    // SAFETY: it takes a number, and touches no memory of ours.
    let sent = unsafe { libc::raise(libc::SIGSTOP) };
    debug_assert_eq!(sent, 0, "a process may stop itself");
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
