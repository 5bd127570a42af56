//! Rounds: the tasks that failed and may be tried again go into new shards, after a growing wait.
//!
//! A round's shards follow from the markers of the round before alone, so a coordinator that dies while it writes them
//! writes the same ones again.

use diorama_backends::fault;
use diorama_backends::objects::{ObjectError, ObjectErrorKind, Put};
use diorama_backends::run_store::RunStore;
use diorama_core::id::{Round, ShardId};
use diorama_core::key::ObjectKey;
use diorama_core::outcome::{Outcome, TaskOutcome};
use diorama_core::round::RoundInfo;
use diorama_core::run::RunSpec;
use diorama_core::task::Task;
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;

use crate::error::CoordinatorError;

/// Shards that are looked at, at a time.
const AT_ONCE: usize = 16;

/// Whether a task of `round` that ended like this goes into another one.
fn is_tried_again(outcome: &TaskOutcome, spec: &RunSpec, round: &RoundInfo) -> bool {
    let in_budget = round.round.0 < round.last_round(&spec.retry);
    in_budget && matches!(&outcome.outcome, Outcome::Failed(error) if error.retryable)
}

/// Every round that is complete, from 0.
pub(crate) async fn all(store: &RunStore) -> Result<Vec<RoundInfo>, CoordinatorError> {
    let mut rounds = Vec::new();
    while let Some(round) = store.round(Round(rounds.len() as u32)).await? {
        rounds.push(round);
    }
    Ok(rounds)
}

/// That another coordinator ended the run after the round that we were at, and that it goes on since.
pub(crate) fn goes_on_since(store: &RunStore) -> ObjectError {
    let problem = "another coordinator ended the run, and it goes on since";
    ObjectError::new(ObjectErrorKind::Transient, "going on after", store.path(&ObjectKey::Summary), problem)
}

/// Says that a round is complete. Where another coordinator said so first, its word counts.
pub(crate) async fn complete(store: &RunStore, info: RoundInfo) -> Result<RoundInfo, CoordinatorError> {
    let key = ObjectKey::RoundComplete(info.round);
    match store.write_json_once(&key, &info).await? {
        Put::Created => Ok(info),
        Put::Exists => Ok(store.round(info.round).await?.unwrap_or(info)),
    }
}

/// Writes the round after `last`, all of whose shards are committed; `None` where nothing is to be tried again.
pub(crate) async fn next(
    store: &RunStore,
    spec: &RunSpec,
    last: &RoundInfo,
) -> Result<Option<RoundInfo>, CoordinatorError> {
    fault::point("rounds.before-inputs");
    let round = Round(last.round.0 + 1);
    if store.exists(&ObjectKey::Reopened(round)).await? {
        return Err(goes_on_since(store).into());
    }
    let mut writer = RoundWriter::new(store, spec, round);
    let failed_of = |shard| failed_tasks(store, spec, last, shard);
    let mut failed = stream::iter(last.shard_ids()).map(failed_of).buffered(AT_ONCE);
    while let Some(tasks) = failed.try_next().await? {
        writer.add(tasks).await?;
    }
    let (shards, tasks) = writer.finish().await?;
    if tasks == 0 {
        return Ok(None);
    }
    fault::point("rounds.after-inputs");
    let now = Timestamp::now();
    let delay =
        jiff::SignedDuration::try_from(spec.retry.delay(round.0 - last.budget.0)).unwrap_or(jiff::SignedDuration::ZERO);
    let not_before = now.checked_add(delay).unwrap_or(now);
    let info = RoundInfo { round, shards, tasks, not_before, reopened: None, ..last.clone() };
    let info = complete(store, info).await?;
    fault::point("rounds.after-round-complete");
    Ok(Some(info))
}

/// The tasks of a committed shard that are tried again, in the shard's order.
async fn failed_tasks(
    store: &RunStore,
    spec: &RunSpec,
    round: &RoundInfo,
    shard: ShardId,
) -> Result<Vec<Task>, CoordinatorError> {
    let unusable = |problem: &str| CoordinatorError::Unusable { shard, problem: problem.to_owned() };
    let marker = store.marker(shard).await?.ok_or_else(|| unusable("its commit marker is gone"))?;
    let again: Vec<bool> = marker.outcomes.iter().map(|o| is_tried_again(o, spec, round)).collect();
    if !again.contains(&true) {
        return Ok(Vec::new());
    }
    let tasks = store.input(shard).await?.ok_or_else(|| unusable("its input is gone"))?;
    if tasks.len() != again.len() {
        return Err(unusable("its marker and its input speak of different tasks"));
    }
    Ok(tasks.into_iter().zip(again).filter_map(|(task, again)| again.then_some(task)).collect())
}

/// Writes a round's input shards from tasks as they come.
pub(crate) struct RoundWriter<'a> {
    store: &'a RunStore,
    round: Round,
    shard_size: usize,
    waiting: Vec<Task>,
    shards: u32,
    tasks: u64,
}

impl<'a> RoundWriter<'a> {
    pub(crate) fn new(store: &'a RunStore, spec: &RunSpec, round: Round) -> Self {
        let shard_size = spec.shard_size.max(1) as usize;
        Self { store, round, shard_size, waiting: Vec::new(), shards: 0, tasks: 0 }
    }

    /// Adds tasks behind those that were added before.
    pub(crate) async fn add(&mut self, tasks: Vec<Task>) -> Result<(), CoordinatorError> {
        self.waiting.extend(tasks);
        while self.waiting.len() >= self.shard_size {
            let rest = self.waiting.split_off(self.shard_size);
            self.write().await?;
            self.waiting = rest;
        }
        Ok(())
    }

    /// Writes what is left; gives the numbers of shards and tasks.
    pub(crate) async fn finish(mut self) -> Result<(u32, u64), CoordinatorError> {
        if !self.waiting.is_empty() {
            self.write().await?;
        }
        Ok((self.shards, self.tasks))
    }

    async fn write(&mut self) -> Result<(), CoordinatorError> {
        self.store.write_input(ShardId { round: self.round, index: self.shards }, &self.waiting).await?;
        self.shards += 1;
        self.tasks += self.waiting.len() as u64;
        Ok(())
    }
}
