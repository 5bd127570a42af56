//! The collection of garbage: what belongs to no run, or to none any more, and is older than a grace time. Nothing that is
//! under way, however slow, is younger than it seems: the grace time is what protects it.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::time::Duration;

use diorama_backends::objects::{ObjectError, ObjectErrorKind, ObjectMeta, PROBES, each_listed, list_all};
use diorama_core::clock;
use diorama_core::id::{AttemptId, RunId, Sha256Hex};
use diorama_core::key::{ENDINGS, INPUTS, ObjectKey, RUNS, SharedKey, run_of};
use diorama_core::text::counted;
use diorama_protocol::decision::Ended;
use diorama_protocol::history::History;
use diorama_protocol::{Backends, RunStore};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::blobs;
use crate::delete;
use crate::ending::{Named, left_behind};
use crate::error::CoordinatorError;
use crate::index::runs_below;

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
    /// Uploaded references that no run names.
    pub blobs: u64,
    /// Entries that lead from an Idempotency-Key to a run that is gone.
    pub idempotency: u64,
    /// Uploads in parts that were never finished; a dry run does not look for them.
    pub uploads: u64,
    /// Everything, one key a line, at most a thousand.
    pub keys: Vec<String>,
    /// What is damaged, so that something was left alone, and what that is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub damaged: Vec<String>,
}

/// Keys that are listed by name.
const NAMED: usize = 1000;

impl Collected {
    /// Everything that was found.
    pub fn count(&self) -> u64 {
        self.runs + self.leftovers + self.blobs + self.idempotency + self.uploads
    }

    /// Whether there was nothing.
    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }

    pub(crate) fn note(&mut self, key: impl Into<String>) {
        if self.keys.len() < NAMED {
            self.keys.push(key.into());
        }
    }

    fn damaged(&mut self, left: &str, error: &CoordinatorError) {
        tracing::error!(%error, "{left} left as it is");
        self.damaged.push(format!("{left} left as it is: {error}"));
    }
}

impl fmt::Display for Collected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { runs, leftovers, blobs, idempotency, uploads, .. } = self;
        write!(
            f,
            "{}, {}, {}, {}, {}",
            counted(*runs, "deleted or unfinished run"),
            counted(*leftovers, "leftover"),
            counted(*blobs, "uploaded reference"),
            match idempotency {
                1 => "1 idempotency entry".to_owned(),
                entries => format!("{entries} idempotency entries"),
            },
            counted(*uploads, "unfinished upload"),
        )
    }
}

/// Collects what is older than `grace`; with `dry`, only says what that is.
pub async fn collect(backends: &Backends, by: &str, grace: Grace, dry: bool) -> Result<Collected, CoordinatorError> {
    let submitted = runs_below(&*backends.objects, SharedKey::SUBMITTED).await?;
    let collected = Collected::default();
    let mut collection = Collection { backends, by, grace, dry, submitted, gone: Vec::new(), collected };
    collection.gone().await?;
    for run in collection.submitted.clone() {
        match collection.of_run(&run).await {
            Err(error) if error.is_of_the_run() => collection.collected.damaged(&format!("run {run}"), &error),
            done => done?,
        }
    }
    match blobs::collect(backends, grace, dry, &mut collection.collected).await {
        Err(error) if error.is_of_the_run() => collection.collected.damaged("every uploaded reference", &error),
        done => done?,
    }
    collection.idempotency().await?;
    // Only now: whoever sends the same submission again must not get the id of a run whose log cannot say any more that it
    // was deleted.
    collection.forget().await?;
    collection.probes().await?;
    collection.uploads().await?;
    Ok(collection.collected)
}

/// A collection under way.
struct Collection<'a> {
    backends: &'a Backends,
    /// What it signs decisions with.
    by: &'a str,
    grace: Grace,
    dry: bool,
    /// The runs of the index.
    submitted: BTreeSet<RunId>,
    /// Runs that are not, and of which something is left that goes.
    gone: Vec<RunId>,
    collected: Collected,
}

/// Whether the object has been there for as long as the grace time. One whose age is not known has not.
pub(crate) fn is_old(object: &ObjectMeta, grace: Grace) -> bool {
    let age = object.modified.map(|at| clock::now().duration_since(at));
    age.and_then(|age| Duration::try_from(age).ok()).is_some_and(|age| age >= grace.0)
}

impl Collection<'_> {
    /// Finds what is left under the names of runs that are not in the index. One whose log says that it is there has only
    /// lost its entry, and gets it back.
    async fn gone(&mut self) -> Result<(), CoordinatorError> {
        let notes = list_all(&*self.backends.objects, SharedKey::DELETED).await?;
        let deleted = |object: &ObjectMeta| SharedKey::run(&object.key);
        // One that is in the index still is the leading coordinator's to remove; or the decision failed behind the note,
        // and the run is as it was.
        let noted = notes.iter().filter_map(|note| Some((deleted(note)?, is_old(note, self.grace))));
        let mut gone: Vec<(RunId, bool)> = noted.filter(|(run, _)| !self.submitted.contains(run)).collect();
        gone.extend(self.strays(&notes.iter().filter_map(deleted).collect()).await?);
        for (run, is_old) in gone {
            let store = RunStore::shared(self.backends.objects.clone(), &run);
            let history = async {
                let history = store.history().await?;
                if history.decisions() == 0 {
                    delete::had_no_log(&store).await?;
                }
                Ok(history)
            };
            match history.await {
                Ok(history) if history.is_submitted() => self.list_again(run).await?,
                Ok(_) if is_old => {
                    self.collected.runs += 1;
                    self.collected.note(format!("{RUNS}{run}/"));
                    self.gone.push(run);
                }
                Ok(_) => {}
                Err(error) if CoordinatorError::is_of_the_run(&error) => {
                    self.collected.damaged(&format!("run {run}"), &error);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Removes what is left of the runs that are gone, their logs among it.
    async fn forget(&mut self) -> Result<(), CoordinatorError> {
        for run in self.gone.drain(..).filter(|_| !self.dry) {
            delete::forget(self.backends, &run).await?;
        }
        Ok(())
    }

    async fn list_again(&mut self, run: RunId) -> Result<(), CoordinatorError> {
        let entry = SharedKey::Submitted(run.clone()).to_string();
        tracing::warn!(%run, "{entry} was gone, and the run is there");
        self.collected.damaged.push(format!("{entry} was gone, and the run is there: it is written again"));
        if !self.dry {
            self.backends.objects.put(&entry, bytes::Bytes::new()).await?;
        }
        self.submitted.insert(run);
        Ok(())
    }

    /// Names under which there are objects, and no run in the index or among the `deleted` ones; and whether all of the
    /// objects are old.
    async fn strays(&self, deleted: &BTreeSet<RunId>) -> Result<Vec<(RunId, bool)>, CoordinatorError> {
        let objects = &*self.backends.objects;
        let (mut strays, mut after): (_, Option<String>) = (Vec::new(), None);
        loop {
            let page = objects.list(RUNS, after.as_deref(), 1).await?;
            let Some(object) = page.objects.into_iter().next() else { return Ok(strays) };
            let Some(run) = run_of(&object.key) else {
                // No run of ours could have that name.
                after = Some(object.key);
                continue;
            };
            // Behind every key of this run: '0' comes after '/'.
            after = Some(format!("{RUNS}{run}0"));
            if self.submitted.contains(&run) || deleted.contains(&run) {
                continue;
            }
            let (mut old, prefix) = (true, format!("{RUNS}{run}/"));
            each_listed(objects, &prefix, |object| old &= is_old(&object, self.grace)).await?;
            strays.push((run, old));
        }
    }

    /// Collects what a run that is in the index has left behind.
    async fn of_run(&mut self, run: &RunId) -> Result<(), CoordinatorError> {
        let store = RunStore::shared(self.backends.objects.clone(), run);
        let history = store.history().await?;
        if history.decisions() == 0 {
            self.unfinished(&store, run, history).await?;
        } else if history.ended().is_some() && !history.is_deleted() {
            let keys = leftovers(&store, &history, self.grace).await?;
            self.collected.leftovers += keys.len() as u64;
            keys.iter().for_each(|key| self.collected.note(key));
            if !self.dry {
                self.backends.objects.delete_all(&keys).await?;
            }
        }
        Ok(())
    }

    /// A submission that was cut off that long ago.
    async fn unfinished(
        &mut self,
        store: &RunStore,
        run: &RunId,
        mut history: History,
    ) -> Result<(), CoordinatorError> {
        let mut old = true;
        each_listed(store.objects(), &store.relative(""), |object| old &= is_old(&object, self.grace)).await?;
        let note = list_all(store.objects(), &SharedKey::Submitted(run.clone()).to_string()).await?;
        if !old || !note.iter().all(|object| is_old(object, self.grace)) {
            return Ok(());
        }
        delete::had_no_log(store).await?;
        self.collected.runs += 1;
        self.collected.note(store.relative(""));
        if !self.dry {
            delete::delete(self.backends, store, run, &mut history, self.by).await?;
            delete::carry_out(self.backends, store, run).await?;
        }
        Ok(())
    }

    /// Entries whose run is gone.
    async fn idempotency(&mut self) -> Result<(), CoordinatorError> {
        let objects = &*self.backends.objects;
        let entries = list_all(objects, SharedKey::IDEMPOTENCY).await?;
        for entry in entries.into_iter().filter(|entry| is_old(entry, self.grace)) {
            let run = match objects.get(&entry.key).await {
                Ok(run) => RunId::new(String::from_utf8_lossy(&run)).ok(),
                // Another collection was faster.
                Err(error) if error.kind == ObjectErrorKind::NotFound => continue,
                Err(error) => return Err(error.into()),
            };
            if let Some(run) = run {
                // Half a submission may be sent again meanwhile.
                let there = self.submitted.contains(&run)
                    || objects.head(&SharedKey::Submitted(run).to_string()).await?.is_some();
                if there {
                    continue;
                }
            }
            self.collected.idempotency += 1;
            self.collected.note(&entry.key);
            if !self.dry {
                objects.delete(&entry.key).await?;
            }
        }
        Ok(())
    }

    /// What a process tried the store with that died before it removed it.
    async fn probes(&mut self) -> Result<(), CoordinatorError> {
        let probes = list_all(&*self.backends.objects, PROBES).await?;
        let old: Vec<String> =
            probes.into_iter().filter(|probe| is_old(probe, self.grace)).map(|probe| probe.key).collect();
        self.collected.leftovers += old.len() as u64;
        old.iter().for_each(|key| self.collected.note(key));
        if !self.dry {
            self.backends.objects.delete_all(&old).await?;
        }
        Ok(())
    }

    /// Uploads in parts whose sender died: their parts are paid for, and no listing shows them.
    async fn uploads(&mut self) -> Result<(), CoordinatorError> {
        if self.dry {
            return Ok(());
        }
        match self.backends.objects.abort_stale_uploads(RUNS, self.grace.0).await {
            Ok(ended) => self.collected.uploads = ended,
            Err(error) if error.may_pass_later() => return Err(error.into()),
            // A store may know no such thing, or not allow it.
            Err(error) => tracing::warn!(%error, "unfinished uploads are left as they are"),
        }
        Ok(())
    }
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
    let named = named_by_results(store, ended).await?;
    left_behind(store, ended.summary.rounds, &named, |object| {
        keys.extend(Some(object).filter(|object| is_old(object, grace)).map(|object| object.key));
    })
    .await?;
    Ok(keys)
}

/// What the results of an ended run name. What a damaged file no longer names is no garbage.
async fn named_by_results(store: &RunStore, ended: &Ended) -> Result<Named, ObjectError> {
    let key = store.relative(&ended.results.path);
    let mut lines = BufReader::new(store.objects().open(&key).await?.body).split(b'\n');
    let (mut named, mut digest) = (Named::default(), Sha256::new());
    while let Some(line) = lines.next_segment().await.map_err(|error| ObjectError::broken_off(&key, &error))? {
        digest.update(&line);
        digest.update(b"\n");
        let outcome = serde_json::from_slice(&line);
        named.add(&outcome.map_err(|error| ObjectError::damaged(&key, error.to_string()))?);
    }
    if Sha256Hex::from_digest(digest.finalize().into()) != ended.results.sha256 {
        return Err(ObjectError::damaged(key, "it is not what the log says"));
    }
    Ok(named)
}
