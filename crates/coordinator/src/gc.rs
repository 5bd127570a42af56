//! The collection of garbage: what belongs to no run, or to none any more, and is older than a grace time. Nothing that is
//! under way, however slow, is younger than it seems: the grace time is what protects it.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::time::Duration;

use diorama_backends::objects::{ObjectErrorKind, ObjectMeta, each_listed, list_all};
use diorama_core::clock;
use diorama_core::id::{AttemptId, RunId};
use diorama_core::key::{ENDINGS, INPUTS, ObjectKey, RUNS, SharedKey, run_of};
use diorama_protocol::history::History;
use diorama_protocol::{Backends, RunStore};
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::delete;
use crate::ending::{Named, left_behind};
use crate::error::CoordinatorError;

/// How long what belongs to nobody is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grace(pub Duration);

impl Default for Grace {
    fn default() -> Self {
        Self(Duration::from_secs(24 * 3600))
    }
}

/// What was found, and removed unless it was only looked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Collected {
    /// Runs that were deleted, or never completely submitted, of which something was left.
    pub runs: u64,
    /// Objects of attempts, rounds and endings that count for nothing.
    pub leftovers: u64,
    /// Entries that lead from an Idempotency-Key to a run that is gone.
    pub idempotency: u64,
    /// Everything, one key a line, at most a thousand.
    pub keys: Vec<String>,
}

/// Keys that are listed by name.
const NAMED: usize = 1000;

impl Collected {
    /// Whether there was nothing.
    pub fn is_empty(&self) -> bool {
        self.runs + self.leftovers + self.idempotency == 0
    }

    fn note(&mut self, key: impl Into<String>) {
        if self.keys.len() < NAMED {
            self.keys.push(key.into());
        }
    }
}

impl fmt::Display for Collected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { runs, leftovers, idempotency, .. } = self;
        write!(f, "{runs} deleted or unfinished runs, {leftovers} leftovers, {idempotency} idempotency entries")
    }
}

/// Collects what is older than `grace`; with `dry`, only says what that is.
pub async fn collect(backends: &Backends, by: &str, grace: Grace, dry: bool) -> Result<Collected, CoordinatorError> {
    let mut collected = Collected::default();
    let objects = &*backends.objects;
    let submitted: BTreeSet<RunId> = list_all(objects, SharedKey::SUBMITTED)
        .await?
        .iter()
        .filter_map(|object| SharedKey::run(&object.key))
        .collect();
    let gone = deleted_runs(backends, &submitted, grace).await?;
    let strays = stray_runs(backends, &submitted, grace).await?;
    for run in gone.into_iter().chain(strays) {
        collected.runs += 1;
        collected.note(format!("{RUNS}{run}/"));
        if !dry {
            delete::forget(backends, &run).await?;
        }
    }
    for run in &submitted {
        match collect_of_run(backends, run, by, grace, dry, &mut collected).await {
            Err(CoordinatorError::Objects(error)) if error.kind == ObjectErrorKind::Damaged => {
                tracing::error!(%run, %error, "a damaged run is left as it is");
            }
            collected => collected?,
        }
    }
    idempotency(backends, &submitted, grace, dry, &mut collected).await?;
    Ok(collected)
}

/// Collects what a run that is in the index has left behind.
async fn collect_of_run(
    backends: &Backends,
    run: &RunId,
    by: &str,
    grace: Grace,
    dry: bool,
    collected: &mut Collected,
) -> Result<(), CoordinatorError> {
    let store = RunStore::shared(backends.objects.clone(), run);
    let history = store.history().await?;
    if history.decisions() == 0 {
        unfinished(backends, &store, run, history, by, grace, dry, collected).await?;
    } else if history.ended().is_some() && !history.is_deleted() {
        let keys = leftovers(&store, &history, grace).await?;
        collected.leftovers += keys.len() as u64;
        keys.iter().for_each(|key| collected.note(key));
        if !dry {
            backends.objects.delete_all(&keys).await?;
        }
    }
    Ok(())
}

/// Whether the object has been there for as long as the grace time. One whose age is not known has not.
fn is_old(object: &ObjectMeta, grace: Grace) -> bool {
    let age = object.modified.map(|at| clock::now().duration_since(at));
    age.and_then(|age| Duration::try_from(age).ok()).is_some_and(|age| age >= grace.0)
}

/// Runs that were deleted and removed that long ago. One that is in the index still is the leading coordinator's to
/// remove; or the decision failed behind the note, and the run is as it was.
async fn deleted_runs(
    backends: &Backends,
    submitted: &BTreeSet<RunId>,
    grace: Grace,
) -> Result<Vec<RunId>, CoordinatorError> {
    let notes = list_all(&*backends.objects, SharedKey::DELETED).await?;
    let old = notes.iter().filter(|note| is_old(note, grace)).filter_map(|note| SharedKey::run(&note.key));
    Ok(old.filter(|run| !submitted.contains(run)).collect())
}

/// Names under which there are objects, and no run in the index.
async fn stray_runs(
    backends: &Backends,
    submitted: &BTreeSet<RunId>,
    grace: Grace,
) -> Result<Vec<RunId>, CoordinatorError> {
    let objects = &*backends.objects;
    let noted: BTreeSet<RunId> =
        list_all(objects, SharedKey::DELETED).await?.iter().filter_map(|note| SharedKey::run(&note.key)).collect();
    let (mut strays, mut after): (_, Option<String>) = (Vec::new(), None);
    loop {
        let page = objects.list(RUNS, after.as_deref(), 1).await?;
        let Some(run) = page.objects.first().and_then(|object| run_of(&object.key)) else { return Ok(strays) };
        // Behind every key of this run: '0' comes after '/'.
        after = Some(format!("{RUNS}{run}0"));
        if submitted.contains(&run) || noted.contains(&run) {
            continue;
        }
        let (mut old, prefix) = (true, format!("{RUNS}{run}/"));
        each_listed(objects, &prefix, |object| old &= is_old(&object, grace)).await?;
        if old {
            strays.push(run);
        }
    }
}

/// A submission that was cut off that long ago.
#[allow(clippy::too_many_arguments, reason = "one call; a struct would only rename them")]
async fn unfinished(
    backends: &Backends,
    store: &RunStore,
    run: &RunId,
    mut history: History,
    by: &str,
    grace: Grace,
    dry: bool,
    collected: &mut Collected,
) -> Result<(), CoordinatorError> {
    let mut old = true;
    each_listed(store.objects(), &store.relative(""), |object| old &= is_old(&object, grace)).await?;
    let note = list_all(store.objects(), &SharedKey::Submitted(run.clone()).to_string()).await?;
    if !old || !note.iter().all(|object| is_old(object, grace)) {
        return Ok(());
    }
    collected.runs += 1;
    collected.note(store.relative(""));
    if !dry {
        delete::delete(backends, store, run, &mut history, by).await?;
        delete::carry_out(backends, store, run).await?;
    }
    Ok(())
}

/// What rounds, endings and attempts that do not count have left of a run that has ended.
async fn leftovers(store: &RunStore, history: &History, grace: Grace) -> Result<Vec<String>, CoordinatorError> {
    let Some(ended) = history.ended() else { return Ok(Vec::new()) };
    let mut counts: HashSet<String> = history.final_files().map(str::to_owned).collect();
    let keep = |key: ObjectKey| key.relative(store.root());
    counts.extend(history.voids().iter().map(|void| keep(ObjectKey::Void(void.clone()))));
    let writers: HashSet<&AttemptId> = history.rounds().iter().map(|round| &round.inputs).collect();
    let of_a_round = |relative: &str| {
        let writer = relative.split('.').nth(1).and_then(|writer| AttemptId::new(writer).ok());
        writer.is_some_and(|writer| writers.contains(&writer))
    };
    let mut keys = Vec::new();
    for folder in [ENDINGS, INPUTS] {
        each_listed(store.objects(), &store.relative(folder), |object| {
            let relative = store.within(&object.key);
            if is_old(&object, grace) && !counts.contains(relative) && !of_a_round(relative) {
                keys.push(object.key);
            }
        })
        .await?;
    }
    let mut named = Named::default();
    let reader = store.objects().open(&store.relative(&ended.results.path)).await?;
    let mut lines = BufReader::new(reader.body).lines();
    let broken =
        |error: std::io::Error| diorama_backends::objects::ObjectError::broken_off(&ended.results.path, &error);
    while let Some(line) = lines.next_line().await.map_err(broken)? {
        let outcome = serde_json::from_str(&line).map_err(|error| {
            diorama_backends::objects::ObjectError::damaged(store.relative(&ended.results.path), error.to_string())
        })?;
        named.add(&outcome);
    }
    keys.extend(left_behind(store, ended.summary.rounds, &named, |object| is_old(object, grace)).await?);
    Ok(keys)
}

/// Entries whose run is gone.
async fn idempotency(
    backends: &Backends,
    submitted: &BTreeSet<RunId>,
    grace: Grace,
    dry: bool,
    collected: &mut Collected,
) -> Result<(), CoordinatorError> {
    let objects = &*backends.objects;
    let entries = list_all(objects, SharedKey::IDEMPOTENCY).await?;
    for entry in entries.into_iter().filter(|entry| is_old(entry, grace)) {
        let run = RunId::new(String::from_utf8_lossy(&objects.get(&entry.key).await?)).ok();
        if run.is_some_and(|run| submitted.contains(&run)) {
            continue;
        }
        collected.idempotency += 1;
        collected.note(&entry.key);
        if !dry {
            objects.delete(&entry.key).await?;
        }
    }
    Ok(())
}
