//! Submission over HTTP: the spec and the manifest come as parts of one form, the manifest is streamed to disk, checked
//! as a whole, and only then becomes a run.

mod ahead;
mod form;
mod object;
mod request;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::{Extension, Json};
use diorama_backends::blocking;
use diorama_backends::objects::list_all;
use diorama_core::address::Readable;
use diorama_core::caps::{self, Weight};
use diorama_core::id::{Pool, RunId, Sha256Hex};
use diorama_core::key::SharedKey;
use diorama_core::measure::check_task;
use diorama_core::outcome::{ErrorCode, TaskError};
use diorama_core::task::{Reference, Task};
use diorama_core::text::{self, counted};
use diorama_manifest::{LISTED_SKIPPED, ManifestError, ManifestReport};
use diorama_protocol::RunStore;

use self::form::Upload;
pub(super) use self::request::Form;
pub use self::request::SubmitRequest;
use super::audit::About;
use super::auth::Caller;
use super::problem::{disk, panicked};
use super::usage::one_more_run;
use super::{Opened, Problem, Shared};
use crate::delete;
use crate::error::CoordinatorError;
use crate::service::hand_over;
use crate::status::RunStatus;
use crate::submit::{Submission, submit};

/// Issues that a refusal lists; all are counted.
const LISTED_ISSUES: usize = 1000;

/// Submits a run. With the header `Idempotency-Key`, the same request again gives the run that the first one made.
#[utoipa::path(post, path = "/v1/runs", tag = "runs",
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 200 characters of the sender's choice")),
    request_body(content = Form, content_type = "multipart/form-data"),
    responses((status = 201, description = "submitted", body = RunStatus), (status = 200, description = "it was there already", body = RunStatus),
              (status = 400, body = Problem), (status = 403, description = "the token does not allow such a run", body = Problem),
              (status = 409, description = "another run has the key, or uploaded references are missing", body = Problem),
              (status = 413, body = Problem),
              (status = 422, description = "the manifest has issues, and nothing was accepted; or the key was used for another request", body = Problem),
              (status = 429, description = "the token has as many runs as it is allowed", body = Problem)))]
pub(super) async fn create(
    State(api): State<Shared>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<(StatusCode, Extension<About>, Json<RunStatus>), Problem> {
    refuse_encoding(request.headers())?;
    let key = idempotency_key(&caller, request.headers())?;
    let limits = caller.limits();
    let bytes = limits.bytes(api.config.max_manifest_bytes);
    let mut upload = Upload::receive(&api, request, bytes).await?;
    if let Some(there) = submitted_before(&api, &caller, key.as_ref(), &upload.sha256).await? {
        let run = there.spec.run.clone();
        // Whoever decided it may have died, or stand still, before it was handed over.
        if there.history.ended().is_none() {
            hand_over_or_later(&api, &run).await;
        }
        return Ok((StatusCode::OK, Extension(About(run)), Json(there.status(&api).await?)));
    }
    let of_fleet = &api.config.limits.caps;
    let asked = upload.request.asked()?;
    let settings = upload.request.check(of_fleet, &asked)?;
    limits.check_request(&upload.request)?;
    check_pool(&api, &upload.request.pool).await?;
    let _one_more = one_more_run(&api, &caller).await?;
    let budget = form::budget();
    // Whoever hangs up drops this request, and with it what keeps the check going.
    let _waiting = budget.stop_on_drop();
    let manifest = upload.manifest(&api, settings.clone(), bytes).await?.within(budget);
    let skip = upload.request.skip_invalid;
    let (checked, within, readable) = (manifest.clone(), of_fleet.clone(), api.config.readable.clone());
    let turn = api.callers.check(&caller, &api.config.limits).await;
    let pictures = caps::pictures(&upload.request.compare, asked.accept.as_ref());
    let weight = Mutex::new(Weight::new(upload.request.shard_size, pictures));
    let measures = asked.measures.clone();
    let validate = move || {
        let check = |task: &Task| {
            weight.lock().unwrap_or_else(PoisonError::into_inner).add(task);
            within.check(task)?;
            check_task(&measures, task)?;
            check_reference(&readable, task)
        };
        let report = checked.validate(&check, if skip { LISTED_SKIPPED } else { LISTED_ISSUES });
        (report, weight.into_inner().unwrap_or_else(PoisonError::into_inner))
    };
    let (report, weight) = blocking::run(validate).await.map_err(panicked)?;
    let report = report.map_err(manifest_error)?;
    drop(turn);
    if let Some(problem) = weight.problem() {
        return Err(Problem::new(413, "shard_too_large", problem));
    }
    if report.issue_count > 0 && !(skip && report.tasks > 0) {
        return Err(refused(report));
    }
    limits.check_rows(report.tasks)?;
    let bytes = manifest.bytes().map_err(manifest_error)?;
    if let Some(problem) = caps::too_many_shards(report.tasks, upload.request.shard_size, bytes) {
        return Err(Problem::new(413, "too_many_shards", problem));
    }
    let run = name_run(&api, key.as_ref()).await?;
    let spec = upload.spec(&api, &caller, &run, (settings, asked), &manifest, &report)?;
    let tasks = manifest.tasks(&report).map_err(manifest_error)?;
    let mut invalid = upload.invalid;
    invalid.extend(report.skipped());
    let store = api.store(&run);
    api.backends().objects.put(&SharedKey::Submitted(run.clone()).to_string(), bytes::Bytes::new()).await?;
    let submission = Submission { spec, tasks: Box::new(tasks.map(|task| task.map_err(Into::into))), invalid };
    let spec = match submit(api.backends(), &store, &api.config.name, submission).await {
        Ok(spec) => spec,
        Err(error) => {
            if matches!(error, CoordinatorError::UnknownBlobs { .. } | CoordinatorError::TooHeavy(_)) {
                take_back(&api, &store, &run).await;
            }
            return Err(error.into());
        }
    };
    hand_over_or_later(&api, &run).await;
    tracing::info!(%run, tasks = spec.tasks, pool = %spec.pool, "a run was submitted");
    // It is submitted, whether or not anything can be said of it now: an error would have it submitted again.
    let spec = Arc::new(spec);
    let told = async {
        let opened = Opened::submitted(&caller, store.clone(), spec.clone(), store.history().await?);
        Ok::<_, Problem>(opened.status(&api).await?)
    };
    Ok((
        StatusCode::CREATED,
        Extension(About(run)),
        Json(told.await.unwrap_or_else(|problem| RunStatus::just_submitted(&spec, &problem.detail))),
    ))
}

/// The run that this request made before. Its key may not name another one.
async fn submitted_before(
    api: &Shared,
    caller: &Caller,
    key: Option<&Sha256Hex>,
    request: &Sha256Hex,
) -> Result<Option<Opened>, Problem> {
    let Some(Made { run, .. }) = made_before(api, key).await? else { return Ok(None) };
    let Some(there) = api.open(caller, &run).await? else { return Ok(None) };
    if there.spec.request_sha256.as_ref().is_some_and(|first| first != request) {
        let message = format!(
            "this Idempotency-Key was used for another request, which made the run {run}; use a new key for this one"
        );
        return Err(Problem::new(422, "idempotency_key_reused", message));
    }
    Ok(Some(there).filter(|there| there.history.is_submitted()))
}

/// Refuses a pool that is none: where some are declared, those are pools, and those that workers serve.
async fn check_pool(api: &Shared, pool: &Pool) -> Result<(), Problem> {
    let declared = &api.config.pools;
    if declared.is_empty() || declared.contains(pool) {
        return Ok(());
    }
    let served = api.backends().progress.workers().await?.into_iter().map(|worker| worker.pool);
    let pools: BTreeSet<Pool> = declared.iter().cloned().chain(served).collect();
    if pools.contains(pool) {
        return Ok(());
    }
    let pools: Vec<_> = pools.iter().map(Pool::as_str).collect();
    let message = format!("there is no pool {pool}; there are: {}", pools.join(", "));
    Err(Problem::bad_request("unknown_pool", message))
}

/// Refuses a row that names an object which nobody reads for submitters.
fn check_reference(readable: &Readable, task: &Task) -> Result<(), TaskError> {
    match &task.reference {
        Some(Reference::S3(address)) if !readable.allows_address(address) => {
            let message = format!(
                "the reference {} is not below a bucket and prefix that this fleet reads for submitters (s3_readable); ask \
                 whoever runs it, or upload the picture",
                text::quoted(address)
            );
            Err(TaskError::permanent(ErrorCode::ReferenceForbidden, message))
        }
        _ => Ok(()),
    }
}

/// A refused manifest leaves no run, so that the next one under its key is free to be another.
async fn take_back(api: &Shared, store: &RunStore, run: &RunId) {
    let taken_back = async {
        let mut history = store.history().await?;
        delete::delete(api.backends(), store, run, &mut history, &api.config.name).await?;
        hand_over(api.backends(), run).await
    };
    if let Err(error) = taken_back.await {
        tracing::warn!(%run, %error, "the incomplete submission will be collected later");
    }
}

/// Hands a run over. Where this fails, or we die before, the leading coordinator finds it when it looks at all runs.
async fn hand_over_or_later(api: &Shared, run: &RunId) {
    if let Err(error) = hand_over(api.backends(), run).await {
        tracing::warn!(%run, %error, "the leader was not notified; it will pick the run up on its next scan");
    }
}

/// What is sent is read as it is: nothing that is small here and large there.
fn refuse_encoding(headers: &HeaderMap) -> Result<(), Problem> {
    match headers.get(header::CONTENT_ENCODING) {
        Some(encoding) if encoding != "identity" => Err(Problem::new(
            415,
            "unsupported_encoding",
            format!("the Content-Encoding {encoding:?} is not accepted; send the form uncompressed"),
        )),
        _ => Ok(()),
    }
}

/// The key of this submission, which belongs to whoever sends it.
fn idempotency_key(caller: &Caller, headers: &HeaderMap) -> Result<Option<Sha256Hex>, Problem> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    if !(1..=200).contains(&value.len()) || text::control(&String::from_utf8_lossy(value.as_bytes())).is_some() {
        let message = "Idempotency-Key has 1 to 200 characters, none of them a control character";
        return Err(Problem::bad_request("invalid_idempotency_key", message));
    }
    // No header has a line break in it, and no name: so no key is another token's.
    Ok(Some(match caller.name() {
        Some(name) => Sha256Hex::of(&[name.as_bytes(), b"\n", value.as_bytes()].concat()),
        None => Sha256Hex::of(value.as_bytes()),
    }))
}

/// What the same request made before.
struct Made {
    run: RunId,
    /// How often the key was used anew, because its run was deleted.
    number: u32,
}

/// The run that a submission with this key became last, deleted or not.
async fn made_before(api: &Shared, key: Option<&Sha256Hex>) -> Result<Option<Made>, Problem> {
    let Some(key) = key else { return Ok(None) };
    let objects = &*api.backends().objects;
    let entries = list_all(objects, &format!("{}{key}.", SharedKey::IDEMPOTENCY)).await?;
    let number = |entry: &str| entry.rsplit_once('.').and_then(|(_, number)| number.parse::<u32>().ok());
    let Some(number) = entries.iter().filter_map(|entry| number(&entry.key)).max() else { return Ok(None) };
    let entry = SharedKey::Idempotency(key.clone(), number).to_string();
    let run = RunId::new(String::from_utf8_lossy(&objects.get(&entry).await?))
        .map_err(|error| diorama_backends::objects::ObjectError::damaged(entry, error.to_string()))?;
    Ok(Some(Made { run, number }))
}

/// A new run's id, or the one that the same submission chose before it was cut off. Of several at once, the first one's.
async fn name_run(api: &Shared, key: Option<&Sha256Hex>) -> Result<RunId, Problem> {
    let run = RunId::generate();
    let Some(key) = key else { return Ok(run) };
    loop {
        let number = match made_before(api, Some(key)).await? {
            // Its life is over; this is another one, with an id of its own.
            Some(before) if api.store(&before.run).history().await?.is_deleted() => before.number + 1,
            Some(before) => return Ok(before.run),
            None => 0,
        };
        if api.backends().name_run(key, number, run.clone()).await? == run {
            return Ok(run);
        }
    }
}

fn refused(report: ManifestReport) -> Problem {
    let good = report.tasks;
    let hint =
        if good > 0 { format!("{good} rows are valid; skip_invalid runs those") } else { "no row is valid".to_owned() };
    Problem {
        issues: Some(report.issues),
        issue_count: Some(report.issue_count),
        ..Problem::new(
            422,
            "invalid_manifest",
            format!("the manifest has {}; {hint}", counted(report.issue_count, "issue")),
        )
    }
}

fn manifest_error(error: ManifestError) -> Problem {
    match error {
        ManifestError::UnknownFormat(_) | ManifestError::Foreign { .. } => {
            Problem::bad_request("invalid_spec", error.to_string())
        }
        ManifestError::Read { source, .. } | ManifestError::Scratch { source, .. } => disk(source),
        ManifestError::TooCostly { seconds, .. } => Problem::new(
            422,
            "manifest_too_costly",
            format!(
                "checking the manifest took more than {seconds:.0} CPU seconds, which is more than any manifest of \
                 its size needs; split it, or send it as JSONL"
            ),
        ),
        ManifestError::Stopped(_) => Problem::bad_request("cut_off", error.to_string()),
        ManifestError::Changed(_) => panicked(error),
    }
}
