//! What is checked: who takes part, what may go wrong, and how often.

use std::time::Duration;

use tokio::time::Instant;

use super::world::TICK;

/// A shard that waits is looked for after this.
pub(super) const PATIENCE: Duration = TICK.saturating_mul(3);

/// A worker needs no more steps of time for a shard.
pub(super) const LASTS: u8 = 1;

/// Steps of time after which a coordinator asks the store itself, where it hears nothing.
pub(super) const RECHECK: u8 = 2;

/// Steps of time in which something is decided or committed, until every run is settled.
pub(super) const QUIET: u8 = 14;

/// What may go wrong, or be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Adversity {
    /// A message vanishes.
    Lose,
    /// All messages of the pool vanish.
    Purge,
    /// A message is there twice.
    Double,
    /// A worker's connection dies, and the worker goes on.
    CutOff,
    /// A worker hands a shard back.
    HandBack,
    /// A worker dies.
    Die,
    /// A worker dies when its marker is written and nobody was told.
    DieUntold,
    /// A worker stands still, and may go on at any time.
    StandStill,
    /// A coordinator stands still, and may go on at any time.
    Freeze,
    /// Everything that the progress service knows of a run is gone.
    Forget,
    /// Nobody hears of a decision.
    Silence,
    /// A task fails, and may be tried again.
    Fail,
    Pause,
    Resume,
    Cancel,
    Retry,
}

/// A mend that is taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Whether something is lost is judged by a run's own traffic.
    RunsLookAtThemselves,
    /// Nothing is ever published again because it is lost.
    LostStaysLost,
    /// A worker acknowledges the newer delivery of what it has, and settles through the older one.
    NewerDeliveriesAreAcknowledged,
    /// A pause that was over before the coordinator heard of it counts for nothing.
    PauseThatIsOverIsMissed,
    /// Entries of the log are written without the condition that there is none.
    LogIsRewritten,
    /// Markers are.
    MarkersAreRewritten,
    /// A cancelled run may end as finished.
    CancelIsForgotten,
    /// What followed from an older log is decided on top of a newer one.
    LateDecisionsAreTriedAgain,
}

/// A scene.
#[derive(Debug, Clone)]
pub(super) struct Scene {
    pub(super) name: &'static str,
    pub(super) began: Instant,
    pub(super) coordinators: usize,
    pub(super) workers: usize,
    /// Deliveries that a worker may have at a time.
    pub(super) hands: usize,
    /// Shards that may be out, of all runs.
    pub(super) window: usize,
    /// Of each run.
    pub(super) shards: Vec<usize>,
    pub(super) kinds: Vec<Adversity>,
    /// How many of them happen, of whatever kinds.
    pub(super) adversities: u8,
    /// Steps of time for which a shard that was published may be in no queue and in nobody's hands.
    pub(super) adrift: u8,
    pub(super) fault: Option<Fault>,
}

impl Scene {
    pub(super) fn may(&self, kind: Adversity) -> bool {
        self.kinds.contains(&kind)
    }
}
