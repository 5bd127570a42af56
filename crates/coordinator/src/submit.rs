//! Submission: the spec, the input shards, and last the first entry of the run's log, which says that they are complete.
//! A run without that entry is submitted again, beside what is there; a run with it is never touched.

use diorama_backends::blocking;
use diorama_backends::objects::ObjectError;
use diorama_core::id::{AttemptId, Round, ShardId};
use diorama_core::key::ObjectKey;
use diorama_core::manifest::ManifestIssue;
use diorama_core::round::RoundInfo;
use diorama_core::run::RunSpec;
use diorama_core::task::Task;
use diorama_core::{caps, clock};
use diorama_protocol::decision::Act;
use diorama_protocol::history::{History, Refused};
use diorama_protocol::{Backends, DecideError, RunStore, fault};
use tokio::task::{JoinError, JoinSet};

use crate::blobs::BlobLists;
use crate::error::{BoxError, CoordinatorError};

/// Input shards that are written at a time.
const WRITING: usize = 16;

/// The tasks of a manifest, in its order, their indices rising from 0 without a gap.
pub type Tasks = Box<dyn Iterator<Item = Result<Task, BoxError>> + Send>;

pub struct Submission {
    /// The spec; where a run is there already, it must agree with it.
    pub spec: RunSpec,
    /// Only read where the run is not completely submitted yet.
    pub tasks: Tasks,
    /// The rows that were refused and skipped.
    pub invalid: Vec<ManifestIssue>,
}

/// Submits the run, or finds that it was submitted. Gives the spec that is in force: the first one, if there was one.
pub async fn submit(
    backends: &Backends,
    store: &RunStore,
    by: &str,
    submission: Submission,
) -> Result<RunSpec, CoordinatorError> {
    let (spec, mut history) = match store.spec().await? {
        Some(existing) => (agree(existing, &submission.spec)?, store.history().await?),
        None => {
            let first = backends.write_spec(store, submission.spec.clone()).await?;
            (agree(first, &submission.spec)?, History::default())
        }
    };
    fault::point("submit.after-spec");
    if history.is_submitted() {
        return Ok(spec);
    }
    if history.is_deleted() {
        return Err(Refused::Deleted.into());
    }
    let inputs = AttemptId::generate();
    let key = ObjectKey::InvalidRows(inputs.clone());
    let invalid = store.json_lines(&key, &submission.invalid)?;
    store.objects().put(&store.path(&key), invalid).await?;
    write_inputs(store, &spec, &inputs, submission.tasks).await?;
    fault::point("submit.after-inputs");
    let round = RoundInfo::first(spec.shards(), spec.tasks, inputs, clock::now());
    let decided = backends.decide(store, &spec.run, &mut history, by, Act::Submitted { round }).await;
    fault::point("submit.after-decision");
    match decided {
        Ok(_) => Ok(spec),
        // The same submission, by somebody who was faster.
        Err(DecideError::Refused(Refused::Late { .. })) if history.is_submitted() => Ok(spec),
        Err(error) => Err(error.into()),
    }
}

/// Whether every input shard of the run is there, so that its manifest is not needed any more.
pub async fn is_submitted(store: &RunStore) -> Result<bool, CoordinatorError> {
    Ok(store.history().await?.is_submitted())
}

async fn write_inputs(
    store: &RunStore,
    spec: &RunSpec,
    inputs: &AttemptId,
    mut tasks: Tasks,
) -> Result<(), CoordinatorError> {
    let shard_size = spec.shard_size.max(1) as usize;
    let mut found = 0;
    let mut blobs = BlobLists::new(store, inputs);
    let mut writing: JoinSet<Result<(), ObjectError>> = JoinSet::new();
    for index in 0..spec.shards() {
        // The iterator reads files: off the async threads with it, a shard at a time.
        let next_shard = move || {
            let shard = tasks.by_ref().take(shard_size).collect::<Result<Vec<_>, _>>();
            (tasks, shard)
        };
        let (rest, shard) =
            blocking::run(next_shard).await.map_err(|error| CoordinatorError::Tasks(error.to_string().into()))?;
        tasks = rest;
        let shard = shard.map_err(CoordinatorError::Tasks)?;
        if shard.is_empty() {
            break;
        }
        found += shard.len() as u64;
        if let Some(problem) = caps::too_heavy(&shard, caps::pictures(&spec.compare, spec.accept.as_ref())) {
            return Err(CoordinatorError::TooHeavy(problem));
        }
        blobs.add(&shard).await?;
        if writing.len() >= WRITING
            && let Some(written) = writing.join_next().await
        {
            flatten(written)?;
        }
        let (store, inputs) = (store.clone(), inputs.clone());
        writing.spawn(async move { store.write_input(ShardId { round: Round(0), index }, &inputs, &shard).await });
        if index == spec.shards() / 2 {
            while let Some(written) = writing.join_next().await {
                flatten(written)?;
            }
            fault::point("submit.after-half-of-the-inputs");
        }
    }
    while let Some(written) = writing.join_next().await {
        flatten(written)?;
    }
    // One more look: the end must be where it was counted, and an iterator may say only there that its file changed.
    let surplus =
        blocking::run(move || tasks.next()).await.map_err(|error| CoordinatorError::Tasks(error.to_string().into()))?;
    found += u64::from(surplus.transpose().map_err(CoordinatorError::Tasks)?.is_some());
    if found != spec.tasks {
        return Err(CoordinatorError::TaskCount { counted: spec.tasks, found });
    }
    blobs.complete().await
}

fn flatten(written: Result<Result<(), ObjectError>, JoinError>) -> Result<(), CoordinatorError> {
    match written {
        Ok(written) => Ok(written?),
        Err(error) => Err(CoordinatorError::Tasks(error.into())),
    }
}

/// The existing spec, where it is the run that was asked for. What may differ: ids, times, counts.
fn agree(existing: RunSpec, asked: &RunSpec) -> Result<RunSpec, CoordinatorError> {
    let mut differences = Vec::new();
    let mut compare = |what: &str, there: String, asked: String| {
        if there != asked {
            differences.push(format!("{what}: {there} there, {asked} requested"));
        }
    };
    let json = |value: Result<serde_json::Value, serde_json::Error>| value.unwrap_or_default();
    let (there_settings, asked_settings) =
        (json(serde_json::to_value(&existing.settings)), json(serde_json::to_value(&asked.settings)));
    for key in diorama_core::settings::Settings::KEYS {
        let shown = |settings: &serde_json::Value| settings.get(key).map_or("unset".to_owned(), ToString::to_string);
        compare(key, shown(&there_settings), shown(&asked_settings));
    }
    let methods = |spec: &RunSpec| spec.compare.iter().map(|method| method.as_str()).collect::<Vec<_>>().join(",");
    compare("manifest's sha256", existing.manifest_sha256.to_string(), asked.manifest_sha256.to_string());
    compare("folder of the references", existing.reference_root.clone(), asked.reference_root.clone());
    compare("seed of the run", existing.seed.to_string(), asked.seed.to_string());
    compare("compare", format!("{:?}", methods(&existing)), format!("{:?}", methods(asked)));
    compare("measures", existing.measures.join(","), asked.measures.join(","));
    let accept = |spec: &RunSpec| match &spec.accept {
        Some(accept) => format!("{} ({} tries)", accept.condition, accept.tries),
        None => "everything".to_owned(),
    };
    compare("accept", accept(&existing), accept(asked));
    compare("format", format!("{:?}", existing.format), format!("{:?}", asked.format));
    compare("shard size", existing.shard_size.to_string(), asked.shard_size.to_string());
    let model = |spec: &RunSpec| spec.model.as_ref().map_or("any".to_owned(), ToString::to_string);
    compare("model", model(&existing), model(asked));
    compare("pool", existing.pool.to_string(), asked.pool.to_string());
    compare("retry", format!("{:?}", existing.retry), format!("{:?}", asked.retry));
    // Without a key nobody else could have made it.
    if let (Some(there), Some(asked)) = (&existing.request_sha256, &asked.request_sha256) {
        compare("digest of the request", there.to_string(), asked.to_string());
    }
    if differences.is_empty() { Ok(existing) } else { Err(CoordinatorError::Differs { differences }) }
}
