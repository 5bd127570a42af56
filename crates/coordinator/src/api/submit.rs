//! Submission over HTTP: the spec and the manifest come as parts of one form, the manifest is streamed to disk, checked
//! as a whole, and only then becomes a run.

use std::path::Path;

use axum::Json;
use axum::extract::multipart::{Field, MultipartError};
use axum::extract::{Multipart, State};
use axum::http::{HeaderMap, StatusCode, header};
use diorama_core::id::{Pool, RunId, Seed, Sha256Hex};
use diorama_core::key::SharedKey;
use diorama_core::manifest::ManifestIssue;
use diorama_core::range::{self, Range};
use diorama_core::retry::RetryPolicy;
use diorama_core::run::{OutputFormat, RunSpec};
use diorama_core::settings::{Method, Settings};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tempfile::TempPath;
use tokio::io::{AsyncWriteExt, BufWriter};
use utoipa::ToSchema;
use utoipa::openapi::{KnownFormat, Object, ObjectBuilder, SchemaFormat, Type};

use super::{Problem, Shared, manifest_object};
use crate::manifest::{Format, Manifest, ManifestError, ManifestReport, References, Rules};
use crate::status::{RunStatus, status};
use crate::submit::{Submission, is_submitted, submit};

/// Issues that a refusal lists; all are counted.
const LISTED_ISSUES: usize = 1000;

/// The largest spec, in bytes.
const MAX_SPEC_BYTES: usize = 1 << 20;

/// The largest list of rows that the sender skipped, in bytes.
const MAX_INVALID_BYTES: u64 = 1 << 30;

fn webdataset() -> OutputFormat {
    OutputFormat::Webdataset
}

fn sixty_four() -> u32 {
    64
}

fn one() -> u32 {
    1
}

/// What a run is to be (the part `spec` of the form).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SubmitRequest {
    /// The pool whose workers do it.
    #[schema(value_type = String, example = "default")]
    pub pool: Pool,
    /// What its owner calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The manifest, as its owner names it.
    #[serde(default)]
    pub manifest: String,
    /// The format of the manifest: `jsonl`, `csv` or `parquet`.
    #[serde(default = "jsonl")]
    pub manifest_format: String,
    /// Instead of a part `manifest`: the object that holds it, `s3://bucket/key` or a key of the fleet's own store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_object: Option<String>,
    /// The settings of every row that does not set its own.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub settings: Map<String, Value>,
    /// From which rows without a seed derive theirs.
    #[serde(default)]
    pub seed: u64,
    /// Other methods to make beside each picture.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub compare: Vec<Method>,
    /// How pictures are stored: `webdataset` or `files`.
    #[serde(default = "webdataset")]
    #[schema(value_type = String)]
    pub format: OutputFormat,
    /// Tasks a shard: [`range::SHARD_SIZE`].
    #[serde(default = "sixty_four")]
    #[schema(schema_with = shard_size)]
    pub shard_size: u32,
    /// When failed tasks are tried again.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub retry: RetryPolicy,
    /// Goes on with the good rows where some are bad.
    #[serde(default)]
    pub skip_invalid: bool,
    /// Runs of a higher priority in the same pool go first: [`range::PRIORITY`].
    #[serde(default)]
    #[schema(schema_with = priority)]
    pub priority: i32,
    /// Its share of the pool among runs of the same priority: [`range::WEIGHT`].
    #[serde(default = "one")]
    #[schema(schema_with = weight)]
    pub weight: u32,
}

fn jsonl() -> String {
    "jsonl".to_owned()
}

/// A whole number of `range`, in the OpenAPI document.
fn whole(about: &str, range: Range) -> ObjectBuilder {
    let bound = |number: f64| Some(number as isize);
    ObjectBuilder::new()
        .schema_type(Type::Integer)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int32)))
        .description(Some(about))
        .minimum(bound(range.low))
        .maximum(bound(range.high))
}

fn shard_size() -> Object {
    whole("Tasks a shard.", range::SHARD_SIZE).build()
}

fn priority() -> Object {
    whole("Runs of a higher priority in the same pool go first.", range::PRIORITY).build()
}

fn weight() -> Object {
    whole("Its share of the pool among runs of the same priority.", range::WEIGHT).build()
}

/// The form, for the OpenAPI document.
#[derive(ToSchema)]
#[allow(dead_code, reason = "only its schema is used")]
pub(super) struct Form {
    /// First: what the run is to be, as JSON.
    spec: SubmitRequest,
    /// The manifest's bytes.
    #[schema(value_type = String, format = Binary)]
    manifest: Vec<u8>,
    /// Optional: rows that the sender refused and skipped, as JSON lines; they end in `errors.jsonl`.
    #[schema(value_type = Option<String>, format = Binary)]
    invalid: Option<Vec<u8>>,
}

/// Submits a run. With the header `Idempotency-Key`, the same request again gives the run that the first one made.
#[utoipa::path(post, path = "/v1/runs", tag = "runs",
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 200 characters of the sender's choice")),
    request_body(content = Form, content_type = "multipart/form-data"),
    responses((status = 201, description = "submitted", body = Object), (status = 200, description = "it was there already", body = Object),
              (status = 400, body = Problem), (status = 413, body = Problem),
              (status = 422, description = "the manifest has issues; none of it was taken", body = Problem)))]
pub(super) async fn create(
    State(api): State<Shared>,
    headers: HeaderMap,
    form: Multipart,
) -> Result<(StatusCode, Json<RunStatus>), Problem> {
    refuse_encoding(&headers)?;
    let key = idempotency_key(&headers)?;
    if let Some(run) = known_run(&api, key.as_ref()).await? {
        if crate::delete::is_under_way(&*api.backends().objects, &run).await? {
            let message =
                format!("the run {run} that this request made before is being deleted; try again when it is gone");
            return Err(Problem::conflict("being_deleted", message));
        }
        if is_submitted(&api.store(&run)).await? {
            let (store, spec) = api.run(run.as_str()).await?;
            return Ok((StatusCode::OK, Json(status(api.backends(), &store, &spec).await?)));
        }
    }
    let upload = Upload::receive(&api, form).await?;
    let settings = upload.request.check()?;
    let manifest = upload.manifest(&api, settings.clone())?;
    let skip = upload.request.skip_invalid;
    let checked = manifest.clone();
    let validate = move || checked.validate(&|_| Ok(()), if skip { usize::MAX } else { LISTED_ISSUES });
    let report = tokio::task::spawn_blocking(validate).await.map_err(panicked)?.map_err(manifest_error)?;
    if report.issue_count > 0 && !(skip && report.tasks > 0) {
        return Err(refused(report));
    }
    let run = name_run(&api, key.as_ref()).await?;
    let spec = upload.spec(&api, &run, settings, &manifest, &report)?;
    let tasks = manifest.tasks(&report).map_err(manifest_error)?;
    let mut invalid = upload.invalid;
    invalid.extend(report.issues);
    let store = api.store(&run);
    for key in [SharedKey::Submitted(run.clone()), SharedKey::Active(run.clone())] {
        api.backends().objects.put(&key.to_string(), bytes::Bytes::new()).await?;
    }
    let submission = Submission { spec, tasks: Box::new(tasks.map(|task| task.map_err(Into::into))), invalid };
    let spec = submit(&store, submission).await?;
    tracing::info!(target: "diorama", %run, tasks = spec.tasks, pool = %spec.pool, "a run was submitted");
    Ok((StatusCode::CREATED, Json(status(api.backends(), &store, &spec).await?)))
}

/// What is sent is read as it is: nothing that is small here and large there.
fn refuse_encoding(headers: &HeaderMap) -> Result<(), Problem> {
    match headers.get(header::CONTENT_ENCODING) {
        Some(encoding) if encoding != "identity" => Err(Problem::new(
            415,
            "unsupported_encoding",
            format!("the Content-Encoding {encoding:?} is not read here; send the form as it is"),
        )),
        _ => Ok(()),
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<SharedKey>, Problem> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    if value.is_empty() || value.len() > 200 {
        return Err(Problem::bad_request("invalid_idempotency_key", "Idempotency-Key has 1 to 200 characters"));
    }
    Ok(Some(SharedKey::Idempotency(Sha256Hex::of(value.as_bytes()))))
}

async fn known_run(api: &Shared, key: Option<&SharedKey>) -> Result<Option<RunId>, Problem> {
    let Some(key) = key else { return Ok(None) };
    match api.backends().objects.get(&key.to_string()).await {
        Ok(run) => Ok(RunId::new(String::from_utf8_lossy(&run)).ok()),
        Err(error) if error.kind == diorama_backends::objects::ObjectErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A new run's id, or the one that the same submission chose before it was cut off.
async fn name_run(api: &Shared, key: Option<&SharedKey>) -> Result<RunId, Problem> {
    let run = RunId::generate();
    let Some(key) = key else { return Ok(run) };
    let chosen = bytes::Bytes::from(run.to_string());
    api.backends().objects.put_if_absent(&key.to_string(), chosen).await?;
    Ok(known_run(api, Some(key)).await?.unwrap_or(run))
}

/// What came over the wire.
struct Upload {
    request: SubmitRequest,
    manifest: TempPath,
    invalid: Vec<ManifestIssue>,
}

impl Upload {
    async fn receive(api: &Shared, mut form: Multipart) -> Result<Self, Problem> {
        let (mut request, mut manifest, mut invalid) = (None::<SubmitRequest>, None, Vec::new());
        let scratch = &api.config.scratch;
        while let Some(mut field) = form.next_field().await.map_err(cut_off)? {
            match field.name() {
                Some("spec") => request = Some(read_spec(&mut field).await?),
                Some("manifest") => {
                    manifest = Some(to_disk(scratch, &mut field, "manifest", api.config.max_manifest_bytes).await?);
                }
                Some("invalid") => {
                    let file = to_disk(scratch, &mut field, "list of skipped rows", MAX_INVALID_BYTES).await?;
                    invalid = read_invalid(&file)?;
                }
                other => {
                    let message = format!("the form has a part {other:?}; its parts are spec, manifest and invalid");
                    return Err(Problem::bad_request("unknown_part", message));
                }
            }
        }
        let request = request.ok_or_else(|| Problem::bad_request("missing_part", "the form has no part spec"))?;
        let manifest = match (manifest, &request.manifest_object) {
            (Some(_), Some(_)) => {
                let message = "both a part manifest and manifest_object are given; leave one out";
                return Err(Problem::bad_request("two_manifests", message));
            }
            (Some(manifest), None) => manifest,
            (None, Some(address)) => manifest_object::fetch(api, address).await?,
            (None, None) => return Err(Problem::bad_request("missing_part", "the form has no part manifest")),
        };
        Ok(Self { request, manifest, invalid })
    }

    fn manifest(&self, api: &Shared, settings: Settings) -> Result<Manifest, Problem> {
        let format: Format =
            self.request.manifest_format.parse().map_err(|message: String| {
                Problem::bad_request("invalid_spec", format!("manifest_format: {message}"))
            })?;
        let rules = Rules {
            settings,
            seed: seed(self.request.seed)?,
            compare: self.request.compare.clone(),
            references: if api.config.reference_root.is_some() { References::All } else { References::Remote },
            plain_http: api.config.plain_http,
        };
        let manifest = Manifest::open(&self.manifest, Some(format), rules).map_err(manifest_error)?;
        match &api.config.reference_root {
            Some(root) => manifest.with_root(root).map_err(manifest_error),
            None => Ok(manifest),
        }
    }

    fn spec(
        &self,
        api: &Shared,
        run: &RunId,
        settings: Settings,
        manifest: &Manifest,
        report: &ManifestReport,
    ) -> Result<RunSpec, Problem> {
        let request = &self.request;
        // Where no folder is shared, no row names a file, and the manifest's own folder is this process's alone: the same
        // submission through another coordinator must make the same spec.
        let reference_root = match api.config.reference_root {
            Some(_) => manifest.root().display().to_string(),
            None => String::new(),
        };
        Ok(RunSpec {
            version: 1,
            run: run.clone(),
            name: request.name.clone(),
            pool: request.pool.clone(),
            priority: request.priority,
            weight: request.weight,
            submitted_at: Timestamp::now(),
            manifest: request.manifest.clone(),
            manifest_sha256: report.sha256.clone(),
            reference_root,
            settings,
            seed: seed(request.seed)?,
            compare: request.compare.clone(),
            format: request.format,
            shard_size: request.shard_size,
            tasks: report.tasks,
            invalid_rows: report.invalid_rows + self.invalid.len() as u64,
            retry: request.retry.clone(),
            model: None,
        })
    }
}

impl SubmitRequest {
    /// Checks the ranges; gives the settings, read.
    fn check(&self) -> Result<Settings, Problem> {
        let mut problems = Vec::new();
        let mut settings = Settings::default();
        for (key, value) in &self.settings {
            if !Settings::KEYS.contains(&key.as_str()) {
                problems.push(format!("settings: {key} is not a setting; they are {}", Settings::KEYS.join(", ")));
            } else if let Err(error) = settings.set(key, value) {
                problems.push(error.to_string());
            }
        }
        for (key, number, range) in [
            ("shard_size", self.shard_size.into(), range::SHARD_SIZE),
            ("priority", self.priority.into(), range::PRIORITY),
            ("weight", self.weight.into(), range::WEIGHT),
            ("retry.max_rounds", self.retry.max_rounds.into(), range::MAX_ROUNDS),
            ("retry.delay_seconds", self.retry.delay_seconds, range::RETRY_DELAY),
            ("retry.poison_after", self.retry.poison_after.into(), range::POISON_AFTER),
        ] {
            if !range.contains(number) {
                problems.push(format!("{key} is out of range; it must be {range}"));
            }
        }
        if self.name.as_ref().is_some_and(|name| name.len() > range::NAME_BYTES) {
            problems.push(format!("name is out of range; it must be at most {} bytes", range::NAME_BYTES));
        }
        if problems.is_empty() { Ok(settings) } else { Err(Problem::bad_request("invalid_spec", problems.join("; "))) }
    }
}

fn seed(seed: u64) -> Result<Seed, Problem> {
    Seed::new(seed).map_err(|error| Problem::bad_request("invalid_spec", error.to_string()))
}

async fn read_spec(field: &mut Field<'_>) -> Result<SubmitRequest, Problem> {
    let mut text = Vec::new();
    while let Some(chunk) = field.chunk().await.map_err(cut_off)? {
        text.extend_from_slice(&chunk);
        if text.len() > MAX_SPEC_BYTES {
            return Err(Problem::too_large("spec", MAX_SPEC_BYTES as u64));
        }
    }
    serde_json::from_slice(&text).map_err(|error| Problem::bad_request("invalid_spec", format!("spec: {error}")))
}

async fn to_disk(scratch: &Path, field: &mut Field<'_>, what: &str, limit: u64) -> Result<TempPath, Problem> {
    let (file, path) = tempfile::NamedTempFile::new_in(scratch).map_err(disk)?.into_parts();
    let mut file = BufWriter::new(tokio::fs::File::from_std(file));
    let mut bytes = 0;
    while let Some(chunk) = field.chunk().await.map_err(cut_off)? {
        bytes += chunk.len() as u64;
        if bytes > limit {
            return Err(Problem::too_large(what, limit));
        }
        file.write_all(&chunk).await.map_err(disk)?;
    }
    file.flush().await.map_err(disk)?;
    Ok(path)
}

fn read_invalid(file: &Path) -> Result<Vec<ManifestIssue>, Problem> {
    let text = std::fs::read(file).map_err(disk)?;
    let issues: Result<_, _> = serde_json::Deserializer::from_slice(&text).into_iter().collect();
    issues.map_err(|error| Problem::bad_request("invalid_part", format!("invalid: {error}")))
}

fn refused(report: ManifestReport) -> Problem {
    let good = report.tasks;
    let hint =
        if good > 0 { format!("{good} rows are good; skip_invalid runs those") } else { "none is good".to_owned() };
    Problem {
        issues: Some(report.issues),
        issue_count: Some(report.issue_count),
        ..Problem::new(422, "invalid_manifest", format!("the manifest has {} issues; {hint}", report.issue_count))
    }
}

fn manifest_error(error: ManifestError) -> Problem {
    match error {
        ManifestError::UnknownFormat(_) => Problem::bad_request("invalid_spec", error.to_string()),
        ManifestError::Read { source, .. } | ManifestError::Scratch { source, .. } => disk(source),
        ManifestError::Changed(_) => panicked(error),
    }
}

fn cut_off(error: MultipartError) -> Problem {
    Problem::bad_request("cut_off", format!("the upload ended before its end: {}; send it again", error.body_text()))
}

pub(super) fn disk(error: std::io::Error) -> Problem {
    tracing::error!(%error, "an upload could not be kept");
    Problem::new(503, "scratch_unavailable", format!("the coordinator's scratch folder: {error}; try again later"))
}

fn panicked(error: impl std::fmt::Display) -> Problem {
    tracing::error!(%error, "checking a manifest ended badly");
    Problem::new(500, "internal", "checking the manifest ended badly; the coordinator's log says more")
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use utoipa::PartialSchema;

    use super::*;

    #[test]
    fn the_openapi_document_says_the_ranges_that_a_request_is_held_to() {
        let schema = serde_json::to_value(SubmitRequest::schema()).unwrap();
        let request = |key: &str, value: i64| {
            let request = serde_json::from_value::<SubmitRequest>(json!({ "pool": "default", key: value })).unwrap();
            request.check().map_err(|problem| problem.detail)
        };
        for key in ["shard_size", "priority", "weight"] {
            let bound = |bound: &str| schema["properties"][key][bound].as_i64().unwrap();
            let (low, high) = (bound("minimum"), bound("maximum"));
            assert!(request(key, low).is_ok() && request(key, high).is_ok(), "{key}");
            let refused = request(key, high + 1).unwrap_err();
            assert_eq!(refused, format!("{key} is out of range; it must be {low} to {high}"));
        }
        assert!(request("priority", -101).is_err());
        let required = schema["required"].as_array().unwrap();
        assert_eq!(required, &[json!("pool")], "what has a default is not required");
    }
}
