//! Every task's final outcome, in the manifest's order, one shard in memory a round.
//!
//! Round 0 holds every task; a later round holds, in the same order, some of those that failed in the rounds before. So
//! all rounds are read side by side, and where several speak of a task, the last one counts: here, and nowhere else.

use std::collections::VecDeque;

use diorama_backends::objects::ObjectError;
use diorama_backends::progress::Counts;
use diorama_core::id::{CustomId, Round, ShardId};
use diorama_core::key::ObjectKey;
use diorama_core::marker::CommitMarker;
use diorama_core::outcome::{ErrorCode, Outcome, TaskError, TaskOutcome};
use diorama_core::round::{FailedWhere, RoundInfo};
use diorama_core::run::RunSpec;
use diorama_core::shards::ShardSet;
use diorama_core::task::Task;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use jiff::Timestamp;

use crate::count::{counts_of, counts_of_void};
use crate::decision::Void;
use crate::error::ProtocolError;
use crate::history::History;
use crate::run_store::RunStore;

/// A task's last outcome.
#[derive(Debug, Clone, PartialEq)]
pub struct Final {
    /// How it ended.
    pub outcome: TaskOutcome,
    /// The round that it comes from.
    pub round: Round,
}

/// What the markers said in passing.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    /// As the progress service counts them.
    pub counts: Counts,
    /// Seconds that models ran, over all workers.
    pub device_seconds: f64,
    started: Option<Timestamp>,
    committed: Option<Timestamp>,
}

/// Markers that are read ahead, a round.
const AHEAD: usize = 256;

type Shards = BoxStream<'static, (ShardId, Result<Shard, ObjectError>)>;

/// What is known of a shard.
enum Shard {
    Committed(Box<CommitMarker>),
    /// Its marker is not there.
    Open,
    /// An ending left it out. In round 0, with its tasks.
    Void(Vec<Task>),
}

/// Reads the markers of all rounds side by side.
pub struct Outcomes {
    rounds: Vec<Cursor>,
    /// Shards without a marker are passed over.
    partial: bool,
    /// What was read so far, summed.
    pub totals: Totals,
}

struct Cursor {
    shards: Shards,
    buffered: VecDeque<Final>,
    info: RoundInfo,
    shard_size: u32,
    /// The last round that its tasks may go into.
    last_round: u32,
    reopened: Option<FailedWhere>,
}

impl Outcomes {
    /// The outcomes of a run all of whose shards are committed or void; one that is neither is an error.
    pub async fn new(store: &RunStore, spec: &RunSpec, history: &History) -> Result<Self, ObjectError> {
        Self::of_rounds(store, spec, history, history.rounds().len()).await
    }

    /// The outcomes after the first `rounds` rounds, all of whose shards are committed or void.
    pub async fn of_rounds(
        store: &RunStore,
        spec: &RunSpec,
        history: &History,
        rounds: usize,
    ) -> Result<Self, ObjectError> {
        let voids = store.voids(history).await?;
        let cursor = |info: &RoundInfo| Cursor {
            shards: shards(store, info, &voids),
            buffered: VecDeque::new(),
            info: info.clone(),
            shard_size: spec.shard_size,
            last_round: info.last_round(&spec.retry),
            reopened: info.reopened.clone(),
        };
        let rounds = history.rounds().iter().take(rounds).map(cursor).collect();
        Ok(Self { rounds, partial: false, totals: Totals::default() })
    }

    /// The outcomes of what is committed so far.
    pub async fn so_far(store: &RunStore, spec: &RunSpec, history: &History) -> Result<Self, ObjectError> {
        Ok(Self { partial: true, ..Self::new(store, spec, history).await? })
    }

    /// The next task's outcome; `None` after the last task.
    pub async fn next(&mut self) -> Result<Option<Final>, ProtocolError> {
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
    pub fn is_pending(&self, last: &Final) -> bool {
        let Outcome::Failed(error) = &last.outcome.outcome else { return false };
        self.rounds.iter().any(|round| {
            let this = round.info.round;
            let next_round = this == last.round && error.retryable && last.round.0 < round.last_round;
            let taken_up = this > last.round && round.reopened.as_ref().is_some_and(|which| which.fits(error));
            next_round || taken_up
        })
    }

    /// Makes sure that the round's next outcome is in memory, if there is one.
    async fn fill(&mut self, round: usize) -> Result<(), ProtocolError> {
        let cursor = &mut self.rounds[round];
        while cursor.buffered.is_empty() {
            let Some((shard, read)) = cursor.shards.next().await else { return Ok(()) };
            match read? {
                Shard::Committed(marker) => {
                    self.totals.add(&marker, cursor.last_round);
                    let with_round = |outcome: TaskOutcome| Final { outcome, round: shard.round };
                    cursor.buffered = marker.outcomes.into_iter().map(with_round).collect();
                }
                Shard::Void(tasks) => {
                    let counts = counts_of_void(&cursor.info, shard.index, cursor.shard_size);
                    self.totals.counts = self.totals.counts.plus(counts);
                    cursor.buffered = tasks.into_iter().map(|task| cancelled(task, shard.round)).collect();
                }
                Shard::Open if self.partial => {}
                Shard::Open => return Err(ProtocolError::unusable(shard, "its commit marker is gone")),
            }
        }
        Ok(())
    }
}

/// The shards of a round with what is known of each, in order.
fn shards(store: &RunStore, info: &RoundInfo, voids: &[Void]) -> Shards {
    let mut void = ShardSet::default();
    voids.iter().filter(|void| void.round == info.round).for_each(|other| void.extend(&other.shards));
    let (store, writer) = (store.clone(), info.inputs.clone());
    let read = move |shard: ShardId| {
        let (store, writer, is_void) = (store.clone(), writer.clone(), void.contains(shard.index));
        async move { (shard, read_shard(&store, shard, is_void, &writer).await) }
    };
    stream::iter(info.shard_ids()).map(read).buffered(AHEAD).boxed()
}

async fn read_shard(
    store: &RunStore,
    shard: ShardId,
    is_void: bool,
    writer: &diorama_core::id::AttemptId,
) -> Result<Shard, ObjectError> {
    if !is_void {
        return Ok(store.marker(shard).await?.map_or(Shard::Open, |marker| Shard::Committed(Box::new(marker))));
    }
    // In a round of retries its tasks keep the failure that they had.
    if shard.round.0 > 0 {
        return Ok(Shard::Void(Vec::new()));
    }
    let tasks = store.input(shard, writer).await?;
    let gone = || ObjectError::damaged(store.path(&ObjectKey::Input(shard, writer.clone())), "it is gone");
    Ok(Shard::Void(tasks.ok_or_else(gone)?))
}

/// The outcome of a task whose shard an ending left out.
fn cancelled(task: Task, round: Round) -> Final {
    let message = "the run was cancelled before this task ran";
    let outcome = Outcome::Failed(TaskError::permanent(ErrorCode::Cancelled, message));
    let Task { index, custom_id, seed, extra, .. } = task;
    Final { outcome: TaskOutcome { task: index, custom_id, seed, outcome, extra }, round }
}

impl Totals {
    fn add(&mut self, marker: &CommitMarker, last_round: u32) {
        self.counts = self.counts.plus(counts_of(marker, last_round));
        self.device_seconds += marker.device_seconds;
        self.started = Some(self.started.map_or(marker.started_at, |at| at.min(marker.started_at)));
        self.committed = Some(self.committed.map_or(marker.committed_at, |at| at.max(marker.committed_at)));
    }

    /// From the first attempt's start to the last commit.
    pub fn wall_seconds(&self) -> f64 {
        match (self.started, self.committed) {
            (Some(started), Some(committed)) => committed.duration_since(started).as_secs_f64().max(0.0),
            _ => 0.0,
        }
    }
}

/// The last outcome of one task that is committed; `None` where there is none. Reads the markers in the manifest's order
/// until it comes.
pub async fn outcome_of(
    store: &RunStore,
    spec: &RunSpec,
    history: &History,
    id: &CustomId,
) -> Result<Option<TaskOutcome>, ProtocolError> {
    let mut outcomes = Outcomes::so_far(store, spec, history).await?;
    while let Some(last) = outcomes.next().await? {
        if last.outcome.custom_id == *id {
            return Ok(Some(last.outcome));
        }
    }
    Ok(None)
}
