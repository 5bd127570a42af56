//! One committed picture with its record, from a folder of `diorama run` or from a coordinator.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use diorama_backends::objects::embedded::FolderObjects;
use diorama_core::id::{CustomId, RunId, Sha256Hex};
use diorama_core::key::{ObjectKey, RunRoot};
use diorama_core::outcome::{FileRef, Outcome, TaskOutcome};
use diorama_core::record::Record;
use diorama_core::run::RunSpec;
use diorama_protocol::RunStore;
use diorama_protocol::outcomes::outcome_of;
use diorama_runtime::config::Config;
use futures::StreamExt;
use reqwest::Method;

use crate::exit::Failure;
use crate::fleet::client::Client;

/// A committed picture.
pub(super) struct Committed {
    pub(super) record: Record,
    /// The picture as a file.
    pub(super) image: Bytes,
    /// Where relative references start.
    pub(super) reference_root: String,
    source: Source,
}

/// Where its objects are.
enum Source {
    Folder(RunStore),
    Fleet(Client, String),
}

impl Committed {
    /// A picture of a run of `diorama run --out`.
    pub(super) async fn of_folder(out: &Path, id: &CustomId) -> Result<Self, Failure> {
        let nothing = || permanent(format!("there is no run in {}", out.display()));
        let objects = FolderObjects::open_to_read(out).map_err(|_| nothing())?;
        let store = RunStore::new(Arc::new(objects), RunRoot::Own);
        let spec = store.spec().await.map_err(Failure::permanent)?.ok_or_else(nothing)?;
        let history = store.history().await.map_err(Failure::permanent)?;
        let found = outcome_of(&store, &spec, &history, id).await.map_err(Failure::permanent)?;
        Self::read(Source::Folder(store), found.ok_or_else(|| none(id))?, spec).await
    }

    /// A picture of a coordinator's run.
    pub(super) async fn of_fleet(config: &Config, run: &str, id: &CustomId) -> Result<Self, Failure> {
        let client = Client::new(&config.client)?;
        client.run(run).await?;
        let source = Source::Fleet(client.clone(), run.to_owned());
        let root = RunRoot::Shared(RunId::new(run).map_err(Failure::usage)?);
        let spec = source.object(&ObjectKey::Spec.relative(&root)).await?;
        let spec = serde_json::from_slice(&spec).map_err(Failure::permanent)?;
        let outcome = line_of(&client, run, id).await?.ok_or_else(|| none(id))?;
        Self::read(source, outcome, spec).await
    }

    async fn read(source: Source, outcome: TaskOutcome, spec: RunSpec) -> Result<Self, Failure> {
        let id = &outcome.custom_id;
        let (archive, files) = match &outcome.outcome {
            Outcome::Done { archive, files, .. } => (archive, files),
            Outcome::Failed(error) => return Err(permanent(format!("{id} has no picture: it failed: {error}"))),
        };
        let file = |role: &str| files.get(role).ok_or_else(|| permanent(format!("{id} has no file {role}")));
        let (image, record) = (file("image")?, file("record")?);
        let (image, record) = match archive {
            Some(archive) => {
                let archive = source.object(archive).await?;
                let mut members = members(&archive, &[image, record])?;
                (take(&mut members, image)?, take(&mut members, record)?)
            }
            None => {
                (whole(image, source.object(&image.path).await?)?, whole(record, source.object(&record.path).await?)?)
            }
        };
        let record = serde_json::from_slice(&record).map_err(Failure::permanent)?;
        Ok(Self { record, image, reference_root: spec.reference_root, source })
    }

    /// An uploaded reference.
    pub(super) async fn blob(&self, sha256: &Sha256Hex) -> Result<Bytes, Failure> {
        match &self.source {
            Source::Folder(store) => {
                let key = ObjectKey::Blob(sha256.clone());
                let bytes = store.read(&key).await.map_err(Failure::permanent)?;
                bytes.ok_or_else(|| permanent(format!("the reference {} is not in this folder", store.path(&key))))
            }
            Source::Fleet(client, _) => body(client, &format!("/v1/blobs/{sha256}")).await,
        }
    }
}

impl Source {
    async fn object(&self, path: &str) -> Result<Bytes, Failure> {
        match self {
            Self::Folder(store) => store.objects().get(&store.relative(path)).await.map_err(Failure::permanent),
            Self::Fleet(client, run) => body(client, &format!("/v1/runs/{run}/objects/{path}")).await,
        }
    }
}

async fn body(client: &Client, path: &str) -> Result<Bytes, Failure> {
    let answer = client.send_again(|| client.request(Method::GET, path)).await?;
    Ok(answer.bytes().await.map_err(|error| client.unreachable(error))?)
}

/// The task's line among the results, which are read until it comes.
async fn line_of(client: &Client, run: &str, id: &CustomId) -> Result<Option<TaskOutcome>, Failure> {
    let path = format!("/v1/runs/{run}/results");
    let mut body = client.send_again(|| client.request(Method::GET, &path)).await?.bytes_stream();
    let mut waiting = Vec::new();
    while let Some(chunk) = body.next().await {
        waiting.extend_from_slice(&chunk.map_err(|error| client.unreachable(error))?);
        while let Some(end) = waiting.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = waiting.drain(..=end).collect();
            let outcome: TaskOutcome = serde_json::from_slice(&line).map_err(Failure::permanent)?;
            if outcome.custom_id == *id {
                return Ok(Some(outcome));
            }
        }
    }
    Ok(None)
}

/// These members of an archive, by path.
fn members(archive: &[u8], wanted: &[&FileRef]) -> Result<BTreeMap<String, Bytes>, Failure> {
    let mut found = BTreeMap::new();
    let mut tar = tar::Archive::new(archive);
    for entry in tar.entries().map_err(Failure::permanent)? {
        let mut entry = entry.map_err(Failure::permanent)?;
        let path = entry.path().map_err(Failure::permanent)?.to_string_lossy().into_owned();
        if wanted.iter().any(|file| file.path == path) {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).map_err(Failure::permanent)?;
            found.insert(path, bytes.into());
        }
    }
    Ok(found)
}

fn take(members: &mut BTreeMap<String, Bytes>, file: &FileRef) -> Result<Bytes, Failure> {
    let bytes = members.remove(&file.path).ok_or_else(|| permanent(format!("{} is not in its archive", file.path)))?;
    whole(file, bytes)
}

/// The bytes, where they are those that were committed.
fn whole(file: &FileRef, bytes: Bytes) -> Result<Bytes, Failure> {
    if Sha256Hex::of(&bytes) == file.sha256 {
        return Ok(bytes);
    }
    Err(permanent(format!("{} is not what was committed; run `diorama verify`", file.path)))
}

fn none(id: &CustomId) -> Failure {
    permanent(format!("this run has no picture of {id} (yet); errors.jsonl lists failures"))
}

fn permanent(message: String) -> Failure {
    Failure::permanent(anyhow::anyhow!(message))
}
