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
use crate::outcomes::{Final, Outcomes, Totals};
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
    let (mut tally, mut line) = (Tally::default(), Vec::new());
    while let Some(last) = outcomes.next().await? {
        tally.add(&last);
        line.clear();
        add_task(&mut line, &last);
        let file = if last.outcome.outcome.is_done() { &mut results } else { &mut errors };
        file.write(&line).await?;
    }
    if tally.done + tally.failed != spec.tasks {
        return Err(CoordinatorError::TaskCount { counted: spec.tasks, found: tally.done + tally.failed });
    }
    for issue in invalid_rows(store).await? {
        line.clear();
        add_invalid(&mut line, &issue);
        errors.write(&line).await?;
    }
    let summary = tally.summary(spec, state, last_round, &outcomes.totals);
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

/// The outcomes of an ended run, counted.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) done: u64,
    pub(crate) failed: u64,
    failures: BTreeMap<String, u64>,
}

impl Tally {
    pub(crate) fn add(&mut self, last: &Final) {
        match &last.outcome.outcome {
            Outcome::Done { .. } => self.done += 1,
            Outcome::Failed(error) => {
                self.failed += 1;
                *self.failures.entry(error.code.to_string()).or_insert(0) += 1;
            }
        }
    }

    /// What `summary.json` says, `last_round` having been the last and `totals` what all markers said.
    pub(crate) fn summary(self, spec: &RunSpec, state: RunState, last_round: u32, totals: &Totals) -> RunSummary {
        let wall_seconds = totals.wall_seconds();
        RunSummary {
            run: spec.run.clone(),
            state,
            tasks: spec.tasks,
            done: self.done,
            failed: self.failed,
            invalid_rows: spec.invalid_rows,
            failures: self.failures,
            rounds: last_round,
            shards: totals.counts.shards,
            device_seconds: totals.device_seconds,
            wall_seconds,
            pictures_per_second: if wall_seconds > 0.0 { self.done as f64 / wall_seconds } else { 0.0 },
        }
    }
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
            add_invalid(to, &issue);
            return Ok(true);
        };
        let is_done = last.outcome.outcome.is_done();
        if is_done == self.results && (is_done || !self.outcomes.is_pending(&last)) {
            add_task(to, &last);
        }
        Ok(true)
    }
}

/// Adds a task's line: of `results.jsonl` where it has a picture, else of `errors.jsonl`.
pub(crate) fn add_task(to: &mut Vec<u8>, last: &Final) {
    if last.outcome.outcome.is_done() {
        add_line(to, &ResultLine { outcome: &last.outcome, archive: last.archive.as_deref() });
    } else {
        add_line(to, &last.outcome);
    }
}

/// Adds the line of `errors.jsonl` about a row that was refused.
pub(crate) fn add_invalid(to: &mut Vec<u8>, issue: &ManifestIssue) {
    add_line(to, &InvalidLine { status: "invalid", issue });
}

/// These types have string keys and no maps that could fail.
fn add_line<T: Serialize>(to: &mut Vec<u8>, value: &T) {
    to.extend(serde_json::to_vec(value).unwrap_or_default());
    to.push(b'\n');
}

pub(crate) async fn invalid_rows(store: &RunStore) -> Result<Vec<ManifestIssue>, CoordinatorError> {
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

    async fn write(&mut self, line: &[u8]) -> Result<(), CoordinatorError> {
        let written = self.file.write_all(line).await;
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
