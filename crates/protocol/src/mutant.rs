//! Faults that were once in this protocol, each behind its name, so that a test can put one back: the simulation must find
//! it. Each is in the code where it was mended; those of the services are in the simulation's own. Compiled to nothing
//! without the feature `mutants`.

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// A shard that was published and is lost is never published again.
    LostStaysLost,
    /// A pause that was over before the coordinator heard of it is taken for none, though workers have let go of shards.
    BriefPauseIsMissed,
    /// Entries of the log are written without the condition that there is none.
    LogIsRewritten,
    /// A marker is written without the condition that there is none.
    MarkersAreRewritten,
    /// Every ending writes its final files under the same names, whoever still has the lease.
    FinalFilesShareNames,
    /// `verify --repair` takes what attempts stored in rounds that were opened after it had looked at the log for
    /// leftovers.
    RepairTakesNewRounds,
    /// Workers do not look which model a run is bound to.
    ModelIsNotChecked,
    /// The attempt is not in the name of a worker's files.
    FilesShareNames,
    /// Runs that nobody handed over are looked for by nobody.
    NobodySweeps,
    /// A run for which nobody could ring, because the progress service was away, waits until the runs are listed anyway.
    BellIsMissed,
    /// The bits of a run can be lost without its counts.
    CountsOutliveBits,
    /// That the counts of a run are complete is believed whenever it is heard, though they were lost and begun anew since
    /// it was said.
    CompleteIsTimeless,
    /// Nothing is published while the progress service is away.
    ProgressIsNeeded,
    /// A progress service that answers and takes nothing is believed, though what it says is what held before.
    DeafIsBelieved,
    /// A cancelled run may end as finished.
    CancelIsForgotten,
    /// What somebody claimed he writes however late he comes to it, where the store ignores conditions.
    ClaimsAreTimeless,
    /// A conditional write whose answer was lost, and which finds itself, takes itself for somebody else's.
    LostAnswerIsRefusal,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::LostStaysLost,
        Self::BriefPauseIsMissed,
        Self::LogIsRewritten,
        Self::MarkersAreRewritten,
        Self::FinalFilesShareNames,
        Self::RepairTakesNewRounds,
        Self::ModelIsNotChecked,
        Self::FilesShareNames,
        Self::NobodySweeps,
        Self::BellIsMissed,
        Self::CountsOutliveBits,
        Self::CompleteIsTimeless,
        Self::ProgressIsNeeded,
        Self::DeafIsBelieved,
        Self::CancelIsForgotten,
        Self::ClaimsAreTimeless,
        Self::LostAnswerIsRefusal,
    ];
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
