//! The model's state: the store, the queue and the progress service as far as the protocol needs them, and who works with
//! them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::time::Duration;

use diorama_core::id::{AttemptId, Pool, Round, ShardId};
use diorama_core::shards::ShardSet;
use tokio::time::Instant;

use crate::plan::Plan;
use crate::share::Shares;

use super::log::{Log, Outcome, run_id};
use super::scenes::Scene;

/// What a step of time stands for: within it, everybody who can does what is to be done.
pub(super) const TICK: Duration = Duration::from_secs(5);

/// Steps for which the progress service believes in a holder without a heartbeat.
pub(super) const BELIEVED: u8 = 3;

/// Steps for which a lease is held without being renewed.
pub(super) const LEASE: u8 = 2;

/// All there is.
#[derive(Clone)]
pub(super) struct World {
    /// Not part of what tells states apart: only how long ago something was matters.
    pub(super) now: Instant,
    /// Steps of time since anything was decided or committed, or went wrong.
    pub(super) quiet: u8,
    /// What was done since time went on. With what is above it, and with what only grows, it makes every path end.
    pub(super) acts: u16,
    /// How much may go wrong or be asked for yet.
    pub(super) left: u8,
    /// Nobody hears of the next decision.
    pub(super) is_silent: bool,
    pub(super) runs: Vec<Run>,
    pub(super) queue: VecDeque<Message>,
    /// Who leads, and for how long without another word.
    pub(super) lease: (usize, u8),
    pub(super) coordinators: Vec<Leader>,
    pub(super) workers: Vec<Worker>,
}

/// A message of the pool's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Message {
    pub(super) run: usize,
    pub(super) shard: ShardId,
    /// It was delivered before.
    pub(super) again: bool,
}

/// A run, in the store and in the progress service.
#[derive(Clone, PartialEq, Hash)]
pub(super) struct Run {
    pub(super) log: Log,
    /// What writers were told is written. For the checker.
    pub(super) told_written: Log,
    pub(super) markers: BTreeMap<ShardId, (Attempt, Outcome)>,
    /// Who was told that his marker counts. For the checker.
    pub(super) winners: BTreeSet<(ShardId, Attempt)>,
    /// Entries that the progress service has heard of.
    pub(super) head: Option<usize>,
    /// Whose bit is set.
    pub(super) counted: BTreeSet<ShardId>,
    /// The progress service has not forgotten.
    pub(super) is_complete: bool,
    pub(super) holders: BTreeMap<ShardId, Holder>,
    /// Attempts so far.
    pub(super) attempts: u8,
    /// For how many steps of time the shard was in nobody's hands and in no queue, though published. For the checker.
    pub(super) adrift: BTreeMap<ShardId, u8>,
}

/// An attempt on a shard, by its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Attempt {
    pub(super) worker: usize,
    pub(super) number: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Hash)]
pub(super) struct Holder {
    pub(super) attempt: Attempt,
    pub(super) believed: u8,
}

/// A coordinator.
pub(super) struct Leader {
    pub(super) is_frozen: bool,
    /// It believes that it leads.
    pub(super) leads: bool,
    pub(super) shares: Shares,
    pub(super) driven: BTreeMap<usize, Driven>,
}

/// A run, as a coordinator drives it.
pub(super) struct Driven {
    pub(super) known: Log,
    pub(super) phase: Phase,
    /// It was looked at since time went on.
    pub(super) is_looked_at: bool,
    /// Steps of time since the log, or the markers, were looked at themselves.
    pub(super) heard: u8,
    pub(super) listed: u8,
}

pub(super) enum Phase {
    /// What is next follows from the log.
    Fresh,
    /// The round is pumped.
    Pumping { plan: Plan, committed: ShardSet },
    /// This follows from what was known, and is to be written.
    Deciding(super::log::What),
}

#[derive(Clone, PartialEq, Hash)]
pub(super) struct Worker {
    /// It stands still, and its connection is dead.
    pub(super) stands_still: bool,
    pub(super) hands: Vec<Held>,
}

/// A shard in a worker's hands.
#[derive(Debug, Clone, PartialEq, Hash)]
pub(super) struct Held {
    pub(super) run: usize,
    pub(super) shard: ShardId,
    pub(super) attempt: Attempt,
    /// The channel of the delivery, by which it is settled, is alive.
    pub(super) is_alive: bool,
    /// Steps of time since it was taken.
    pub(super) age: u8,
}

impl World {
    pub(super) fn new(scene: &Scene) -> Self {
        let run = |tasks: &usize| Run {
            log: Log::submitted(*tasks),
            told_written: Log::submitted(*tasks),
            markers: BTreeMap::new(),
            winners: BTreeSet::new(),
            head: Some(1),
            counted: BTreeSet::new(),
            is_complete: true,
            holders: BTreeMap::new(),
            attempts: 0,
            adrift: BTreeMap::new(),
        };
        let leader = |index| Leader {
            is_frozen: false,
            leads: index == 0,
            shares: Shares::new(scene.window),
            driven: BTreeMap::new(),
        };
        Self {
            now: scene.began,
            quiet: 0,
            acts: 0,
            left: scene.adversities,
            is_silent: false,
            runs: scene.shards.iter().map(run).collect(),
            queue: VecDeque::new(),
            lease: (0, LEASE),
            coordinators: (0..scene.coordinators).map(leader).collect(),
            workers: vec![Worker { stands_still: false, hands: Vec::new() }; scene.workers],
        }
    }

    /// What only grows: paths on which it does not grow any more end.
    pub(super) fn progress(&self) -> usize {
        let of_run = |run: &Run| run.log.len() + run.markers.len();
        self.runs.iter().map(of_run).sum::<usize>() + usize::from(u8::MAX - self.left)
    }

    /// Whether a worker that can settle it has the shard.
    pub(super) fn is_in_hand(&self, run: usize, shard: ShardId) -> bool {
        let working = self.workers.iter().filter(|worker| !worker.stands_still);
        working.flat_map(|worker| &worker.hands).any(|held| (held.run, held.shard) == (run, shard))
    }

    pub(super) fn is_queued(&self, run: usize, shard: ShardId) -> bool {
        self.queue.iter().any(|message| (message.run, message.shard) == (run, shard))
    }

    /// The coordinator that has the lease, and can use it.
    pub(super) fn leader(&self) -> Option<&Leader> {
        self.coordinators.get(self.lease.0).filter(|leader| leader.leads && !leader.is_frozen)
    }

    /// Back into the queue, in front.
    pub(super) fn requeue(&mut self, run: usize, shard: ShardId) {
        self.queue.push_front(Message { run, shard, again: true });
    }
}

impl Run {
    /// What whoever asks the progress service, and the store where that does not know, hears of the log.
    pub(super) fn heard(&self) -> Log {
        self.head.map_or_else(|| self.log.clone(), |head| self.log.until(head))
    }

    /// What became of each task, by this log and the markers; `None` where a shard has neither a marker nor is void.
    pub(super) fn outcomes(&self, log: &Log) -> Option<Vec<Outcome>> {
        let (rounds, void) = (log.rounds(), log.void());
        let mut outcomes = vec![Outcome::Cancelled; rounds[0].len()];
        for (round, tasks) in rounds.iter().enumerate() {
            for (index, task) in (0..).zip(tasks) {
                if !void.contains(&(round, index)) {
                    let shard = ShardId { round: Round(round as u32), index };
                    outcomes[*task] = self.markers.get(&shard)?.1;
                }
            }
        }
        Some(outcomes)
    }

    /// The shards of the last round without a marker.
    pub(super) fn open(&self, log: &Log) -> Vec<u32> {
        let round = log.history().last_round().unwrap();
        round.shard_ids().filter(|shard| !self.markers.contains_key(shard)).map(|shard| shard.index).collect()
    }

    /// Whether nobody has anything to do for it: it has ended, or its owner paused it.
    pub(super) fn is_settled(&self) -> bool {
        let history = self.log.history();
        history.ended().is_some() || history.state() == Some(diorama_core::run::RunState::Paused)
    }
}

impl Attempt {
    pub(super) fn id(self) -> AttemptId {
        AttemptId::new(format!("w{}-{}", self.worker, self.number)).unwrap()
    }
}

impl Leader {
    /// The run's part in the pool, as the pump joins it.
    pub(super) fn plan(&self, run: usize, pool: usize, shards: u32) -> Plan {
        Plan::new(self.shares.join(&run_id(run), &Pool::new(format!("pool-{pool}")).unwrap(), 0, 1), shards)
    }

    fn hash(&self, now: Instant, hasher: &mut impl Hasher) {
        (self.is_frozen, self.leads).hash(hasher);
        let plans = self.driven.values().filter_map(|driven| match &driven.phase {
            Phase::Pumping { plan, .. } => Some(plan),
            Phase::Fresh | Phase::Deciding(_) => None,
        });
        let oldest = plans.filter_map(Plan::oldest).min().unwrap_or(now);
        self.shares.hash(now, oldest, hasher);
        for (run, driven) in &self.driven {
            (run, &driven.known, driven.is_looked_at, driven.heard, driven.listed).hash(hasher);
            std::mem::discriminant(&driven.phase).hash(hasher);
            match &driven.phase {
                Phase::Fresh => {}
                Phase::Deciding(what) => what.hash(hasher),
                Phase::Pumping { plan, committed } => {
                    committed.iter().for_each(|index| index.hash(hasher));
                    plan.hash(now, hasher);
                }
            }
        }
    }
}

impl Clone for Leader {
    /// With shares of its own.
    fn clone(&self) -> Self {
        let shares = self.shares.apart();
        let copy = |driven: &Driven| Driven {
            known: driven.known.clone(),
            phase: match &driven.phase {
                Phase::Fresh => Phase::Fresh,
                Phase::Pumping { plan, committed } => {
                    Phase::Pumping { plan: plan.among(&shares), committed: committed.clone() }
                }
                Phase::Deciding(what) => Phase::Deciding(what.clone()),
            },
            ..*driven
        };
        let driven = self.driven.iter().map(|(run, driven)| (*run, copy(driven))).collect();
        Self { shares, driven, ..*self }
    }
}

impl Hash for World {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        (self.quiet, self.acts, self.left, self.is_silent, &self.runs, &self.queue, self.lease).hash(hasher);
        self.coordinators.iter().for_each(|leader| leader.hash(self.now, hasher));
        self.workers.hash(hasher);
    }
}

impl PartialEq for World {
    /// As the checker tells states apart: by their hashes.
    fn eq(&self, other: &Self) -> bool {
        let hash = |world: &Self| {
            let mut hasher = std::hash::DefaultHasher::new();
            world.hash(&mut hasher);
            hasher.finish()
        };
        hash(self) == hash(other)
    }
}

impl std::fmt::Debug for World {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = formatter.debug_struct("World");
        for run in &self.runs {
            shown.field("log", &run.log).field("markers", &run.markers).field("adrift", &run.adrift);
        }
        let held: Vec<_> = self.workers.iter().map(|worker| &worker.hands).collect();
        shown.field("queue", &self.queue).field("held", &held).field("quiet", &self.quiet).finish()
    }
}
