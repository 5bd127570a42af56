//! A run's objects, typed: who reads or writes `run.json` or a marker does it here, so that each has one format.

use std::sync::Arc;

use bytes::Bytes;
use diorama_core::id::{Round, ShardId};
use diorama_core::key::{ObjectKey, RunRoot};
use diorama_core::marker::CommitMarker;
use diorama_core::round::RoundInfo;
use diorama_core::run::{Control, ModelIdentity, RunSpec, RunState};
use diorama_core::task::Task;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::objects::{ObjectError, ObjectErrorKind, Objects, Put};

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

    /// The store below.
    pub fn objects(&self) -> &dyn Objects {
        &*self.objects
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

    /// Writes a JSON object, pretty, because people read them.
    pub async fn write_json<T: Serialize + Sync>(&self, key: &ObjectKey, value: &T) -> Result<(), ObjectError> {
        self.objects.put(&self.path(key), self.json(key, value)?).await
    }

    /// Writes a JSON object only where there is none.
    pub async fn write_json_once<T: Serialize + Sync>(&self, key: &ObjectKey, value: &T) -> Result<Put, ObjectError> {
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

    /// The run's spec; `None` before the run was submitted.
    pub async fn spec(&self) -> Result<Option<RunSpec>, ObjectError> {
        self.read_json(&ObjectKey::Spec).await
    }

    /// What the run's owner wants of it.
    pub async fn control(&self) -> Result<Control, ObjectError> {
        let (cancelled, control) =
            futures::try_join!(self.exists(&ObjectKey::Cancelled), self.read_json(&ObjectKey::Control))?;
        if cancelled {
            return Ok(Control { state: RunState::Cancelled, reason: None });
        }
        Ok(control.unwrap_or(Control { state: RunState::Running, reason: None }))
    }

    /// Wants the run paused; `reason` where that is not its owner's own wish. A cancelled run stays cancelled.
    pub async fn pause(&self, reason: Option<String>) -> Result<(), ObjectError> {
        self.write_json(&ObjectKey::Control, &Control { state: RunState::Paused, reason }).await
    }

    /// Wants the run to go on. A cancelled run stays cancelled.
    pub async fn resume(&self) -> Result<(), ObjectError> {
        self.write_json(&ObjectKey::Control, &Control { state: RunState::Running, reason: None }).await
    }

    /// Wants nothing more to run. It has its own object, which no pause and no resume at the same moment can undo.
    pub async fn cancel(&self) -> Result<(), ObjectError> {
        self.write_json(&ObjectKey::Cancelled, &Control { state: RunState::Cancelled, reason: None }).await
    }

    /// Forgets what was wanted of a run that has ended, before it goes on.
    pub async fn forget_control(&self) -> Result<(), ObjectError> {
        self.delete(&ObjectKey::Control).await?;
        self.delete(&ObjectKey::Cancelled).await
    }

    /// Binds the run to the model `here` unless it is bound; the model that it is bound to.
    pub async fn bind_model(&self, here: &ModelIdentity) -> Result<ModelIdentity, ObjectError> {
        let key = ObjectKey::Model;
        if let Some(bound) = self.read_json(&key).await? {
            return Ok(bound);
        }
        match self.write_json_once(&key, here).await? {
            Put::Created => Ok(here.clone()),
            Put::Exists => self.read_json(&key).await?.ok_or_else(|| {
                ObjectError::damaged(self.path(&key), "the model that the run is bound to was there and is gone")
            }),
        }
    }

    /// That a round is complete; `None` before it is.
    pub async fn round(&self, round: Round) -> Result<Option<RoundInfo>, ObjectError> {
        self.read_json(&ObjectKey::RoundComplete(round)).await
    }

    /// The last round that a task of `round` may go into, which [`crate::progress::Counts::of`] asks for. Only rounds
    /// of retries are looked up.
    pub async fn last_round(&self, spec: &RunSpec, round: Round) -> Result<u32, ObjectError> {
        if round.0 == 0 {
            return Ok(spec.retry.max_rounds);
        }
        let info = self.round(round).await?;
        Ok(info.map_or(spec.retry.max_rounds, |info| info.last_round(&spec.retry)))
    }

    /// A shard's tasks; `None` where the shard does not exist.
    pub async fn input(&self, shard: ShardId) -> Result<Option<Vec<Task>>, ObjectError> {
        let key = ObjectKey::Input(shard);
        let Some(bytes) = self.read(&key).await? else { return Ok(None) };
        serde_json::Deserializer::from_slice(&bytes)
            .into_iter()
            .collect::<Result<_, _>>()
            .map(Some)
            .map_err(|error| ObjectError::damaged(self.path(&key), error.to_string()))
    }

    /// Writes a shard's tasks, one a line.
    pub async fn write_input(&self, shard: ShardId, tasks: &[Task]) -> Result<(), ObjectError> {
        let key = ObjectKey::Input(shard);
        self.objects.put(&self.path(&key), self.json_lines(&key, tasks)?).await
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

    /// A shard's commit marker; `None` before the shard is done.
    pub async fn marker(&self, shard: ShardId) -> Result<Option<CommitMarker>, ObjectError> {
        self.read_json(&ObjectKey::Commit(shard)).await
    }

    /// Commits: writes the marker unless there is one. Gives the marker that counts, ours or the other's. A put that
    /// was tried again after an unclear failure still recognises its own first try by the attempt.
    pub async fn commit(&self, marker: CommitMarker) -> Result<CommitMarker, ObjectError> {
        let key = ObjectKey::Commit(marker.shard);
        let path = self.path(&key);
        match self.write_json_once(&key, &marker).await? {
            Put::Created => Ok(marker),
            Put::Exists => match self.marker(marker.shard).await? {
                Some(winner) => Ok(winner),
                None => Err(ObjectError::damaged(path, "the marker was there and is gone")),
            },
        }
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
