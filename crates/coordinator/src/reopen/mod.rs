//! The reopening of a run that has ended: failed tasks that are tried again, in a round with a budget of rounds of its
//! own. The log's entry decides; the round is made by whichever coordinator drives the run.

use diorama_backends::objects::{ObjectError, ObjectErrorKind};
use diorama_core::clock;
use diorama_core::id::{Round, ShardId};
use diorama_core::outcome::{Outcome, TaskOutcome};
use diorama_core::round::{FailedWhere, RoundInfo};
use diorama_core::run::RunSpec;
use diorama_core::task::Task;
use diorama_protocol::decision::{Act, Ended};
use diorama_protocol::history::{History, Refused, Reopening};
use diorama_protocol::outcomes::Outcomes;
use diorama_protocol::{Backends, RunStore, fault};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::error::CoordinatorError;
use crate::rounds::{RoundWriter, Written};

#[cfg(test)]
mod tests;

/// Input shards that are read at a time.
const AT_ONCE: usize = 16;

/// Decides that an ended run goes on with its failed tasks of the kind `which`. A run that has not ended, and one
/// without such tasks, is left as it is, with the error that says so.
pub(crate) async fn reopen(
    backends: &Backends,
    store: &RunStore,
    spec: &RunSpec,
    history: &mut History,
    by: &str,
    which: FailedWhere,
) -> Result<(), CoordinatorError> {
    let act = Act::Reopened { which: which.clone() };
    let Some(ended) = history.ended() else {
        let state = history.state().unwrap_or(diorama_core::run::RunState::Cancelled);
        return Err(Refused::NotEnded { state, wanted: "retried" }.into());
    };
    if !any_failed(store, ended, &which).await? {
        return Err(CoordinatorError::NothingFailed { failures: ended.summary.failures.clone() });
    }
    backends.decide(store, &spec.run, history, by, act).await?;
    fault::point("reopen.after-decision");
    Ok(())
}

/// Whether a task of an ended run failed as `which` says. What the summary counts by code is not read again.
async fn any_failed(store: &RunStore, ended: &Ended, which: &FailedWhere) -> Result<bool, ObjectError> {
    let meant = |code: &str| which.code.as_ref().is_none_or(|codes| codes.iter().any(|known| known.as_str() == code));
    let by_code = ended.summary.failures.iter().any(|(code, count)| *count > 0 && meant(code));
    if !by_code || which.retryable.is_none() {
        return Ok(by_code);
    }
    let key = store.relative(&ended.errors.path);
    let reader = match store.objects().open(&key).await {
        Ok(reader) => reader,
        Err(error) if error.kind == ObjectErrorKind::NotFound => {
            return Err(ObjectError::damaged(key, "the log names it, and it is gone"));
        }
        Err(error) => return Err(error),
    };
    let mut lines = BufReader::new(reader.body).split(b'\n');
    while let Some(line) = lines.next_segment().await.map_err(|error| ObjectError::broken_off(&key, &error))? {
        // Rows that never became a task stand there, too.
        let outcome = serde_json::from_slice::<TaskOutcome>(&line).map(|line| line.outcome);
        if matches!(outcome, Ok(Outcome::Failed(error)) if which.fits(&error)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Writes the input shards of a round of the failed tasks that are meant, in the manifest's order. Which those are
/// follows from the markers of the rounds before alone.
pub(crate) async fn make_round(
    store: &RunStore,
    spec: &RunSpec,
    history: &History,
    reopening: Reopening,
) -> Result<RoundInfo, CoordinatorError> {
    let round = Round(history.rounds().len() as u32);
    let mut outcomes = Outcomes::new(store, spec, history).await?;
    let mut writer = RoundWriter::new(store, spec, round);
    let (mut left, mut wanted) = (0u64, Wanted::new(spec, history));
    while let Some(last) = outcomes.next().await? {
        match &last.outcome.outcome {
            Outcome::Failed(error) if reopening.which.fits(error) => {
                if wanted.shards.len() >= AT_ONCE {
                    writer.add(wanted.take(store).await?).await?;
                }
                wanted.add(last.outcome.task.0);
            }
            Outcome::Failed(_) => left += 1,
            Outcome::Done { .. } => {}
        }
    }
    writer.add(wanted.take(store).await?).await?;
    fault::point("reopen.after-inputs");
    let counted = outcomes.totals.counts.failed;
    let written = writer.finish().await?;
    let Written { inputs, shards, tasks } =
        written.ok_or_else(|| CoordinatorError::NothingFailed { failures: Default::default() })?;
    Ok(RoundInfo {
        round,
        shards,
        tasks,
        inputs,
        not_before: clock::now(),
        delay_seconds: 0.0,
        budget: round,
        failed_offset: left as i64 - counted as i64,
        reopened: Some(reopening.which),
    })
}

/// Tasks that are to be read from round 0, which holds all of them, by shard.
struct Wanted<'a> {
    history: &'a History,
    shard_size: u64,
    /// A shard's index, and places in it.
    shards: Vec<(u32, Vec<usize>)>,
}

impl<'a> Wanted<'a> {
    fn new(spec: &RunSpec, history: &'a History) -> Self {
        Self { history, shard_size: u64::from(spec.shard_size.max(1)), shards: Vec::new() }
    }

    fn add(&mut self, task: u64) {
        let (shard, place) = ((task / self.shard_size) as u32, (task % self.shard_size) as usize);
        match self.shards.last_mut() {
            Some((last, places)) if *last == shard => places.push(place),
            _ => self.shards.push((shard, vec![place])),
        }
    }

    /// Reads them, in order.
    async fn take(&mut self, store: &RunStore) -> Result<Vec<Task>, CoordinatorError> {
        let Some(first) = self.history.rounds().first() else { return Ok(Vec::new()) };
        let read = |(index, places): (u32, Vec<usize>)| async move {
            let shard = ShardId { round: Round(0), index };
            let unusable = |problem: &str| CoordinatorError::Unusable { shard, problem: problem.to_owned() };
            let tasks = store.input(shard, &first.inputs).await?.ok_or_else(|| unusable("its input is gone"))?;
            let mut tasks: Vec<Option<Task>> = tasks.into_iter().map(Some).collect();
            let take = |place: usize| tasks.get_mut(place).and_then(Option::take);
            let taken: Option<Vec<Task>> = places.into_iter().map(take).collect();
            taken.ok_or_else(|| unusable("its input is shorter than its marker"))
        };
        let tasks: Vec<Vec<Task>> =
            stream::iter(std::mem::take(&mut self.shards)).map(read).buffered(AT_ONCE).try_collect().await?;
        Ok(tasks.concat())
    }
}
