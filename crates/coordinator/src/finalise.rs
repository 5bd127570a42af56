//! The end of a run: `results.jsonl`, `errors.jsonl`, and last `summary.json`, whose existence says that it has ended.
//!
//! Each is written as a whole or not at all, streamed, tasks in the manifest's order. What attempts left behind that
//! were never committed is removed.

use std::collections::{BTreeMap, HashSet};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use diorama_backends::fault;
use diorama_backends::objects::{ObjectError, list_all};
use diorama_backends::run_store::RunStore;
use diorama_core::id::{Round, ShardId};
use diorama_core::key::ObjectKey;
use diorama_core::manifest::ManifestIssue;
use diorama_core::outcome::{Outcome, TaskOutcome};
use diorama_core::run::{RunSpec, RunState, RunSummary};
use serde::Serialize;
use tempfile::TempPath;
use tokio::io::{AsyncWriteExt, BufWriter};

use crate::error::CoordinatorError;
use crate::outcomes::Outcomes;
use crate::rounds;

/// A line of `results.jsonl`.
#[derive(Serialize)]
struct ResultLine<'a> {
    #[serde(flatten)]
    outcome: &'a TaskOutcome,
    /// Which archive holds the files, in webdataset format.
    #[serde(skip_serializing_if = "Option::is_none")]
    archive: Option<&'a str>,
}

/// A line of `errors.jsonl` about a row that never became a task.
#[derive(Serialize)]
struct InvalidLine<'a> {
    status: &'static str,
    #[serde(flatten)]
    issue: &'a ManifestIssue,
}

/// Writes the final files of a run all of whose shards are committed. Doing it twice gives the
/// same files.
pub async fn finalise(
    store: &RunStore,
    spec: &RunSpec,
    state: RunState,
    scratch: &Path,
) -> Result<RunSummary, CoordinatorError> {
    let rounds = rounds::all(store).await?;
    let last_round = rounds.last().map_or(0, |round| round.round.0);
    let mut outcomes = Outcomes::new(store, spec, &rounds);
    let mut results = LocalFile::create(scratch).await?;
    let mut errors = LocalFile::create(scratch).await?;
    let (mut done, mut failed, mut failures) = (0, 0, BTreeMap::new());
    while let Some(last) = outcomes.next().await? {
        match &last.outcome.outcome {
            Outcome::Done { .. } => {
                done += 1;
                results.line(&ResultLine { outcome: &last.outcome, archive: last.archive.as_deref() }).await?;
            }
            Outcome::Failed(error) => {
                failed += 1;
                *failures.entry(error.code.to_string()).or_insert(0) += 1;
                errors.line(&last.outcome).await?;
            }
        }
    }
    if done + failed != spec.tasks {
        return Err(CoordinatorError::TaskCount { counted: spec.tasks, found: done + failed });
    }
    for issue in invalid_rows(store).await? {
        errors.line(&InvalidLine { status: "invalid", issue: &issue }).await?;
    }
    let wall_seconds = outcomes.totals.wall_seconds();
    let summary = RunSummary {
        run: spec.run.clone(),
        state,
        tasks: spec.tasks,
        done,
        failed,
        invalid_rows: spec.invalid_rows,
        failures,
        rounds: last_round,
        shards: outcomes.totals.counts.shards,
        device_seconds: outcomes.totals.device_seconds,
        wall_seconds,
        pictures_per_second: if wall_seconds > 0.0 { done as f64 / wall_seconds } else { 0.0 },
    };
    fault::point("finalise.before-results");
    results.put(store, &ObjectKey::Results).await?;
    fault::point("finalise.before-errors");
    errors.put(store, &ObjectKey::Errors).await?;
    sweep(store, last_round, &outcomes.totals.archives).await?;
    fault::point("finalise.before-summary");
    if store.exists(&ObjectKey::Reopened(Round(last_round + 1))).await? {
        return Err(rounds::goes_on_since(store).into());
    }
    store.write_json(&ObjectKey::Summary, &summary).await?;
    fault::point("finalise.after-summary");
    Ok(summary)
}

/// The lines of `results.jsonl` or `errors.jsonl` of a run that has not ended, as far as they are certain.
pub(crate) struct Lines {
    outcomes: Outcomes,
    results: bool,
    invalid: std::vec::IntoIter<ManifestIssue>,
}

impl Lines {
    pub(crate) async fn so_far(store: &RunStore, spec: &RunSpec, results: bool) -> Result<Self, CoordinatorError> {
        let outcomes = Outcomes::so_far(store, spec, &rounds::all(store).await?);
        let invalid = if results { Vec::new() } else { invalid_rows(store).await? };
        Ok(Self { outcomes, results, invalid: invalid.into_iter() })
    }

    /// Adds the next line, or passes over a task that has none; false at the end.
    pub(crate) async fn next(&mut self, to: &mut Vec<u8>) -> Result<bool, CoordinatorError> {
        let Some(last) = self.outcomes.next().await? else {
            let Some(issue) = self.invalid.next() else { return Ok(false) };
            add_line(to, &InvalidLine { status: "invalid", issue: &issue });
            return Ok(true);
        };
        match &last.outcome.outcome {
            Outcome::Done { .. } if self.results => {
                add_line(to, &ResultLine { outcome: &last.outcome, archive: last.archive.as_deref() });
            }
            Outcome::Failed(_) if !self.results && !self.outcomes.is_pending(&last) => add_line(to, &last.outcome),
            Outcome::Done { .. } | Outcome::Failed(_) => {}
        }
        Ok(true)
    }
}

/// These types have string keys and no maps that could fail.
fn add_line<T: Serialize>(to: &mut Vec<u8>, value: &T) {
    to.extend(serde_json::to_vec(value).unwrap_or_default());
    to.push(b'\n');
}

async fn invalid_rows(store: &RunStore) -> Result<Vec<ManifestIssue>, CoordinatorError> {
    let bytes = store.read(&ObjectKey::InvalidRows).await?.unwrap_or_default();
    let issues: Result<_, _> = serde_json::Deserializer::from_slice(&bytes).into_iter().collect();
    issues.map_err(|error| {
        let key = store.path(&ObjectKey::InvalidRows);
        ObjectError::damaged(key, error.to_string()).into()
    })
}

/// Removes archives that no marker names and journals that nobody will read. Those of later rounds are another
/// coordinator's, which has seen the run go on since.
async fn sweep(store: &RunStore, last_round: u32, named: &HashSet<String>) -> Result<(), CoordinatorError> {
    let named: HashSet<String> = named.iter().map(|key| store.relative(key)).collect();
    for folder in ["shards/", "journal/"] {
        let mut keys: Vec<String> =
            list_all(store.objects(), &store.relative(folder)).await?.into_iter().map(|object| object.key).collect();
        keys.retain(|key| {
            let name = key.rsplit_once('/').and_then(|(_, name)| name.split('.').next());
            let shard = name.and_then(|name| name.parse::<ShardId>().ok());
            !named.contains(key) && shard.is_none_or(|shard| shard.round.0 <= last_round)
        });
        store.objects().delete_all(&keys).await?;
    }
    Ok(())
}

/// A file that is prepared here and then becomes an object.
struct LocalFile {
    path: TempPath,
    file: BufWriter<tokio::fs::File>,
}

impl LocalFile {
    async fn create(scratch: &Path) -> Result<Self, CoordinatorError> {
        let (file, path) = tempfile::Builder::new()
            .prefix("final-")
            // As any new file; a temporary one would be readable by its owner only.
            .permissions(std::fs::Permissions::from_mode(0o666))
            .tempfile_in(scratch)
            .map_err(|error| preparing(scratch, &error))?
            .into_parts();
        Ok(Self { path, file: BufWriter::new(tokio::fs::File::from_std(file)) })
    }

    fn failed(&self, error: std::io::Error) -> CoordinatorError {
        preparing(&self.path, &error)
    }

    async fn line<T: Serialize>(&mut self, value: &T) -> Result<(), CoordinatorError> {
        let written = async {
            let mut line = serde_json::to_vec(value)?;
            line.push(b'\n');
            self.file.write_all(&line).await
        };
        let written = written.await;
        written.map_err(|error| self.failed(error))
    }

    async fn put(mut self, store: &RunStore, key: &ObjectKey) -> Result<(), CoordinatorError> {
        let flushed = self.file.flush().await;
        flushed.map_err(|error| self.failed(error))?;
        Ok(store.objects().put_file(&store.path(key), &self.path).await?)
    }
}

fn preparing(path: &Path, error: &std::io::Error) -> CoordinatorError {
    ObjectError::io("preparing", path.display().to_string(), error).into()
}
