//! The names of the keys. Those of a run have the run in braces, its hash tag, so they share one slot of a cluster and
//! one script may touch all of them.

use diorama_core::id::{Round, RunId};

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

    /// One bit a committed shard of the round, in the order of `SETBIT`.
    pub(super) fn bits(&self, round: Round) -> String {
        format!("{}{}", self.bits_prefix(), round.0)
    }

    /// What the name of every round's bits begins with.
    pub(super) fn bits_prefix(&self) -> String {
        self.key("bits:")
    }

    /// The rounds that have bits: the only list of them, so that nothing needs to search the server's keys.
    pub(super) fn rounds(&self) -> String {
        self.key("rounds")
    }

    pub(super) fn counts(&self) -> String {
        self.key("counts")
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

    /// End and attempt by shard.
    pub(super) fn claims(&self) -> String {
        self.key("claims")
    }

    /// The millisecond in which an ended run is forgotten.
    pub(super) fn ends(&self) -> String {
        self.key("ends")
    }

    /// All but the bits; `ends` and `rounds` come first, as the scripts expect.
    pub(super) fn all_but_bits(&self) -> [String; 8] {
        [
            self.ends(),
            self.rounds(),
            self.counts(),
            self.throughput(),
            self.holders(),
            self.holding(),
            self.failures(),
            self.claims(),
        ]
    }
}

/// The last heartbeat by worker. No run's key is named like this one, whatever the run's name.
pub(super) const HEARTBEATS: &str = "diorama:{workers}:heartbeats";

/// Workers by the millisecond in which they are forgotten.
pub(super) const SEEN: &str = "diorama:{workers}:seen";

/// The owner of a lease.
pub(super) fn lease(name: &str) -> String {
    format!("diorama:{{lease:{name}}}")
}
