//! A run's objects, typed: who reads or writes `run.json`, the log or a marker does it here, so that each has one format.
//!
//! Decides nothing and conditions nothing by itself: what is written once goes through [`crate::Backends`].

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use diorama_backends::objects::{ObjectError, ObjectErrorKind, Objects, Put, list_all};
use diorama_core::id::{AttemptId, Round, RunId, ShardId};
use diorama_core::key::{COMMITS, DECISIONS, ObjectKey, RunRoot, decision_of, shard_of};
use diorama_core::manifest::ManifestIssue;
use diorama_core::marker::{CommitMarker, Part, Tally};
use diorama_core::round::RoundInfo;
use diorama_core::run::RunSpec;
use diorama_core::shards::ShardSet;
use diorama_core::task::Task;
use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::decision::{Decision, Void};
use crate::history::History;
use crate::mutant::{self, Mutant};

/// Entries of a log that are read at a time.
const READING: usize = 16;

/// Markers that are listed at a time.
const LISTED: u32 = 1000;

/// The objects of one run.
#[derive(Clone)]
pub struct RunStore {
    objects: Arc<dyn Objects>,
    root: RunRoot,
}

impl RunStore {
    /// The run at `root` of `objects`.
    pub fn new(objects: Arc<dyn Objects>, root: RunRoot) -> Self {
        Self { objects, root }
    }

    /// The run with this id, in a store with many.
    pub fn shared(objects: Arc<dyn Objects>, run: &RunId) -> Self {
        Self::new(objects, RunRoot::Shared(run.clone()))
    }

    /// The store below.
    pub fn objects(&self) -> &dyn Objects {
        &*self.objects
    }

    /// Where the run lies in it.
    pub fn root(&self) -> &RunRoot {
        &self.root
    }

    /// The full key of an object of this run.
    pub fn path(&self, key: &ObjectKey) -> String {
        key.path(&self.root)
    }

    /// The full key of a path relative to this run, such as a file of an outcome or a marker's archive.
    pub fn relative(&self, path: &str) -> String {
        match &self.root {
            RunRoot::Own => path.to_owned(),
            RunRoot::Shared(run) => format!("runs/{run}/{path}"),
        }
    }

    /// The path relative to this run of a full key that was listed below it.
    pub fn within<'a>(&self, key: &'a str) -> &'a str {
        let prefix = self.relative("");
        key.strip_prefix(prefix.as_str()).unwrap_or(key)
    }

    /// An object's bytes; `None` where there is none.
    pub async fn read(&self, key: &ObjectKey) -> Result<Option<Bytes>, ObjectError> {
        match self.objects.get(&self.path(key)).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind == ObjectErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A JSON object; `None` where there is none, [`ObjectErrorKind::Damaged`] where it does not parse.
    pub async fn read_json<T: DeserializeOwned>(&self, key: &ObjectKey) -> Result<Option<T>, ObjectError> {
        let Some(bytes) = self.read(key).await? else { return Ok(None) };
        match serde_json::from_slice(&bytes) {
            Ok(value) => Ok(Some(value)),
            Err(error) => Err(ObjectError::damaged(self.path(key), error.to_string())),
        }
    }

    /// Writes a JSON object, pretty, because people read them. Only for names that one writer has.
    pub async fn write_json<T: Serialize + Sync>(&self, key: &ObjectKey, value: &T) -> Result<(), ObjectError> {
        self.objects.put(&self.path(key), self.json(key, value)?).await
    }

    /// Writes a JSON object only where there is none. Of a store that ignores the condition, this is a plain write.
    pub(crate) async fn write_json_once<T: Serialize + Sync>(
        &self,
        key: &ObjectKey,
        value: &T,
    ) -> Result<Put, ObjectError> {
        let rewritten = match key {
            ObjectKey::Decision(_) => mutant::is_back(Mutant::LogIsRewritten),
            ObjectKey::Commit(_) => mutant::is_back(Mutant::MarkersAreRewritten),
            _ => false,
        };
        if rewritten {
            self.objects.put(&self.path(key), self.json(key, value)?).await?;
            return Ok(Put::Created);
        }
        self.objects.put_if_absent(&self.path(key), self.json(key, value)?).await
    }

    /// Whether the object is there.
    pub async fn exists(&self, key: &ObjectKey) -> Result<bool, ObjectError> {
        Ok(self.objects.head(&self.path(key)).await?.is_some())
    }

    /// Removes an object, if it is there.
    pub async fn delete(&self, key: &ObjectKey) -> Result<(), ObjectError> {
        self.objects.delete(&self.path(key)).await
    }

    /// The run's spec; `None` before the run was submitted, and after it was deleted.
    pub async fn spec(&self) -> Result<Option<RunSpec>, ObjectError> {
        self.read_json(&ObjectKey::Spec).await
    }

    /// Everything that is decided about the run. A listing, then the entries side by side.
    pub async fn history(&self) -> Result<History, ObjectError> {
        let listed = list_all(self.objects(), &self.relative(DECISIONS)).await?;
        let numbers = listed.iter().filter_map(|object| decision_of(self.within(&object.key)));
        let entries = numbers.max().map_or(0, |last| last + 1);
        let read = |number| async move { Ok::<_, ObjectError>((number, self.decision(number).await?)) };
        let mut read = stream::iter(0..entries).map(read).buffered(READING);
        let mut history = History::default();
        while let Some((number, decision)) = read.try_next().await? {
            let Some(decision) = decision else { break };
            self.apply(&mut history, number, decision)?;
        }
        drop(read);
        // A store may list late what it gives at once.
        self.refresh(&mut history).await?;
        if history.decisions() < entries {
            // Whoever decided next would write in the place of what was decided.
            let lost = self.path(&ObjectKey::Decision(history.decisions()));
            return Err(ObjectError::damaged(lost, "it is gone, and later entries are there"));
        }
        Ok(history)
    }

    /// Reads on where `history` ends; whether there was anything.
    pub async fn refresh(&self, history: &mut History) -> Result<bool, ObjectError> {
        let known = history.decisions();
        while let Some(decision) = self.decision(history.decisions()).await? {
            let number = history.decisions();
            self.apply(history, number, decision)?;
        }
        Ok(history.decisions() > known)
    }

    /// An entry of the log.
    pub(crate) async fn decision(&self, number: u64) -> Result<Option<Decision>, ObjectError> {
        self.read_json(&ObjectKey::Decision(number)).await
    }

    fn apply(&self, history: &mut History, number: u64, decision: Decision) -> Result<(), ObjectError> {
        let damaged = |why| ObjectError::damaged(self.path(&ObjectKey::Decision(number)), why);
        history
            .apply(decision)
            .map_err(|refused| damaged(format!("it does not follow from the entries before: {refused}")))
    }

    /// A shard's tasks, as the writer of its round wrote them; `None` where there are none.
    pub async fn input(&self, shard: ShardId, writer: &AttemptId) -> Result<Option<Vec<Task>>, ObjectError> {
        self.read_lines(&ObjectKey::Input(shard, writer.clone())).await
    }

    /// Writes a shard's tasks, one a line.
    pub async fn write_input(&self, shard: ShardId, writer: &AttemptId, tasks: &[Task]) -> Result<(), ObjectError> {
        let key = ObjectKey::Input(shard, writer.clone());
        self.objects.put(&self.path(&key), self.json_lines(&key, tasks)?).await
    }

    /// The rows that were refused and skipped.
    pub async fn invalid_rows(&self, writer: &AttemptId) -> Result<Vec<ManifestIssue>, ObjectError> {
        Ok(self.read_lines(&ObjectKey::InvalidRows(writer.clone())).await?.unwrap_or_default())
    }

    async fn read_lines<T: DeserializeOwned>(&self, key: &ObjectKey) -> Result<Option<Vec<T>>, ObjectError> {
        let Some(bytes) = self.read(key).await? else { return Ok(None) };
        let lines: Result<_, _> = serde_json::Deserializer::from_slice(&bytes).into_iter().collect();
        lines.map(Some).map_err(|error| ObjectError::damaged(self.path(key), error.to_string()))
    }

    /// Values as JSON, one a line.
    pub fn json_lines<T: Serialize>(&self, key: &ObjectKey, values: &[T]) -> Result<Bytes, ObjectError> {
        let mut lines = Vec::new();
        for value in values {
            serde_json::to_writer(&mut lines, value).map_err(|e| unwritable(self.path(key), &e))?;
            lines.push(b'\n');
        }
        Ok(lines.into())
    }

    /// A shard's commit marker; `None` before the shard is done, [`ObjectErrorKind::Damaged`] where it is another one's.
    pub async fn marker(&self, shard: ShardId) -> Result<Option<CommitMarker>, ObjectError> {
        let marker: Option<CommitMarker> = self.read_json(&ObjectKey::Commit(shard)).await?;
        let of = marker.as_ref().map(|marker| (&marker.run, marker.shard));
        self.is_of(shard, of).map(|()| marker)
    }

    /// What a shard's commit marker counts, without the files of its pictures; as [`RunStore::marker`].
    pub async fn tally(&self, shard: ShardId) -> Result<Option<Tally>, ObjectError> {
        let tally: Option<Tally> = self.read_json(&ObjectKey::Commit(shard)).await?;
        let of = tally.as_ref().map(|tally| (&tally.run, tally.shard));
        self.is_of(shard, of).map(|()| tally)
    }

    /// Refuses a marker that lies in the place of another one: what it names is not here.
    fn is_of(&self, shard: ShardId, of: Option<(&RunId, ShardId)>) -> Result<(), ObjectError> {
        let Some((run, other)) = of else { return Ok(()) };
        // A folder of one run does not say which one that is.
        let is_ours = matches!(&self.root, RunRoot::Own) || self.root == RunRoot::Shared(run.clone());
        if is_ours && other == shard {
            return Ok(());
        }
        Err(ObjectError::damaged(
            self.path(&ObjectKey::Commit(shard)),
            format!("it is the marker of {other} of run {run}"),
        ))
    }

    /// The shards of `round` with these indices that have a marker. Listed in parts side by side: a large round has many
    /// pages.
    pub async fn committed(&self, round: &RoundInfo, within: Range<u32>) -> Result<ShardSet, ObjectError> {
        let end = within.end.min(round.shards);
        let parts = (within.start..end).step_by(LISTED as usize);
        let list = |first: u32| self.committed_between(round.round, first, first.saturating_add(LISTED).min(end));
        let mut parts = stream::iter(parts).map(list).buffer_unordered(READING);
        let mut committed = ShardSet::default();
        while let Some(part) = parts.try_next().await? {
            for index in part {
                committed.insert(index);
            }
        }
        Ok(committed)
    }

    async fn committed_between(&self, round: Round, first: u32, end: u32) -> Result<Vec<u32>, ObjectError> {
        let prefix = self.relative(&format!("{COMMITS}r{}-", round.0));
        let before = |index: u32| self.path(&ObjectKey::Commit(ShardId { round, index }));
        let (mut found, mut after) = (Vec::new(), first.checked_sub(1).map(before));
        loop {
            let page = self.objects.list(&prefix, after.as_deref(), LISTED as usize).await?;
            let shards = page.objects.iter().filter_map(|object| shard_of(self.within(&object.key)));
            let mut passed = false;
            for shard in shards {
                passed |= shard.index >= end;
                found.extend((!passed).then_some(shard.index));
            }
            match page.next {
                Some(next) if !passed => after = Some(next),
                _ => return Ok(found),
            }
        }
    }

    /// What earlier attempts had finished of the shard when they handed it back.
    pub async fn part(&self, shard: ShardId, attempt: &AttemptId) -> Result<Option<Part>, ObjectError> {
        self.read_json(&ObjectKey::Part(shard, attempt.clone())).await
    }

    /// The shards that an ending left out.
    pub async fn void(&self, ending: &AttemptId) -> Result<Void, ObjectError> {
        let key = ObjectKey::Void(ending.clone());
        let void = self.read_json(&key).await?;
        void.ok_or_else(|| ObjectError::damaged(self.path(&key), "the log names it, and it is gone"))
    }

    /// The shards that all endings left out.
    pub async fn voids(&self, history: &History) -> Result<Vec<Void>, ObjectError> {
        let read = |ending: AttemptId| async move { self.void(&ending).await };
        stream::iter(history.voids().iter().cloned()).map(read).buffered(READING).try_collect().await
    }

    fn json<T: Serialize>(&self, key: &ObjectKey, value: &T) -> Result<Bytes, ObjectError> {
        let mut bytes = serde_json::to_vec_pretty(value).map_err(|e| unwritable(self.path(key), &e))?;
        bytes.push(b'\n');
        Ok(bytes.into())
    }
}

fn unwritable(what: String, error: &serde_json::Error) -> ObjectError {
    ObjectError::new(ObjectErrorKind::Io, "encoding", what, error.to_string())
}
