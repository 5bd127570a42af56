//! The reopening of a run that has ended: failed tasks that are tried again, in a round with a budget of rounds of its
//! own.
//!
//! One object decides: `input/r{N}.reopened.json`, written once, for the round after the last one that ran. Before it is
//! there the run has ended; from then on it goes on, whoever dies when, and its summary is about the past. Everything
//! else is carried out by whichever coordinator drives the run, and may be carried out again.

use diorama_backends::fault;
use diorama_backends::objects::{ObjectError, ObjectErrorKind, Objects, Put};
use diorama_backends::progress::Progress;
use diorama_backends::run_store::RunStore;
use diorama_core::id::{Round, RunId, ShardId};
use diorama_core::key::{ObjectKey, SharedKey};
use diorama_core::outcome::{Outcome, TaskOutcome};
use diorama_core::round::{FailedWhere, Reopening, RoundInfo};
use diorama_core::run::{RunSpec, RunSummary};
use diorama_core::task::Task;
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::error::CoordinatorError;
use crate::outcomes::Outcomes;
use crate::reconcile::rebuild;
use crate::rounds::{self, RoundWriter};

#[cfg(test)]
mod tests;

/// Input shards that are read at a time.
const AT_ONCE: usize = 16;

/// How the run ended; `None` where it has not, or goes on since.
pub async fn ending(store: &RunStore) -> Result<Option<RunSummary>, ObjectError> {
    let Some(summary) = store.read_json::<RunSummary>(&ObjectKey::Summary).await? else { return Ok(None) };
    let goes_on = store.exists(&ObjectKey::Reopened(after(&summary))).await?;
    Ok((!goes_on).then_some(summary))
}

fn after(summary: &RunSummary) -> Round {
    Round(summary.rounds + 1)
}

/// Puts the run on the list of those that the leading coordinator takes up.
pub(crate) async fn hand_over(objects: &dyn Objects, run: &RunId) -> Result<(), ObjectError> {
    objects.put(&SharedKey::Active(run.clone()).to_string(), bytes::Bytes::new()).await
}

/// Says that an ended run goes on with its failed tasks of the kind `which`, and hands it over to the leading
/// coordinator. A run that has not ended, and one without such tasks, is left as it is, with the error that says so.
pub async fn reopen(store: &RunStore, run: &RunId, which: FailedWhere) -> Result<(), CoordinatorError> {
    let Some(summary) = ending(store).await? else {
        // Where whoever reopened it died in the middle, this is what was missing.
        hand_over(store.objects(), run).await?;
        return Err(not_ended(store, "tried again").await?);
    };
    if !any_failed(store, &summary, &which).await? {
        return Err(CoordinatorError::NothingFailed { failures: summary.failures });
    }
    // What its owner wanted of it is done; what he wants from now on counts again.
    store.forget_control().await?;
    hand_over(store.objects(), run).await?;
    fault::point("reopen.before-word");
    let reopening = Reopening { which, at: Timestamp::now() };
    let word = store.write_json_once(&ObjectKey::Reopened(after(&summary)), &reopening).await?;
    fault::point("reopen.after-word");
    // A coordinator may have struck it off the list, because it had ended until now.
    hand_over(store.objects(), run).await?;
    match word {
        Put::Created => Ok(()),
        Put::Exists => Err(not_ended(store, "tried again").await?),
    }
}

/// Whether a task of an ended run failed as `which` says. What the summary counts by code is not read again.
async fn any_failed(store: &RunStore, summary: &RunSummary, which: &FailedWhere) -> Result<bool, ObjectError> {
    let meant = |code: &str| which.code.as_ref().is_none_or(|codes| codes.iter().any(|known| known.as_str() == code));
    let by_code = summary.failures.iter().any(|(code, count)| *count > 0 && meant(code));
    if !by_code || which.retryable.is_none() {
        return Ok(by_code);
    }
    let key = store.path(&ObjectKey::Errors);
    let reader = match store.objects().open(&key).await {
        Ok(reader) => reader,
        // Somebody else's reopening is being carried out, and comes first.
        Err(error) if error.kind == ObjectErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    let mut lines = BufReader::new(reader.body).lines();
    while let Some(line) = lines.next_line().await.map_err(|error| ObjectError::broken_off(&key, &error))? {
        // Rows that never became a task stand there, too.
        let outcome = serde_json::from_str::<TaskOutcome>(&line).map(|line| line.outcome);
        if matches!(outcome, Ok(Outcome::Failed(error)) if which.fits(&error)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// That the run has not ended, with the state it is in.
pub(crate) async fn not_ended(store: &RunStore, wanted: &'static str) -> Result<CoordinatorError, ObjectError> {
    Ok(CoordinatorError::NotEnded { state: store.control().await?.state, wanted })
}

/// What was said to be reopened after `summary`; `None` where nothing was.
pub(crate) async fn asked(store: &RunStore, summary: &RunSummary) -> Result<Option<Reopening>, ObjectError> {
    store.read_json(&ObjectKey::Reopened(after(summary))).await
}

/// Makes the round that a reopening asks for and takes the ending back, the summary last.
pub(crate) async fn carry_out(
    store: &RunStore,
    spec: &RunSpec,
    progress: &dyn Progress,
    summary: &RunSummary,
    reopening: Reopening,
) -> Result<(), CoordinatorError> {
    let round = after(summary);
    tracing::info!(target: "diorama", run = %spec.run, round = round.0, "failed tasks of an ended run are tried again");
    if store.round(round).await?.is_none() {
        let info = make_round(store, spec, round, reopening).await?;
        rounds::complete(store, info).await?;
    }
    fault::point("reopen.after-round-complete");
    // The progress service was to forget an ended run; this one is to be remembered.
    rebuild(store, spec, progress).await?;
    store.delete(&ObjectKey::Results).await?;
    fault::point("reopen.after-results");
    store.delete(&ObjectKey::Errors).await?;
    fault::point("reopen.before-summary");
    store.delete(&ObjectKey::Summary).await?;
    fault::point("reopen.after-summary");
    Ok(())
}

/// Writes the input shards of a round of the failed tasks that are meant, in the manifest's order. Which those are
/// follows from the markers of the rounds before alone.
async fn make_round(
    store: &RunStore,
    spec: &RunSpec,
    round: Round,
    reopening: Reopening,
) -> Result<RoundInfo, CoordinatorError> {
    let before = rounds::all(store).await?;
    let mut outcomes = Outcomes::new(store, spec, &before);
    let mut writer = RoundWriter::new(store, spec, round);
    let (mut left, mut wanted) = (0u64, Wanted::new(spec));
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
    let (shards, tasks) = writer.finish().await?;
    Ok(RoundInfo {
        round,
        shards,
        tasks,
        not_before: reopening.at,
        budget: round,
        failed_offset: left as i64 - counted as i64,
        reopened: Some(reopening.which),
    })
}

/// Tasks that are to be read from round 0, which holds all of them, by shard.
struct Wanted {
    shard_size: u64,
    /// A shard's index, and places in it.
    shards: Vec<(u32, Vec<usize>)>,
}

impl Wanted {
    fn new(spec: &RunSpec) -> Self {
        Self { shard_size: u64::from(spec.shard_size.max(1)), shards: Vec::new() }
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
        let read = |(index, places): (u32, Vec<usize>)| async move {
            let shard = ShardId { round: Round(0), index };
            let unusable = |problem: &str| CoordinatorError::Unusable { shard, problem: problem.to_owned() };
            let tasks = store.input(shard).await?.ok_or_else(|| unusable("its input is gone"))?;
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
