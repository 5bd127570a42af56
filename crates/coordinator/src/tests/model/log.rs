//! A run's log in the model: small entries, and the real fold of them.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use diorama_backends::progress::Counts;
use diorama_core::id::{AttemptId, Round, RunId, Sha256Hex};
use diorama_core::outcome::FileRef;
use diorama_core::round::{FailedWhere, RoundInfo};
use diorama_core::run::{RunState, RunSummary};
use diorama_protocol::decision::{Act, Decision, Ended};
use diorama_protocol::history::History;
use jiff::Timestamp;

/// What became of a task, of which each shard has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Outcome {
    Done,
    Failed,
    Cancelled,
}

/// What is decided. As [`Act`], with what a model can compare.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum What {
    Submitted,
    Paused,
    Resumed,
    Cancelled,
    /// A round, of these tasks.
    RoundOpened {
        round: u32,
        tasks: Vec<usize>,
        reopens: bool,
    },
    /// An ending, which leaves these shards of this round out.
    EndingBegun {
        cancelled: bool,
        round: usize,
        void: Vec<u32>,
    },
    /// What became of each task, by the files that this entry names.
    Ended(Vec<Outcome>),
    Reopened,
}

/// An entry, and who wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Entry {
    pub(super) what: What,
    pub(super) by: usize,
}

/// A log, as it is in the store or as somebody knows it.
#[derive(Clone)]
pub(super) struct Log {
    entries: Vec<Entry>,
    history: Arc<History>,
    /// An entry does not follow from those before.
    pub(super) is_broken: bool,
}

impl Log {
    /// Of a run with so many tasks.
    pub(super) fn submitted(tasks: usize) -> Self {
        let mut log = Self { entries: Vec::new(), history: Arc::default(), is_broken: false };
        let round = RoundInfo::first(tasks as u32, tasks as u64, name("submission"), Timestamp::UNIX_EPOCH);
        log.fold(Act::Submitted { round });
        log.entries.push(Entry { what: What::Submitted, by: usize::MAX });
        log
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn history(&self) -> &History {
        &self.history
    }

    pub(super) fn push(&mut self, entry: Entry) {
        self.fold(act(&entry.what, self.len()));
        self.entries.push(entry);
    }

    /// The first entries.
    pub(super) fn until(&self, len: usize) -> Self {
        if len >= self.len() {
            return self.clone();
        }
        let mut log = Self::submitted(self.history.rounds()[0].shards as usize);
        self.entries[1..len].iter().for_each(|entry| log.push(entry.clone()));
        log
    }

    /// Puts an entry in the place of another one, as nobody may.
    pub(super) fn overwrite(&mut self, number: usize, entry: Entry) {
        let mut log = self.until(number);
        log.push(entry);
        self.entries[number + 1..].iter().for_each(|entry| log.push(entry.clone()));
        *self = log;
    }

    fn fold(&mut self, act: Act) {
        let history = Arc::make_mut(&mut self.history);
        let decision = Decision { version: 1, nonce: name("nonce"), at: Timestamp::UNIX_EPOCH, by: String::new(), act };
        self.is_broken |= history.apply(decision).is_err();
    }

    /// The tasks of every round that was opened.
    pub(super) fn rounds(&self) -> Vec<Vec<usize>> {
        let first = (0..self.history.rounds()[0].shards as usize).collect();
        let mut rounds = vec![first];
        rounds.extend(self.entries.iter().filter_map(|entry| match &entry.what {
            What::RoundOpened { tasks, .. } => Some(tasks.clone()),
            _ => None,
        }));
        rounds
    }

    /// The shards that endings left out, with their rounds.
    pub(super) fn void(&self) -> Vec<(usize, u32)> {
        let mut void = Vec::new();
        for entry in &self.entries {
            if let What::EndingBegun { round, void: shards, .. } = &entry.what {
                void.extend(shards.iter().map(|shard| (*round, *shard)));
            }
        }
        void
    }
}

/// The real act.
pub(super) fn act(what: &What, number: usize) -> Act {
    match what {
        What::Submitted => unreachable!("it is the first entry, and only that"),
        What::Paused => Act::Paused { reason: None },
        What::Resumed => Act::Resumed,
        What::Cancelled => Act::Cancelled,
        What::RoundOpened { round, tasks, reopens } => {
            let (shards, all) = (tasks.len() as u32, tasks.len() as u64);
            let first = RoundInfo::first(shards, all, name("round"), Timestamp::UNIX_EPOCH);
            let reopened = reopens.then(FailedWhere::default);
            Act::RoundOpened { round: RoundInfo { round: Round(*round), reopened, ..first } }
        }
        What::EndingBegun { cancelled, void, .. } => Act::EndingBegun {
            state: if *cancelled { RunState::Cancelled } else { RunState::Finished },
            void: (!void.is_empty()).then(|| name(&format!("void-{number}"))),
        },
        What::Ended(outcomes) => {
            let done = outcomes.iter().filter(|outcome| **outcome == Outcome::Done).count() as u64;
            let file = FileRef { path: format!("endings/{number}"), sha256: Sha256Hex::of(b""), bytes: 0 };
            Act::Ended(Box::new(Ended {
                summary: summary(done),
                counts: Counts::default(),
                results: file.clone(),
                errors: file,
            }))
        }
        What::Reopened => Act::Reopened { which: FailedWhere::default() },
    }
}

fn summary(done: u64) -> RunSummary {
    RunSummary {
        run: run_id(0),
        state: RunState::Finished,
        tasks: 0,
        done,
        failed: 0,
        invalid_rows: 0,
        failures: [].into(),
        rounds: 0,
        shards: 0,
        device_seconds: 0.0,
        wall_seconds: 0.0,
        pictures_per_second: 0.0,
        acceptance: None,
    }
}

fn name(name: &str) -> AttemptId {
    AttemptId::new(name).unwrap()
}

pub(super) fn run_id(run: usize) -> RunId {
    RunId::new(format!("run-{run}")).unwrap()
}

impl PartialEq for Log {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

impl Hash for Log {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.entries.hash(hasher);
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_list().entries(self.entries.iter().map(|entry| &entry.what)).finish()
    }
}
