//! Faults that were once in this protocol, each behind its name, so that a test can put one back: the simulation must find
//! it. Compiled to nothing without the feature `mutants`.

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// A shard that was published and is lost is never published again.
    LostStaysLost,
    /// Entries of the log are written without the condition that there is none.
    LogIsRewritten,
    /// A cancelled run may end as finished.
    CancelIsForgotten,
    /// A marker is written without the condition that there is none.
    MarkersAreRewritten,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::LostStaysLost, Self::LogIsRewritten, Self::CancelIsForgotten, Self::MarkersAreRewritten];
}

#[cfg(feature = "mutants")]
thread_local! {
    static BACK: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

/// Puts a fault back, on this thread; or takes it out again.
#[cfg(feature = "mutants")]
pub fn put_back(mutant: Option<Mutant>) {
    BACK.set(mutant);
}

/// Whether this fault is back.
#[cfg(feature = "mutants")]
pub fn is_back(mutant: Mutant) -> bool {
    BACK.get() == Some(mutant)
}

/// Whether this fault is back: never.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub fn is_back(_: Mutant) -> bool {
    false
}
