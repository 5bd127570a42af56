//! Rounds: the tasks that failed and may be tried again go into new shards, after a growing wait.
//!
//! The inputs of a round carry their writer in their names, and the log says whose count: a coordinator that is late
//! writes beside those that another one wrote, never over them.

use std::collections::HashSet;

use diorama_core::clock;
use diorama_core::id::{AttemptId, Round, ShardId, TaskIndex};
use diorama_core::outcome::{Outcome, TaskOutcome};
use diorama_core::round::RoundInfo;
use diorama_core::run::RunSpec;
use diorama_core::task::Task;
use diorama_protocol::history::History;
use diorama_protocol::{RunStore, fault};
use futures::{StreamExt, TryStreamExt, stream};

use crate::error::CoordinatorError;

/// Shards that are looked at, at a time.
const AT_ONCE: usize = 256;

/// Whether a task that ended like this goes into another round, where the run may have one.
fn is_tried_again(outcome: &TaskOutcome) -> bool {
    matches!(&outcome.outcome, Outcome::Failed(error) if error.retryable)
}

/// Writes the round after the last one, all of whose shards are committed; `None` where nothing is to be tried again.
pub(crate) async fn next(
    store: &RunStore,
    spec: &RunSpec,
    history: &History,
) -> Result<Option<RoundInfo>, CoordinatorError> {
    let Some(last) = history.last_round() else { return Ok(None) };
    fault::point("rounds.before-inputs");
    let round = Round(last.round.0 + 1);
    if last.round.0 >= last.last_round(&spec.retry) {
        return Ok(None);
    }
    let mut writer = RoundWriter::new(store, spec, round);
    let failed_of = |shard| failed_tasks(store, last, shard);
    let mut failed = stream::iter(last.shard_ids()).map(failed_of).buffered(AT_ONCE);
    while let Some(tasks) = failed.try_next().await? {
        writer.add(tasks).await?;
    }
    let delay = spec.retry.delay(round.0 - last.budget.0);
    let Some(written) = writer.finish().await? else { return Ok(None) };
    fault::point("rounds.after-inputs");
    let now = clock::now();
    let not_before = now.checked_add(jiff::SignedDuration::try_from(delay).unwrap_or_default()).unwrap_or(now);
    let Written { inputs, shards, tasks } = written;
    let delay_seconds = delay.as_secs_f64();
    Ok(Some(RoundInfo { round, shards, tasks, inputs, not_before, delay_seconds, reopened: None, ..last.clone() }))
}

/// The tasks of a committed shard that are tried again, in the shard's order.
async fn failed_tasks(store: &RunStore, round: &RoundInfo, shard: ShardId) -> Result<Vec<Task>, CoordinatorError> {
    let unusable = |problem: &str| CoordinatorError::Unusable { shard, problem: problem.to_owned() };
    let tally = store.tally(shard).await?.ok_or_else(|| unusable("its commit marker is gone"))?;
    let again: HashSet<TaskIndex> = tally.failed.iter().filter(|end| is_tried_again(end)).map(|end| end.task).collect();
    if again.is_empty() {
        return Ok(Vec::new());
    }
    let mut tasks = store.input(shard, &round.inputs).await?.ok_or_else(|| unusable("its input is gone"))?;
    let speaks_of_others = || unusable("its marker and its input name different tasks");
    if tasks.len() as u64 != tally.tasks() {
        return Err(speaks_of_others());
    }
    tasks.retain(|task| again.contains(&task.index));
    if tasks.len() != again.len() {
        return Err(speaks_of_others());
    }
    Ok(tasks)
}

/// The inputs of a round, written.
pub(crate) struct Written {
    pub(crate) inputs: AttemptId,
    pub(crate) shards: u32,
    pub(crate) tasks: u64,
}

/// Writes a round's input shards from tasks as they come.
pub(crate) struct RoundWriter<'a> {
    store: &'a RunStore,
    round: Round,
    shard_size: usize,
    waiting: Vec<Task>,
    written: Written,
}

impl<'a> RoundWriter<'a> {
    pub(crate) fn new(store: &'a RunStore, spec: &RunSpec, round: Round) -> Self {
        let shard_size = spec.shard_size.max(1) as usize;
        let written = Written { inputs: AttemptId::generate(), shards: 0, tasks: 0 };
        Self { store, round, shard_size, waiting: Vec::new(), written }
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

    /// Writes what is left; `None` where there was nothing at all.
    pub(crate) async fn finish(mut self) -> Result<Option<Written>, CoordinatorError> {
        if !self.waiting.is_empty() {
            self.write().await?;
        }
        Ok(Some(self.written).filter(|written| written.tasks > 0))
    }

    async fn write(&mut self) -> Result<(), CoordinatorError> {
        let shard = ShardId { round: self.round, index: self.written.shards };
        self.store.write_input(shard, &self.written.inputs, &self.waiting).await?;
        self.written.shards += 1;
        self.written.tasks += self.waiting.len() as u64;
        Ok(())
    }
}
