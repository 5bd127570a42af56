//! The form as it comes over the wire: its parts, streamed to disk, within their limits.

use std::path::Path;

use axum::body::Body;
use axum::extract::multipart::{Field, MultipartError};
use axum::extract::{FromRequest, Multipart, Request};
use diorama_backends::blocking;
use diorama_core::clock;
use diorama_core::id::{RunId, Sha256Hex};
use diorama_core::manifest::ManifestIssue;
use diorama_core::measure::Asked;
use diorama_core::run::RunSpec;
use diorama_core::settings::Settings;
use diorama_core::text;
use diorama_manifest::{Budget, Format, LISTED_SKIPPED, Manifest, ManifestReport, References, Rules, cleaned, columns};
use sha2::{Digest, Sha256};
use tempfile::TempPath;

use super::ahead::{Ahead, Taken};
use super::request::{SubmitRequest, seed};
use super::{manifest_error, object};
use crate::api::auth::Caller;
use crate::api::problem::{disk, panicked};
use crate::api::{Problem, Shared};
use crate::scratch::Scratch;

/// The largest spec, in bytes.
const MAX_SPEC_BYTES: usize = 1 << 20;

/// The most characters that are told of a spec that cannot be read: room for the list of its keys.
const MAX_SPEC_PROBLEM: usize = 600;

/// The largest list of rows that the sender skipped, in bytes.
const MAX_INVALID_BYTES: u64 = 32 << 20;

/// CPU seconds that the check of a manifest may take, and more for each MiB of it: ten times what the slowest of our own
/// needs.
const CHECK_SECONDS: f64 = 3.0;
const CHECK_SECONDS_A_MIB: f64 = 1.0;

/// What the check of a manifest may take.
pub(super) fn budget() -> Budget {
    Budget::of_seconds(CHECK_SECONDS, CHECK_SECONDS_A_MIB)
}

/// What came over the wire.
pub(super) struct Upload {
    pub(super) request: SubmitRequest,
    /// `None`: the request names an object.
    manifest: Option<TempPath>,
    pub(super) invalid: Vec<ManifestIssue>,
    /// Of all that was sent, by which it is known again.
    pub(super) sha256: Sha256Hex,
}

/// A part that is a file.
struct Part {
    file: TempPath,
    sha256: Sha256Hex,
}

impl Upload {
    /// Reads the form; its manifest has at most `limit` bytes.
    pub(super) async fn receive(api: &Shared, request: Request, limit: u64) -> Result<Self, Problem> {
        let taken = Taken::default();
        let body = |body: Body| Body::from_stream(Ahead::new(body.into_data_stream(), taken.clone()));
        let form = Multipart::from_request(request.map(body), &()).await;
        let mut form = form.map_err(|refused| Problem::bad_request("invalid_form", refused.body_text()))?;
        let (mut request, mut manifest, mut invalid) = (None::<SubmitRequest>, None::<Part>, Vec::new());
        let mut skipped = None;
        let scratch = &api.config.scratch;
        while let Some(mut field) = form.next_field().await.map_err(cut_off)? {
            match field.name() {
                Some("spec") => request = Some(read_spec(&mut field, &taken).await?),
                Some("manifest") => {
                    manifest = Some(to_disk(scratch, &mut field, &taken, "manifest", limit).await?);
                }
                Some("invalid") => {
                    let part = to_disk(scratch, &mut field, &taken, "list of skipped rows", MAX_INVALID_BYTES).await?;
                    invalid = blocking::run(move || read_invalid(&part.file)).await.map_err(panicked)??;
                    skipped = Some(part.sha256);
                }
                other => {
                    let other = text::quoted(other.unwrap_or_default());
                    let message = format!("the form has a part {other}; its parts are spec, manifest and invalid");
                    return Err(Problem::bad_request("unknown_part", message));
                }
            }
        }
        let request = request.ok_or_else(|| Problem::bad_request("missing_part", "the form has no part spec"))?;
        match (&manifest, &request.manifest_object) {
            (Some(_), Some(_)) => {
                let message = "both a part manifest and manifest_object are given; remove one";
                return Err(Problem::bad_request("two_manifests", message));
            }
            (None, None) => return Err(Problem::bad_request("missing_part", "the form has no part manifest")),
            _ => {}
        }
        let said = serde_json::to_string(&request).unwrap_or_default();
        let digests = [manifest.as_ref().map(|part| &part.sha256), skipped.as_ref()];
        let digests = digests.map(|sha256| sha256.map(Sha256Hex::as_str).unwrap_or_default());
        let sha256 = Sha256Hex::of(format!("{said}\n{}", digests.join("\n")).as_bytes());
        Ok(Self { request, manifest: manifest.map(|part| part.file), invalid, sha256 })
    }

    /// The manifest; one that is an object is fetched.
    pub(super) async fn manifest(&mut self, api: &Shared, settings: Settings, limit: u64) -> Result<Manifest, Problem> {
        let file = match (self.manifest.take(), &self.request.manifest_object) {
            (None, Some(address)) => object::fetch(api, address, limit).await?,
            (Some(file), _) => file,
            (None, None) => return Err(Problem::bad_request("missing_part", "the form has no part manifest")),
        };
        let file = self.manifest.insert(file);
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
            follow_links: false,
            extra_columns: self.request.extra_columns,
            columns: columns(self.request.columns.iter().map(|(key, column)| (key.as_str(), column.as_str())))
                .map_err(|message| Problem::bad_request("invalid_spec", message))?,
        };
        let manifest = Manifest::open(file, Some(format), rules).map_err(manifest_error)?;
        match &api.config.reference_root {
            Some(root) => manifest.with_root(root).map_err(manifest_error),
            None => Ok(manifest),
        }
    }

    pub(super) fn spec(
        &self,
        api: &Shared,
        caller: &Caller,
        run: &RunId,
        (settings, asked): (Settings, Asked),
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
            owner: caller.owner(),
            name: request.name.clone(),
            labels: request.labels.clone(),
            pool: request.pool.clone(),
            priority: request.priority,
            weight: request.weight,
            submitted_at: clock::now(),
            manifest: request.manifest.clone(),
            manifest_sha256: report.sha256.clone(),
            reference_root,
            settings,
            seed: seed(request.seed)?,
            compare: request.compare.clone(),
            measures: asked.measures,
            accept: asked.accept,
            format: request.format,
            shard_size: request.shard_size,
            tasks: report.tasks,
            invalid_rows: report.invalid_rows + self.invalid.len() as u64,
            retry: request.retry.clone(),
            keep_references: request.keep_references,
            stop_if: request.stop_if,
            model: None,
            request_sha256: Some(self.sha256.clone()),
        })
    }
}

async fn read_spec(field: &mut Field<'_>, taken: &Taken) -> Result<SubmitRequest, Problem> {
    let mut text = Vec::new();
    while let Some(chunk) = field.chunk().await.map_err(cut_off)? {
        taken.add(chunk.len());
        text.extend_from_slice(&chunk);
        if text.len() > MAX_SPEC_BYTES {
            return Err(Problem::too_large("spec", MAX_SPEC_BYTES as u64));
        }
    }
    // What a library says quotes the whole of what it did not expect.
    let bad = |error: serde_json::Error| text::plain(&format!("spec: {error}"), MAX_SPEC_PROBLEM);
    serde_json::from_slice(&text).map_err(|error| Problem::bad_request("invalid_spec", bad(error)))
}

async fn to_disk(
    scratch: &Path,
    field: &mut Field<'_>,
    taken: &Taken,
    what: &str,
    limit: u64,
) -> Result<Part, Problem> {
    let (mut file, mut bytes, mut digest) = (Scratch::new(scratch), 0, Sha256::new());
    while let Some(chunk) = field.chunk().await.map_err(cut_off)? {
        taken.add(chunk.len());
        bytes += chunk.len() as u64;
        if bytes > limit {
            return Err(Problem::too_large(what, limit));
        }
        digest.update(&chunk);
        file.write(&chunk).await.map_err(disk)?;
    }
    let file = file.into_file().await.map_err(disk)?;
    Ok(Part { file, sha256: Sha256Hex::from_digest(digest.finalize().into()) })
}

fn read_invalid(file: &Path) -> Result<Vec<ManifestIssue>, Problem> {
    let bad = |problem: String| Problem::bad_request("invalid_part", format!("invalid: {problem}"));
    let file = std::io::BufReader::new(std::fs::File::open(file).map_err(disk)?);
    let mut issues = Vec::new();
    for issue in serde_json::Deserializer::from_reader(file).into_iter() {
        // One more says how many are not listed.
        if issues.len() > LISTED_SKIPPED {
            return Err(bad(format!("it has more than {LISTED_SKIPPED} lines")));
        }
        issues.push(cleaned(issue.map_err(|error| bad(error.to_string()))?));
    }
    Ok(issues)
}

fn cut_off(error: MultipartError) -> Problem {
    Problem::bad_request("cut_off", format!("the upload was interrupted: {}; send it again", error.body_text()))
}
