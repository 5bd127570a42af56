//! Shards that nobody will run: the queue gave them up. They are committed as failures, so that no run hangs on them.

use diorama_backends::objects::{ObjectError, ObjectErrorKind};
use diorama_backends::queue::Settlement;
use diorama_core::clock;
use diorama_core::id::{AttemptId, Pool, RunId, ShardId, WorkerId};
use diorama_core::key::RunRoot;
use diorama_core::marker::{CommitMarker, settings_digest};
use diorama_core::outcome::{ErrorCode, Outcome, TaskError, TaskOutcome};
use diorama_core::run::RunSpec;
use diorama_core::task::Task;
use diorama_protocol::count::count_marker;
use diorama_protocol::decision::Act;
use diorama_protocol::history::History;
use diorama_protocol::{Backends, DecideError, RunStore};

use crate::error::CoordinatorError;

/// Takes the dead letters out of the pool of the run in `store`. What is wrong with one run must not stop another one:
/// that run is paused. A run that has a store of its own ends with what is wrong with it.
pub(crate) async fn bury_dead_letters(
    backends: &Backends,
    store: &RunStore,
    pool: &Pool,
    by: &str,
) -> Result<(), CoordinatorError> {
    let mut put_off = Vec::new();
    let mut wrong = Ok(());
    while let Some(dead) = backends.queue.dead_letter(pool).await? {
        let (run, shard) = (dead.message.run.clone(), dead.message.shard);
        let (given_up, is_ours) = match store.root() {
            RunRoot::Own => (give_up(backends, store, &run, shard).await, true),
            RunRoot::Shared(ours) => (give_up_or_pause(backends, &run, shard, by).await, run == *ours),
        };
        match given_up {
            Ok(()) => dead.settle(Settlement::Ack).await?,
            Err(error) => {
                put_off.push(dead);
                if is_ours || error.is_retryable() {
                    wrong = Err(error);
                    break;
                }
                tracing::warn!(%run, %shard, %error, "a dead letter of another run is left to that run");
            }
        }
    }
    // What could not be given up is looked at again.
    for dead in put_off {
        dead.settle(Settlement::HandBack).await?;
    }
    wrong
}

async fn give_up_or_pause(backends: &Backends, run: &RunId, shard: ShardId, by: &str) -> Result<(), CoordinatorError> {
    let store = RunStore::shared(backends.objects.clone(), run);
    match give_up(backends, &store, run, shard).await {
        Err(error) if is_lasting(&error) => match pause(backends, &store, run, by, &error.to_string()).await {
            // Its log is damaged, too: nobody drives it, and its shards have no markers, should it be mended.
            Err(error) if is_lasting(&error) => {
                tracing::error!(%run, %shard, %error, "a dead letter of a damaged run was discarded");
                Ok(())
            }
            paused => paused,
        },
        result => result,
    }
}

async fn give_up(backends: &Backends, store: &RunStore, run: &RunId, shard: ShardId) -> Result<(), CoordinatorError> {
    let Some(spec) = store.spec().await? else {
        tracing::error!(%run, %shard, "a dead letter of a run that does not exist was discarded");
        return Ok(());
    };
    let history = store.history().await?;
    if !history.is_under_way(shard) || history.ending().is_some() {
        tracing::info!(%run, %shard, "ignoring a dead letter: its round is over");
        return Ok(());
    }
    commit_failure(backends, store, &spec, &history, shard).await
}

/// Whether the run is at fault, not a service that is away.
fn is_lasting(error: &CoordinatorError) -> bool {
    match error {
        CoordinatorError::Unusable { .. } => true,
        CoordinatorError::Objects(error) => error.kind == ObjectErrorKind::Damaged,
        _ => false,
    }
}

/// Pauses the run with the reason, where it can be paused.
pub(crate) async fn pause(
    backends: &Backends,
    store: &RunStore,
    run: &RunId,
    by: &str,
    reason: &str,
) -> Result<(), CoordinatorError> {
    tracing::error!(%run, reason, "the run is paused");
    let history = store.history().await?;
    record(backends, store, run, history, by, Act::Paused { reason: Some(reason.to_owned()) }).await
}

/// Says in the run's log why it cannot be driven: pauses it, or, where nothing more is to run, says that it is stuck.
pub(crate) async fn record_fault(
    backends: &Backends,
    store: &RunStore,
    run: &RunId,
    by: &str,
    reason: &str,
) -> Result<(), CoordinatorError> {
    let history = store.history().await?;
    let comes_to_its_end = history.ended().is_none() && (history.ending().is_some() || history.is_cancelled());
    if !comes_to_its_end {
        return pause(backends, store, run, by, reason).await;
    }
    tracing::error!(%run, reason, "the run cannot be ended");
    record(backends, store, run, history, by, Act::Stuck { reason: reason.to_owned() }).await
}

async fn record(
    backends: &Backends,
    store: &RunStore,
    run: &RunId,
    mut history: History,
    by: &str,
    act: Act,
) -> Result<(), CoordinatorError> {
    match backends.decide(store, run, &mut history, by, act).await {
        // The run was taken further meanwhile, or cancelled: it says nothing then.
        Ok(_) | Err(DecideError::Refused(_)) => Ok(()),
        Err(DecideError::Objects(error)) => Err(error.into()),
    }
}

/// Commits the shard with a failure as the outcome of each of its tasks, unless it is committed.
async fn commit_failure(
    backends: &Backends,
    store: &RunStore,
    spec: &RunSpec,
    history: &History,
    shard: ShardId,
) -> Result<(), CoordinatorError> {
    let unusable = |problem: String| CoordinatorError::Unusable { shard, problem };
    let damaged = |error: ObjectError| match error.kind {
        ObjectErrorKind::Damaged => unusable(error.to_string()),
        _ => error.into(),
    };
    let round = history.round(shard.round).ok_or_else(|| unusable("its round is unknown".to_owned()))?;
    if store.marker(shard).await.map_err(damaged)?.is_some() {
        return Ok(());
    }
    let tasks = store.input(shard, &round.inputs).await.map_err(damaged)?;
    let tasks = tasks.ok_or_else(|| unusable("its input is gone".to_owned()))?;
    let message = "the queue gave this shard up after too many deliveries";
    let error = TaskError::transient(ErrorCode::ModelError, message);
    let outcome = |task: Task| TaskOutcome {
        task: task.index,
        custom_id: task.custom_id,
        seed: task.seed,
        outcome: Outcome::Failed(error.clone()),
        extra: task.extra,
    };
    let now = clock::now();
    let marker = CommitMarker {
        version: 2,
        run: spec.run.clone(),
        shard,
        attempt: AttemptId::generate(),
        worker: WorkerId::new("coordinator").map_err(|error| unusable(error.to_string()))?,
        model: None,
        settings: settings_digest(spec),
        archives: Vec::new(),
        outcomes: tasks.into_iter().map(outcome).collect(),
        started_at: now,
        committed_at: now,
        device_seconds: 0.0,
    };
    let winner = backends.commit(store, marker).await?;
    let last_round = history.budget(shard.round, &spec.retry);
    if let Err(error) = count_marker(&*backends.progress, &spec.run, &winner, last_round).await {
        tracing::warn!(%error, %shard, "the progress service does not know that the shard is done");
    }
    Ok(())
}
