//! The end of a run: which shards an ending leaves out, the final files under names of their own, and what is removed
//! then.
//!
//! All of it comes after [`diorama_protocol::decision::Act::EndingBegun`], from which on no outcome changes, and may be
//! done again by anybody: the entry [`diorama_protocol::decision::Act::Ended`] names the files that count.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use diorama_backends::objects::{ObjectError, ObjectMeta, each_listed};
use diorama_core::id::{AttemptId, Sha256Hex};
use diorama_core::key::{ObjectKey, RunRoot, SHARD_FOLDERS, shard_of};
use diorama_core::outcome::{FileRef, Outcome, TaskOutcome};
use diorama_core::run::{AcceptanceCounts, RunSpec, RunState, RunSummary};
use diorama_protocol::decision::{Ended, Void};
use diorama_protocol::history::History;
use diorama_protocol::outcomes::{Outcomes, Totals};
use diorama_protocol::results::{add_invalid, add_task, invalid_rows};
use diorama_protocol::{Backends, RunStore, fault};
use futures::future;
use sha2::{Digest, Sha256};

use crate::error::CoordinatorError;
use crate::reconcile::{are_settled, rebuild};
use crate::scratch::{Scratch, Written};

/// Writes down the shards of the round under way that have no marker; `None` where all have.
pub(crate) async fn write_void(store: &RunStore, history: &History) -> Result<Option<AttemptId>, CoordinatorError> {
    // Without its round, a reopened run has nothing to leave out.
    let Some(round) = history.last_round().filter(|_| history.reopening().is_none()) else { return Ok(None) };
    let shards = store.committed(round, 0..round.shards).await?.missing(round.shards);
    if shards.is_empty() {
        return Ok(None);
    }
    let name = AttemptId::generate();
    store.write_json(&ObjectKey::Void(name.clone()), &Void { version: 1, round: round.round, shards }).await?;
    Ok(Some(name))
}

/// Writes the final files of an ending that has begun, under names of their own, and removes what attempts left behind
/// that count for nothing.
pub(crate) async fn finalise(
    store: &RunStore,
    spec: &RunSpec,
    history: &History,
    scratch: &Path,
    name: &AttemptId,
) -> Result<Ended, CoordinatorError> {
    let state = history.ending().map_or(RunState::Finished, |ending| ending.state);
    let last_round = history.last_round().map_or(0, |round| round.round.0);
    let mut outcomes = Outcomes::new(store, spec, history).await?;
    let mut results = FinalFile::new(scratch);
    let mut errors = FinalFile::new(scratch);
    let (mut tally, mut named, mut line) = (Tally::default(), Named::default(), Vec::new());
    while let Some(last) = outcomes.next().await? {
        tally.add(&last.outcome);
        named.add(&last.outcome);
        line.clear();
        add_task(&mut line, &last.outcome);
        let file = if last.outcome.outcome.is_done() { &mut results } else { &mut errors };
        file.write(&line).await?;
    }
    if tally.done + tally.failed != spec.tasks {
        return Err(CoordinatorError::TaskCount { counted: spec.tasks, found: tally.done + tally.failed });
    }
    for issue in invalid_rows(store, history).await? {
        line.clear();
        add_invalid(&mut line, &issue);
        errors.write(&line).await?;
    }
    let summary = tally.summary(spec, state, last_round, &outcomes.totals);
    fault::point("finalise.before-results");
    let results = results.put(store, ObjectKey::Results(name.clone())).await?;
    fault::point("finalise.before-errors");
    let errors = errors.put(store, ObjectKey::Errors(name.clone())).await?;
    sweep(store, last_round, &named).await?;
    fault::point("finalise.after-sweep");
    Ok(Ended { summary, counts: outcomes.totals.counts, results, errors })
}

/// What the progress service counts of a run that has ended is what the markers say.
pub(crate) async fn settle_counts(
    backends: &Backends,
    store: &RunStore,
    spec: &RunSpec,
    history: &History,
) -> Result<(), CoordinatorError> {
    if history.ended().is_none() {
        return Ok(());
    }
    let counted = backends.progress.counted(&spec.run).await?;
    if !(counted.complete && are_settled(history, counted.counts)) {
        rebuild(backends, store, spec, history).await?;
    }
    Ok(())
}

/// A folder of one run shows how it ended, for whoever looks into it.
pub(crate) async fn publish_summary(store: &RunStore, ended: &Ended) -> Result<(), ObjectError> {
    match store.root() {
        RunRoot::Own => store.write_json(&ObjectKey::Summary, &ended.summary).await,
        RunRoot::Shared(_) => Ok(()),
    }
}

/// The outcomes of an ended run, counted.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) done: u64,
    pub(crate) failed: u64,
    failures: BTreeMap<String, u64>,
    acceptance: AcceptanceCounts,
}

impl Tally {
    pub(crate) fn add(&mut self, last: &TaskOutcome) {
        match &last.outcome {
            Outcome::Done { accepted, tries, .. } => {
                self.done += 1;
                self.acceptance.add(*accepted, tries.len());
            }
            Outcome::Failed(error) => {
                self.failed += 1;
                *self.failures.entry(error.code.to_string()).or_insert(0) += 1;
            }
        }
    }

    /// What the summary says, `last_round` having been the last and `totals` what all markers said.
    pub(crate) fn summary(self, spec: &RunSpec, state: RunState, last_round: u32, totals: &Totals) -> RunSummary {
        let wall_seconds = rounded(totals.wall_seconds());
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
            device_seconds: rounded(totals.device_seconds),
            wall_seconds,
            pictures_per_second: if wall_seconds > 0.0 { rounded(self.done as f64 / wall_seconds) } else { 0.0 },
            acceptance: spec.accept.is_some().then_some(self.acceptance),
        }
    }
}

/// To a millionth: a number that is written and read is the same then, whoever reads it.
fn rounded(number: f64) -> f64 {
    (number * 1e6).round() / 1e6
}

/// What outcomes name: archives, and of files format the folders of the attempts that count. Relative to the run.
#[derive(Debug, Default)]
pub(crate) struct Named(HashSet<String>);

impl Named {
    pub(crate) fn add(&mut self, outcome: &TaskOutcome) {
        let Outcome::Done { archive, files, .. } = &outcome.outcome else { return };
        match archive {
            Some(archive) if !self.0.contains(archive) => drop(self.0.insert(archive.clone())),
            Some(_) => {}
            None => self.0.extend(files.values().map(|file| attempts_folder(&file.path).to_owned())),
        }
    }

    /// Whether the object is one that counts.
    pub(crate) fn has(&self, relative: &str) -> bool {
        self.0.contains(relative) || self.0.contains(attempts_folder(relative))
    }
}

/// `files/{shard}.{attempt}` of a file below it; the file itself where it lies elsewhere.
fn attempts_folder(relative: &str) -> &str {
    match relative.strip_prefix("files/").and_then(|rest| rest.find('/')) {
        Some(end) => &relative[.."files/".len() + end],
        None => relative,
    }
}

/// Visits the objects that attempts left behind in rounds up to `last_round`, which are decided: whatever happens to the
/// run later, none of them will ever count.
pub(crate) async fn left_behind(
    store: &RunStore,
    last_round: u32,
    named: &Named,
    mut visit: impl FnMut(ObjectMeta),
) -> Result<(), ObjectError> {
    let is_left = |object: &ObjectMeta| {
        let relative = store.within(&object.key);
        let decided = shard_of(relative).is_some_and(|shard| shard.round.0 <= last_round);
        decided && !named.has(relative)
    };
    let list = |folder: &'static str| {
        let is_left = &is_left;
        async move {
            let mut left = Vec::new();
            each_listed(store.objects(), &store.relative(folder), |object| left.extend(Some(object).filter(is_left)))
                .await?;
            Ok::<_, ObjectError>(left)
        }
    };
    let left = future::try_join_all(SHARD_FOLDERS.map(list)).await?;
    left.into_iter().flatten().for_each(&mut visit);
    Ok(())
}

async fn sweep(store: &RunStore, last_round: u32, named: &Named) -> Result<(), CoordinatorError> {
    let mut keys = Vec::new();
    left_behind(store, last_round, named, |object| keys.push(object.key)).await?;
    Ok(store.objects().delete_all(&keys).await?)
}

/// A file that is prepared here and then becomes an object.
struct FinalFile {
    scratch: Scratch,
    digest: Sha256,
    bytes: u64,
}

impl FinalFile {
    fn new(scratch: &Path) -> Self {
        Self { scratch: Scratch::new(scratch), digest: Sha256::new(), bytes: 0 }
    }

    async fn write(&mut self, line: &[u8]) -> Result<(), CoordinatorError> {
        self.digest.update(line);
        self.bytes += line.len() as u64;
        let written = self.scratch.write(line).await;
        written.map_err(|error| preparing(self.scratch.path(), &error))
    }

    async fn put(self, store: &RunStore, key: ObjectKey) -> Result<FileRef, CoordinatorError> {
        let (path, place) = (store.path(&key), self.scratch.path().to_owned());
        match self.scratch.finish().await.map_err(|error| preparing(&place, &error))? {
            Written::Bytes(bytes) => store.objects().put(&path, bytes.into()).await?,
            Written::File(file) => store.objects().put_file(&path, &file).await?,
        }
        let sha256 = Sha256Hex::from_digest(self.digest.finalize().into());
        Ok(FileRef { path: key.relative(store.root()), sha256, bytes: self.bytes })
    }
}

fn preparing(path: &Path, error: &std::io::Error) -> CoordinatorError {
    ObjectError::io("preparing", path.display().to_string(), error).into()
}
