//! Whether a run fits this worker: its model, and what its operator allows. Where it does not, its owner is asked first:
//! the run is paused with the reason, rather than failing task by task to its last row.

use std::sync::Arc;

use diorama_backends::objects::ObjectError;
use diorama_core::outcome::{ErrorCode, TaskError};
use diorama_core::run::ModelIdentity;
use diorama_core::task::Task;
use diorama_core::{caps, measure};
use diorama_protocol::DecideError;
use diorama_protocol::RunStore;
use diorama_protocol::decision::Act;
use diorama_protocol::history::History;
use diorama_protocol::mutant::{self, Mutant};

use crate::context::{Context, Layout};
use crate::ending::Interrupt;
use crate::plan::Keys;
use crate::runs::Known;
use crate::work::Work;

/// Whether this worker's model is the one that the run is bound to. The first worker binds a run that names none. A run
/// that is bound to another one is paused with the reason: its pictures come from one model.
pub(crate) async fn is_our_model(context: &Context, store: &RunStore, known: &Known) -> Result<bool, ObjectError> {
    let here = &context.device.identity(&known.spec.measures);
    let bound = match (&known.spec.model, known.history.model()) {
        (Some(bound), _) | (None, Some(bound)) => Some(bound.clone()),
        (None, None) => decide(context, store, known, Act::Bound { model: here.clone() }).await?.model().cloned(),
    };
    // Where it could not be bound any more the run is over, and whoever asks next hears that.
    let differs = |bound: &ModelIdentity| bound != here && !mutant::is_back(Mutant::ModelIsNotChecked);
    let Some(bound) = bound.filter(differs) else { return Ok(true) };
    let reason = format!(
        "the run started with the model {bound}, but {} of the pool {} serves {here}; serve the former in this pool \
         and resume the run, or submit it again",
        context.config.worker, context.config.pool
    );
    pause(context, store, known, reason).await?;
    Ok(false)
}

/// Whether this worker can measure what the run asks for; else the run is paused with what is missing. A run on this
/// machine was checked before it began.
pub(crate) async fn can_measure(context: &Context, store: &RunStore, known: &Known) -> Result<bool, ObjectError> {
    let missing = context.device.unmeasurable(&known.spec.measures);
    if missing.is_empty() {
        return Ok(true);
    }
    let reason = format!(
        "the run wants {} measured, and {} of the pool {} cannot: {}; start the workers of this pool with a folder of \
         networks that holds it (networks) and resume the run, or submit it again without",
        missing.join(", "),
        context.config.worker,
        context.config.pool,
        measure::missing(&missing)
    );
    pause(context, store, known, reason).await?;
    Ok(false)
}

/// Whether the run as a whole asks for no more than this worker's operator allows; else it is paused with the reason. Its
/// coordinator has checked that, unless it is another one, or was told otherwise.
pub(crate) async fn is_within_caps(context: &Context, store: &RunStore, known: &Known) -> Result<bool, ObjectError> {
    let spec = &known.spec;
    let caps = &context.config.caps;
    let problems = caps.problems(spec.shard_size, &spec.retry, &spec.settings, &spec.compare, spec.accept.as_ref());
    within_caps(context, store, known, problems).await
}

/// The same of what the rows of a shard ask.
pub(crate) async fn are_within_caps(
    context: &Context,
    store: &RunStore,
    known: &Known,
    tasks: &[Task],
) -> Result<bool, ObjectError> {
    let mut problems: Vec<String> =
        caps::too_heavy(tasks, caps::pictures(&known.spec.compare, known.spec.accept.as_ref())).into_iter().collect();
    let refused = tasks.iter().find_map(|task| Some((task, context.config.caps.check(task).err()?)));
    problems.extend(refused.map(|(task, error)| format!("{}: {error}", task.custom_id)));
    within_caps(context, store, known, problems).await
}

async fn within_caps(
    context: &Context,
    store: &RunStore,
    known: &Known,
    problems: Vec<String>,
) -> Result<bool, ObjectError> {
    // Whoever runs it on this machine is the operator.
    if problems.is_empty() || context.config.layout == Layout::OwnFolder {
        return Ok(true);
    }
    let reason = format!(
        "the run asks for more than {} of the pool {} allows: {}; submit it again with less, or raise the workers' \
         limits and resume it",
        context.config.worker,
        context.config.pool,
        problems.join("; ")
    );
    pause(context, store, known, reason).await?;
    Ok(false)
}

/// Whether a shard may run with this model: false where every task of it was refused and the run's settings by themselves
/// would be, too. Then its owner decides; whoever resumes it has the failures written. A run on this machine was checked
/// before it began.
pub(crate) async fn settings_fit(
    context: &Context,
    work: &Work,
    known: &Known,
    keys: &Keys,
) -> Result<bool, Interrupt> {
    let all_refused = keys.iter().all(|variants| variants.first().and_then(misfit).is_some());
    let Some(first) = work.tasks.first().filter(|_| all_refused && context.config.layout == Layout::Shared) else {
        return Ok(true);
    };
    let of_the_run = Task { settings: work.spec.settings.clone(), ..first.clone() };
    let checked = context.device.check(vec![of_the_run]).await?;
    let Some(error) = checked.first().and_then(misfit) else { return Ok(true) };
    let reason = format!(
        "the run's settings do not fit the model that the pool {} serves: {error}; cancel the run and submit it with \
         other settings, or resume it: its tasks then fail as {}",
        context.config.pool, error.code
    );
    if known.history.was_resumed_after(&reason) {
        return Ok(true);
    }
    pause(context, &work.store, known, reason).await?;
    Ok(false)
}

async fn pause(context: &Context, store: &RunStore, known: &Known, reason: String) -> Result<(), ObjectError> {
    tracing::error!(%reason, "the run is paused");
    decide(context, store, known, Act::Paused { reason: Some(reason) }).await.map(drop)
}

/// Adds to the run's log what may be added; gives the log as it is then.
async fn decide(context: &Context, store: &RunStore, known: &Known, act: Act) -> Result<Arc<History>, ObjectError> {
    let (run, by) = (&known.spec.run, context.config.worker.as_str());
    let mut history = (*known.history).clone();
    let decided = context.backends.decide(store, run, &mut history, by, act).await;
    let history = context.runs.learn(run, history);
    match decided {
        Ok(_) => Ok(history),
        Err(DecideError::Refused(refused)) => {
            tracing::info!(%refused, "the run was taken further meanwhile");
            Ok(history)
        }
        Err(DecideError::Objects(error)) => Err(error),
    }
}

/// Why the settings do not fit the model, where they do not.
fn misfit<T>(checked: &Result<T, TaskError>) -> Option<&TaskError> {
    checked.as_ref().err().filter(|error| error.code == ErrorCode::InvalidSettings)
}
