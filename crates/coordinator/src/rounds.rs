//! Rounds: the tasks that failed and may be tried again go into new shards, after a growing wait.
//!
//! A round's shards follow from the markers of the round before alone, so a coordinator that dies while it writes them
//! writes the same ones again.

use diorama_backends::fault;
use diorama_backends::run_store::RunStore;
use diorama_core::id::{Round, ShardId};
use diorama_core::key::ObjectKey;
use diorama_core::outcome::{Outcome, TaskOutcome};
use diorama_core::run::RunSpec;
use diorama_core::task::Task;
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::CoordinatorError;

/// Shards that are looked at, at a time.
const AT_ONCE: usize = 16;

/// That all shards of a round are there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundInfo {
    /// Which.
    pub round: Round,
    /// Its shards.
    pub shards: u32,
    /// Its tasks.
    pub tasks: u64,
    /// When it may begin.
    pub not_before: Timestamp,
}

impl RoundInfo {
    /// The round's shards.
    pub(crate) fn shard_ids(&self) -> impl Iterator<Item = ShardId> + use<> {
        let round = self.round;
        (0..self.shards).map(move |index| ShardId { round, index })
    }
}

/// Whether a task goes into another round after `round`.
fn is_tried_again(outcome: &TaskOutcome, spec: &RunSpec, round: Round) -> bool {
    matches!(&outcome.outcome, Outcome::Failed(error) if error.retryable) && round.0 < spec.retry.max_rounds
}

/// Every round that is complete, from 0.
pub(crate) async fn all(store: &RunStore) -> Result<Vec<RoundInfo>, CoordinatorError> {
    let mut rounds = Vec::new();
    while let Some(round) = store.read_json(&ObjectKey::RoundComplete(Round(rounds.len() as u32))).await? {
        rounds.push(round);
    }
    Ok(rounds)
}

/// Writes the round after `last`, all of whose shards are committed; `None` where nothing is to be tried again.
pub(crate) async fn next(
    store: &RunStore,
    spec: &RunSpec,
    last: &RoundInfo,
) -> Result<Option<RoundInfo>, CoordinatorError> {
    fault::point("rounds.before-inputs");
    let round = Round(last.round.0 + 1);
    let mut writer = RoundWriter { store, round, shard_size: spec.shard_size.max(1) as usize, shards: 0, tasks: 0 };
    let mut waiting = Vec::new();
    let mut failed = stream::iter(last.shard_ids()).map(|shard| failed_tasks(store, spec, shard)).buffered(AT_ONCE);
    while let Some(tasks) = failed.try_next().await? {
        waiting.extend(tasks);
        while waiting.len() >= writer.shard_size {
            let rest = waiting.split_off(writer.shard_size);
            writer.write(&waiting).await?;
            waiting = rest;
        }
    }
    if !waiting.is_empty() {
        writer.write(&waiting).await?;
    }
    if writer.tasks == 0 {
        return Ok(None);
    }
    fault::point("rounds.after-inputs");
    let now = Timestamp::now();
    let delay = jiff::SignedDuration::try_from(spec.retry.delay(round.0)).unwrap_or(jiff::SignedDuration::ZERO);
    let not_before = now.checked_add(delay).unwrap_or(now);
    let info = RoundInfo { round, shards: writer.shards, tasks: writer.tasks, not_before };
    store.write_json(&ObjectKey::RoundComplete(round), &info).await?;
    fault::point("rounds.after-round-complete");
    Ok(Some(info))
}

/// The tasks of a committed shard that are tried again, in the shard's order.
async fn failed_tasks(store: &RunStore, spec: &RunSpec, shard: ShardId) -> Result<Vec<Task>, CoordinatorError> {
    let unusable = |problem: &str| CoordinatorError::Unusable { shard, problem: problem.to_owned() };
    let marker = store.marker(shard).await?.ok_or_else(|| unusable("its commit marker is gone"))?;
    let again: Vec<bool> = marker.outcomes.iter().map(|o| is_tried_again(o, spec, shard.round)).collect();
    if !again.contains(&true) {
        return Ok(Vec::new());
    }
    let tasks = store.input(shard).await?.ok_or_else(|| unusable("its input is gone"))?;
    if tasks.len() != again.len() {
        return Err(unusable("its marker and its input speak of different tasks"));
    }
    Ok(tasks.into_iter().zip(again).filter_map(|(task, again)| again.then_some(task)).collect())
}

struct RoundWriter<'a> {
    store: &'a RunStore,
    round: Round,
    shard_size: usize,
    shards: u32,
    tasks: u64,
}

impl RoundWriter<'_> {
    async fn write(&mut self, tasks: &[Task]) -> Result<(), CoordinatorError> {
        self.store.write_input(ShardId { round: self.round, index: self.shards }, tasks).await?;
        self.shards += 1;
        self.tasks += tasks.len() as u64;
        Ok(())
    }
}
