//! Every task's final outcome, in the manifest's order, one shard in memory a round.
//!
//! Round 0 holds every task; a later round holds, in the same order, some of those of the round before. So all rounds
//! are read side by side, and where several speak of a task, the last one counts.

use std::collections::{HashSet, VecDeque};

use diorama_backends::objects::ObjectError;
use diorama_backends::run_store::RunStore;
use diorama_core::id::ShardId;
use diorama_core::marker::CommitMarker;
use diorama_core::outcome::{Outcome, TaskOutcome};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use jiff::Timestamp;

use crate::error::CoordinatorError;
use crate::rounds::RoundInfo;

/// A task's outcome, with the archive that holds its files.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Final {
    pub(crate) outcome: TaskOutcome,
    pub(crate) archive: Option<String>,
}

/// What the markers said in passing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Totals {
    pub(crate) shards: u64,
    pub(crate) device_seconds: f64,
    pub(crate) started: Option<Timestamp>,
    pub(crate) committed: Option<Timestamp>,
    /// The archives that count, relative to the run.
    pub(crate) archives: HashSet<String>,
}

/// Markers that are read ahead, a round.
const AHEAD: usize = 16;

type Markers<'a> = BoxStream<'a, (ShardId, Result<Option<CommitMarker>, ObjectError>)>;

/// Reads the markers of all rounds side by side.
pub(crate) struct Outcomes<'a> {
    rounds: Vec<Cursor<'a>>,
    pub(crate) totals: Totals,
}

struct Cursor<'a> {
    markers: Markers<'a>,
    buffered: VecDeque<Final>,
}

impl<'a> Outcomes<'a> {
    /// The outcomes of rounds all of whose shards are committed.
    pub(crate) fn new(store: &'a RunStore, rounds: &[RoundInfo]) -> Self {
        let cursor = move |info: &RoundInfo| {
            let read = move |shard| async move { (shard, store.marker(shard).await) };
            Cursor {
                markers: stream::iter(info.shard_ids()).map(read).buffered(AHEAD).boxed(),
                buffered: VecDeque::new(),
            }
        };
        Self { rounds: rounds.iter().map(cursor).collect(), totals: Totals::default() }
    }

    /// The next task's outcome; `None` after the last task.
    pub(crate) async fn next(&mut self) -> Result<Option<Final>, CoordinatorError> {
        if self.rounds.is_empty() {
            return Ok(None);
        }
        self.fill(0).await?;
        let Some(mut last) = self.rounds[0].buffered.pop_front() else { return Ok(None) };
        for round in 1..self.rounds.len() {
            self.fill(round).await?;
            let buffered = &mut self.rounds[round].buffered;
            if buffered.front().is_none_or(|head| head.outcome.task != last.outcome.task) {
                break;
            }
            if let Some(later) = buffered.pop_front() {
                last = later;
            }
        }
        Ok(Some(last))
    }

    /// Makes sure that the round's next outcome is in memory, if there is one.
    async fn fill(&mut self, round: usize) -> Result<(), CoordinatorError> {
        while self.rounds[round].buffered.is_empty() {
            let Some((shard, marker)) = self.rounds[round].markers.next().await else { return Ok(()) };
            let gone = || CoordinatorError::Unusable { shard, problem: "its commit marker is gone".to_owned() };
            let marker = marker?.ok_or_else(gone)?;
            self.totals.add(&marker);
            let archive = marker.archive.map(|archive| archive.key);
            let with_archive = |outcome: TaskOutcome| {
                let made = matches!(outcome.outcome, Outcome::Done { .. });
                Final { outcome, archive: archive.clone().filter(|_| made) }
            };
            self.rounds[round].buffered = marker.outcomes.into_iter().map(with_archive).collect();
        }
        Ok(())
    }
}

impl Totals {
    fn add(&mut self, marker: &CommitMarker) {
        self.shards += 1;
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
