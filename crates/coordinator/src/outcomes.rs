//! Every task's final outcome, in the manifest's order, one shard in memory a round.
//!
//! Round 0 holds every task; a later round holds, in the same order, some of those that failed in the rounds before. So
//! all rounds are read side by side, and where several speak of a task, the last one counts.

use std::collections::{HashSet, VecDeque};

use diorama_backends::objects::ObjectError;
use diorama_backends::progress::Counts;
use diorama_backends::run_store::RunStore;
use diorama_core::id::{CustomId, Round, ShardId};
use diorama_core::marker::CommitMarker;
use diorama_core::outcome::{Outcome, TaskOutcome};
use diorama_core::round::{FailedWhere, RoundInfo};
use diorama_core::run::RunSpec;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use jiff::Timestamp;

use crate::error::CoordinatorError;
use crate::rounds;

/// A task's outcome, with the archive that holds its files.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Final {
    pub(crate) outcome: TaskOutcome,
    pub(crate) archive: Option<String>,
    /// The round that it comes from.
    pub(crate) round: Round,
}

/// What the markers said in passing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Totals {
    /// As the progress service counts them.
    pub(crate) counts: Counts,
    pub(crate) device_seconds: f64,
    pub(crate) started: Option<Timestamp>,
    pub(crate) committed: Option<Timestamp>,
    /// The archives that count, relative to the run.
    pub(crate) archives: HashSet<String>,
}

/// Markers that are read ahead, a round.
const AHEAD: usize = 16;

type Markers = BoxStream<'static, (ShardId, Result<Option<CommitMarker>, ObjectError>)>;

/// Reads the markers of all rounds side by side.
pub(crate) struct Outcomes {
    rounds: Vec<Cursor>,
    /// Shards without a marker are passed over.
    partial: bool,
    pub(crate) totals: Totals,
}

struct Cursor {
    markers: Markers,
    buffered: VecDeque<Final>,
    round: Round,
    /// The last round that its tasks may go into.
    last_round: u32,
    reopened: Option<FailedWhere>,
}

impl Outcomes {
    /// The outcomes of rounds all of whose shards are committed; one that is not is an error.
    pub(crate) fn new(store: &RunStore, spec: &RunSpec, rounds: &[RoundInfo]) -> Self {
        let cursor = |info: &RoundInfo| {
            let store = store.clone();
            let read = move |shard| {
                let store = store.clone();
                async move { (shard, store.marker(shard).await) }
            };
            Cursor {
                markers: stream::iter(info.shard_ids()).map(read).buffered(AHEAD).boxed(),
                buffered: VecDeque::new(),
                round: info.round,
                last_round: info.last_round(&spec.retry),
                reopened: info.reopened.clone(),
            }
        };
        Self { rounds: rounds.iter().map(cursor).collect(), partial: false, totals: Totals::default() }
    }

    /// The outcomes of what is committed so far.
    pub(crate) fn so_far(store: &RunStore, spec: &RunSpec, rounds: &[RoundInfo]) -> Self {
        Self { partial: true, ..Self::new(store, spec, rounds) }
    }

    /// The next task's outcome; `None` after the last task.
    pub(crate) async fn next(&mut self) -> Result<Option<Final>, CoordinatorError> {
        if self.rounds.is_empty() {
            return Ok(None);
        }
        self.fill(0).await?;
        let Some(mut last) = self.rounds[0].buffered.pop_front() else { return Ok(None) };
        // A task that a reopening took up may be in none of the rounds between.
        for round in 1..self.rounds.len() {
            self.fill(round).await?;
            let buffered = &mut self.rounds[round].buffered;
            if buffered.front().is_some_and(|head| head.outcome.task == last.outcome.task)
                && let Some(later) = buffered.pop_front()
            {
                last = later;
            }
        }
        Ok(Some(last))
    }

    /// Whether the task failed and is, or will be, tried again: of the outcomes of a run that goes on.
    pub(crate) fn is_pending(&self, last: &Final) -> bool {
        let Outcome::Failed(error) = &last.outcome.outcome else { return false };
        self.rounds.iter().any(|round| {
            let next_round = round.round == last.round && error.retryable && last.round.0 < round.last_round;
            let taken_up = round.round > last.round && round.reopened.as_ref().is_some_and(|which| which.fits(error));
            next_round || taken_up
        })
    }

    /// Makes sure that the round's next outcome is in memory, if there is one.
    async fn fill(&mut self, round: usize) -> Result<(), CoordinatorError> {
        let cursor = &mut self.rounds[round];
        while cursor.buffered.is_empty() {
            let Some((shard, marker)) = cursor.markers.next().await else { return Ok(()) };
            let marker = match marker? {
                Some(marker) => marker,
                None if self.partial => continue,
                None => {
                    return Err(CoordinatorError::Unusable { shard, problem: "its commit marker is gone".to_owned() });
                }
            };
            self.totals.add(&marker, cursor.last_round);
            let archive = marker.archive.map(|archive| archive.key);
            let with_archive = |outcome: TaskOutcome| {
                let made = matches!(outcome.outcome, Outcome::Done { .. });
                Final { outcome, archive: archive.clone().filter(|_| made), round: shard.round }
            };
            cursor.buffered = marker.outcomes.into_iter().map(with_archive).collect();
        }
        Ok(())
    }
}

impl Totals {
    fn add(&mut self, marker: &CommitMarker, last_round: u32) {
        self.counts = self.counts.plus(Counts::of(marker, last_round));
        self.archives.extend(marker.archive.as_ref().map(|archive| archive.key.clone()));
        self.device_seconds += marker.device_seconds;
        self.started = Some(self.started.map_or(marker.started_at, |at| at.min(marker.started_at)));
        self.committed = Some(self.committed.map_or(marker.committed_at, |at| at.max(marker.committed_at)));
    }

    /// From the first attempt's start to the last commit.
    pub(crate) fn wall_seconds(&self) -> f64 {
        match (self.started, self.committed) {
            (Some(started), Some(committed)) => committed.duration_since(started).as_secs_f64().max(0.0),
            _ => 0.0,
        }
    }
}

/// The last outcome of one task that is committed, with the archive that holds its files; `None` where there is none.
/// Reads the markers in the manifest's order until it comes.
pub async fn outcome_of(
    store: &RunStore,
    spec: &RunSpec,
    id: &CustomId,
) -> Result<Option<(TaskOutcome, Option<String>)>, CoordinatorError> {
    let mut outcomes = Outcomes::so_far(store, spec, &rounds::all(store).await?);
    while let Some(last) = outcomes.next().await? {
        if last.outcome.custom_id == *id {
            return Ok(Some((last.outcome, last.archive)));
        }
    }
    Ok(None)
}
