//! The names of the keys. Those of a run have the run in braces, its hash tag, so they share one slot of a cluster and
//! one script may touch all of them.

use diorama_core::id::RunId;

/// The keys of one run.
pub(super) struct RunKeys {
    prefix: String,
}

impl RunKeys {
    pub(super) fn of(run: &RunId) -> Self {
        Self { prefix: format!("diorama:{{{run}}}:") }
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Bits and counts: one key, so that they are lost together or not at all.
    pub(super) fn state(&self) -> String {
        self.key("state")
    }

    /// How far the run's log is.
    pub(super) fn head(&self) -> String {
        self.key("head")
    }

    /// Pictures by the second in which their interval began.
    pub(super) fn throughput(&self) -> String {
        self.key("throughput")
    }

    /// Holder by shard.
    pub(super) fn holders(&self) -> String {
        self.key("holders")
    }

    /// Shards by the millisecond in which their holder is forgotten.
    pub(super) fn holding(&self) -> String {
        self.key("holding")
    }

    pub(super) fn failures(&self) -> String {
        self.key("failures")
    }

    /// The attempt that may write the object `what`. It ends by itself, and is lost with nothing else.
    pub(super) fn claim(&self, what: &str) -> String {
        self.key(&format!("claim:{what}"))
    }

    /// The millisecond in which an ended run is forgotten.
    pub(super) fn ends(&self) -> String {
        self.key("ends")
    }

    /// All of them but the claims; `ends` comes first, as the scripts expect.
    pub(super) fn all(&self) -> [String; 7] {
        [self.ends(), self.state(), self.head(), self.throughput(), self.holders(), self.holding(), self.failures()]
    }
}

/// The last heartbeat by worker. No run's key is named like this one, whatever the run's name.
pub(super) const HEARTBEATS: &str = "diorama:{workers}:heartbeats";

/// Workers by the millisecond in which they are forgotten.
pub(super) const SEEN: &str = "diorama:{workers}:seen";

/// How often anybody rang for the leading coordinator.
pub(super) const BELL: &str = "diorama:{bell}";

/// The owner of a lease.
pub(super) fn lease(name: &str) -> String {
    format!("diorama:{{lease:{name}}}")
}
