//! One shard against its marker: outcomes of its tasks, one each, and every file with its digest.

use std::collections::BTreeMap;
use std::io::Read;

use diorama_backends::blocking;
use diorama_backends::objects::{ObjectError, ObjectErrorKind, ObjectReader};
use diorama_core::id::{AttemptId, Sha256Hex, ShardId};
use diorama_core::marker::{ArchiveRef, CommitMarker, settings_digest};
use diorama_core::outcome::{FileRef, Outcome};
use diorama_core::run::{ModelIdentity, RunSpec};
use diorama_protocol::RunStore;
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;

use crate::error::CoordinatorError;

/// What is read of a file at a time, in bytes.
const PIECE: u64 = 1 << 20;

/// What one shard came to.
pub(super) struct Checked {
    pub(super) shard: ShardId,
    pub(super) marker: Option<CommitMarker>,
    /// That its input or its marker says nothing, which is a problem of its own.
    pub(super) unreadable: bool,
    pub(super) problems: Vec<String>,
    pub(super) files: u64,
    pub(super) bytes: u64,
}

impl Checked {
    fn unreadable(mut self, problem: String) -> Self {
        self.problems.push(problem);
        Self { unreadable: true, ..self }
    }
}

/// What a shard is held against.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) spec: &'a RunSpec,
    /// Who wrote the inputs of its round.
    pub(super) inputs: &'a AttemptId,
    /// The model that the run is bound to.
    pub(super) model: Option<&'a ModelIdentity>,
}

/// Reads the shard, its marker and everything that the marker names.
pub(super) async fn check_shard(
    store: &RunStore,
    wanted: Wanted<'_>,
    shard: ShardId,
) -> Result<Checked, CoordinatorError> {
    let spec = wanted.spec;
    let mut checked = Checked { shard, marker: None, unreadable: false, problems: Vec::new(), files: 0, bytes: 0 };
    let read = async { Ok::<_, ObjectError>((store.input(shard, wanted.inputs).await?, store.marker(shard).await?)) };
    let (tasks, marker) = match read.await {
        Ok((Some(tasks), marker)) => (tasks, marker),
        Ok((None, _)) => return Ok(checked.unreadable(format!("shard {shard}: its input is gone"))),
        Err(ObjectError { kind: ObjectErrorKind::Damaged, what, problem, .. }) => {
            return Ok(checked.unreadable(format!("shard {shard}: {what} cannot be read: {problem}")));
        }
        Err(error) => return Err(error.into()),
    };
    let Some(marker) = marker else { return Ok(checked) };
    if marker.run != spec.run {
        checked.problems.push(format!("shard {shard}: it is the marker of {} of run {}", marker.shard, marker.run));
    }
    if marker.model.is_some() && marker.model.as_ref() != wanted.model {
        let name = |model: Option<&ModelIdentity>| model.map_or("none".to_owned(), ToString::to_string);
        let (made, bound) = (name(marker.model.as_ref()), name(wanted.model));
        checked
            .problems
            .push(format!("shard {shard}: it was made by the model {made}, but the run is bound to {bound}"));
    }
    if marker.settings != settings_digest(spec) {
        checked.problems.push(format!("shard {shard}: it was not made with the run's settings"));
    }
    let same = marker.outcomes.len() == tasks.len()
        && marker.outcomes.iter().zip(&tasks).all(|(outcome, task)| {
            (outcome.task, &outcome.custom_id) == (task.index, &task.custom_id) && spec.may_use(task, outcome.seed)
        });
    if !same {
        checked.problems.push(format!("shard {shard}: its outcomes do not match its tasks one to one, in order"));
    }
    let mut loose: Vec<FileRef> = Vec::new();
    let mut archived: BTreeMap<&str, Vec<FileRef>> =
        marker.archives.iter().map(|archive| (archive.key.as_str(), Vec::new())).collect();
    for outcome in &marker.outcomes {
        let Outcome::Done { archive, files, .. } = &outcome.outcome else { continue };
        match archive.as_deref().map(|archive| archived.get_mut(archive)) {
            None => loose.extend(files.values().cloned()),
            Some(Some(archive)) => archive.extend(files.values().cloned()),
            Some(None) => {
                checked.problems.push(format!(
                    "shard {shard}: {} is in an archive that its marker does not name",
                    outcome.custom_id
                ));
            }
        }
    }
    for archive in &marker.archives {
        let files = archived.remove(archive.key.as_str()).unwrap_or_default();
        check_archive(store, archive, files, &mut checked).await?;
    }
    check_files(store, &loose, &mut checked).await?;
    checked.marker = Some(marker);
    Ok(checked)
}

async fn check_files(store: &RunStore, files: &[FileRef], checked: &mut Checked) -> Result<(), CoordinatorError> {
    for file in files {
        let problem = match store.objects().open(&store.relative(&file.path)).await {
            Ok(reader) => {
                let (bytes, digest) = digest(&file.path, reader).await?;
                (checked.files, checked.bytes) = (checked.files + 1, checked.bytes + bytes);
                (digest != file.sha256).then_some("its content is not what was committed")
            }
            Err(error) if error.kind == ObjectErrorKind::NotFound => Some("it is gone"),
            Err(error) => return Err(error.into()),
        };
        checked.problems.extend(problem.map(|problem| format!("shard {}: {}: {problem}", checked.shard, file.path)));
    }
    Ok(())
}

async fn check_archive(
    store: &RunStore,
    archive: &ArchiveRef,
    files: Vec<FileRef>,
    checked: &mut Checked,
) -> Result<(), CoordinatorError> {
    let place = format!("shard {}: {}", checked.shard, archive.key);
    let reader = match store.objects().open(&store.relative(&archive.key)).await {
        Ok(reader) => reader,
        Err(error) if error.kind == ObjectErrorKind::NotFound => {
            checked.problems.push(format!("{place} is gone"));
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    let (mut members, bytes, digest) = match blocking::reading(reader.body, members).await {
        Ok(read) => read,
        Err(error) => {
            checked.problems.push(format!("{place} cannot be read completely: {error}"));
            return Ok(());
        }
    };
    (checked.files, checked.bytes) = (checked.files + members.len() as u64, checked.bytes + bytes);
    if digest != archive.sha256 || bytes != archive.bytes {
        checked.problems.push(format!("{place} is not what was committed"));
    }
    for file in files {
        match members.remove(&file.path) {
            Some(digest) if digest == file.sha256 => {}
            Some(_) => checked.problems.push(format!("{place}: {} is not what was committed", file.path)),
            None => checked.problems.push(format!("{place}: {} is not in it", file.path)),
        }
    }
    checked.problems.extend(members.keys().map(|path| format!("{place}: {path} belongs to no outcome")));
    Ok(())
}

/// The members of a tar by path, its length and its digest. Blocking.
fn members(reader: impl Read) -> std::io::Result<(BTreeMap<String, Sha256Hex>, u64, Sha256Hex)> {
    let mut archive = tar::Archive::new(Hashing { inner: reader, digest: Sha256::new(), bytes: 0 });
    let mut members = BTreeMap::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.to_string_lossy().into_owned();
        let mut digest = Sha256::new();
        std::io::copy(&mut entry, &mut digest)?;
        if members.insert(path.clone(), Sha256Hex::from_digest(digest.finalize().into())).is_some() {
            return Err(std::io::Error::other(format!("{path} is in it twice")));
        }
    }
    let mut rest = archive.into_inner();
    std::io::copy(&mut rest, &mut std::io::sink())?;
    Ok((members, rest.bytes, Sha256Hex::from_digest(rest.digest.finalize().into())))
}

struct Hashing<R> {
    inner: R,
    digest: Sha256,
    bytes: u64,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.digest.update(&buffer[..read]);
        self.bytes += read as u64;
        Ok(read)
    }
}

/// A file's length and digest, with a piece of it in memory.
async fn digest(what: &str, mut reader: ObjectReader) -> Result<(u64, Sha256Hex), CoordinatorError> {
    let broken = |error: std::io::Error| ObjectError::broken_off(what, &error);
    let (mut digest, mut bytes) = (Sha256::new(), 0);
    loop {
        let mut piece = Vec::new();
        let read = (&mut reader.body).take(PIECE).read_to_end(&mut piece).await.map_err(broken)?;
        if read == 0 {
            return Ok((bytes, Sha256Hex::from_digest(digest.finalize().into())));
        }
        bytes += read as u64;
        let add = blocking::run(move || digest.chain_update(piece));
        digest = add.await.map_err(|error| broken(std::io::Error::other(error)))?;
    }
}
