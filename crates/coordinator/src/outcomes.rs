//! Every task's final outcome, in the manifest's order, one shard in memory a round.
//!
//! Round 0 holds every task; a later round holds, in the same order, some of those of the round before. So all rounds
//! are read side by side, and where several speak of a task, the last one counts.

use std::collections::VecDeque;

use diorama_backends::run_store::RunStore;
use diorama_core::marker::CommitMarker;
use diorama_core::outcome::{ErrorCode, Outcome, TaskError, TaskOutcome};
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
}

/// Reads the markers of all rounds side by side.
pub(crate) struct Outcomes<'a> {
    store: &'a RunStore,
    /// Whether shards may lack a marker: their tasks were cancelled.
    cancelled: bool,
    rounds: Vec<Cursor>,
    pub(crate) totals: Totals,
}

struct Cursor {
    info: RoundInfo,
    next_shard: u32,
    buffered: VecDeque<Final>,
}

impl<'a> Outcomes<'a> {
    pub(crate) fn new(store: &'a RunStore, rounds: Vec<RoundInfo>, cancelled: bool) -> Self {
        let cursor = |info| Cursor { info, next_shard: 0, buffered: VecDeque::new() };
        Self { store, cancelled, rounds: rounds.into_iter().map(cursor).collect(), totals: Totals::default() }
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
        while self.rounds[round].buffered.is_empty() && self.rounds[round].next_shard < self.rounds[round].info.shards {
            let cursor = &mut self.rounds[round];
            let shard = diorama_core::id::ShardId { round: cursor.info.round, index: cursor.next_shard };
            cursor.next_shard += 1;
            match self.store.marker(shard).await? {
                Some(marker) => {
                    self.totals.add(&marker);
                    let archive = marker.archive.map(|archive| archive.key);
                    let with_archive = |outcome: TaskOutcome| {
                        let made = matches!(outcome.outcome, Outcome::Done { .. });
                        Final { outcome, archive: archive.clone().filter(|_| made) }
                    };
                    self.rounds[round].buffered = marker.outcomes.into_iter().map(with_archive).collect();
                }
                // A cancelled round leaves its tasks as the round before left them.
                None if self.cancelled && round > 0 => {}
                None if self.cancelled => {
                    let unusable = || CoordinatorError::Unusable { shard, problem: "its input is gone".to_owned() };
                    let tasks = self.store.input(shard).await?.ok_or_else(unusable)?;
                    let cancelled = tasks.into_iter().map(|task| Final {
                        outcome: TaskOutcome {
                            task: task.index,
                            custom_id: task.custom_id,
                            seed: task.seed,
                            outcome: Outcome::Failed(TaskError::permanent(
                                ErrorCode::Cancelled,
                                "the run was cancelled before this task ran",
                            )),
                        },
                        archive: None,
                    });
                    self.rounds[round].buffered = cancelled.collect();
                }
                None => {
                    let problem = "its commit marker is gone".to_owned();
                    return Err(CoordinatorError::Unusable { shard, problem });
                }
            }
        }
        Ok(())
    }
}

impl Totals {
    fn add(&mut self, marker: &CommitMarker) {
        self.shards += 1;
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
