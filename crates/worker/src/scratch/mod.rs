//! Where a worker prepares archives on its machine: a folder of its own, locked for as long as it lives, with a note of
//! each attempt in flight.
//!
//! A folder whose lock is free belongs to a process that is dead. Whoever starts next on the machine, with the same root,
//! says so in the journals of the attempts noted there and removes the folder: a killed worker leaves nothing for ever.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use diorama_backends::blocking;
use diorama_backends::objects::{ObjectError, Objects};
use diorama_core::id::{AttemptId, RunId, ShardId, WorkerId};
use diorama_protocol::RunStore;
use serde::{Deserialize, Serialize};

use crate::journal;

/// What every such folder's name begins with.
const PREFIX: &str = "diorama-worker-";

/// The file that is locked; it says during which boot of the machine.
const LOCK: &str = "lock";

/// What the name of an attempt's note ends with.
const NOTE: &str = ".attempt";

/// How often a new folder is tried: one that has no lock yet can be taken for an abandoned one.
const TRIES: u32 = 10;

/// A folder for archives.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    /// Unlocked by the system when this process ends, however it ends. `None` in a folder that somebody else clears.
    lock: Option<File>,
}

/// An attempt in flight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct InFlight {
    run: RunId,
    shard: ShardId,
    attempt: AttemptId,
}

impl From<PathBuf> for Scratch {
    /// A folder that somebody else has locked and clears, such as that of one run.
    fn from(path: PathBuf) -> Self {
        Self { path, lock: None }
    }
}

impl Scratch {
    /// Makes a new folder below `root` and locks it.
    pub fn open(root: &Path, worker: &WorkerId) -> io::Result<Self> {
        let mut last = io::Error::other("its folder was removed repeatedly");
        for _ in 0..TRIES {
            let folder = tempfile::Builder::new().prefix(&format!("{PREFIX}{worker}-")).tempdir_in(root)?;
            match lock_new(folder.path()) {
                Ok(lock) => return Ok(Self { path: folder.keep(), lock: Some(lock) }),
                Err(error) if error.kind() == io::ErrorKind::NotFound => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// Collects what workers left that were killed on this machine: says in the journals that their attempts died, and
    /// removes their folders below `root`. How many. Where the store is away, a folder stays for the next one that starts.
    pub async fn sweep(root: &Path, objects: Arc<dyn Objects>) -> Result<u32, ObjectError> {
        let root = root.to_owned();
        let what = root.display().to_string();
        let look = move || -> io::Result<Vec<Abandoned>> {
            let is_ours = |name: &std::ffi::OsStr| name.to_str().is_some_and(|name| name.starts_with(PREFIX));
            let entries = fs::read_dir(root)?.filter_map(Result::ok).filter(|entry| is_ours(&entry.file_name()));
            let mut folders: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
            folders.sort();
            Ok(folders.into_iter().filter_map(Abandoned::look).collect())
        };
        let failed = |error: io::Error| ObjectError::io("sweeping", what, &error);
        let abandoned = blocking::run(look).await.unwrap_or_else(|error| Err(io::Error::other(error)));
        let mut swept = 0;
        for folder in abandoned.map_err(failed)? {
            for InFlight { run, shard, attempt } in folder.in_flight.iter().filter(|_| folder.is_proof) {
                tracing::warn!(%run, %shard, %attempt, "a worker of this machine died during this attempt");
                let store = RunStore::shared(objects.clone(), run);
                journal::note_death(&store, *shard, attempt).await?;
            }
            match fs::remove_dir_all(&folder.path) {
                Ok(()) => swept += 1,
                Err(error) => tracing::warn!(folder = %folder.path.display(), %error, "it cannot be removed"),
            }
        }
        Ok(swept)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Notes that an attempt is in flight here. A note that cannot be written costs a proof, and nothing else.
    pub(crate) async fn note(&self, run: &RunId, shard: ShardId, attempt: &AttemptId) {
        if self.lock.is_none() {
            return;
        }
        let note = InFlight { run: run.clone(), shard, attempt: attempt.clone() };
        // Plain data with string keys: this cannot fail.
        let note = serde_json::to_vec(&note).unwrap_or_default();
        let path = self.note_of(attempt);
        let written =
            blocking::run(move || fs::write(path, note)).await.unwrap_or_else(|error| Err(io::Error::other(error)));
        if let Err(error) = written {
            tracing::warn!(folder = %self.path.display(), %error, "could not record that an attempt is in flight");
        }
    }

    /// It is not any more.
    pub(crate) async fn forget(&self, attempt: &AttemptId) {
        if self.lock.is_some() {
            // One that stays says that an attempt died which its own journal, or its marker, says ended well.
            let path = self.note_of(attempt);
            let _ = blocking::run(move || fs::remove_file(path)).await;
        }
    }

    fn note_of(&self, attempt: &AttemptId) -> PathBuf {
        self.path.join(format!("{attempt}{NOTE}"))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.lock.is_some() {
            // The next one on this machine tries again.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Locks a new folder; [`io::ErrorKind::NotFound`] where somebody took it for an abandoned one meanwhile.
fn lock_new(folder: &Path) -> io::Result<File> {
    let path = folder.join(LOCK);
    let mut lock = File::options().write(true).create_new(true).open(&path)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(io::ErrorKind::NotFound.into()),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    if fs::metadata(&path)?.ino() != lock.metadata()?.ino() {
        return Err(io::ErrorKind::NotFound.into());
    }
    lock.write_all(boot().unwrap_or_default().as_bytes())?;
    Ok(lock)
}

/// Which boot of this machine it is, where the system says so.
fn boot() -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(boot.trim().to_owned()).filter(|boot| !boot.is_empty())
}

/// A folder whose process is dead.
struct Abandoned {
    path: PathBuf,
    in_flight: Vec<InFlight>,
    /// The process died by itself: its machine is still up. Where the machine went down, no task is to blame.
    is_proof: bool,
    _lock: File,
}

impl Abandoned {
    /// The folder, if its process is dead.
    fn look(path: PathBuf) -> Option<Self> {
        let Ok(lock) = File::options().read(true).write(true).open(path.join(LOCK)) else {
            // Just made, or half removed: an empty one goes.
            let _ = fs::remove_dir(&path);
            return None;
        };
        lock.try_lock().ok()?;
        let then = fs::read_to_string(path.join(LOCK)).ok()?;
        let is_proof = boot().is_some_and(|now| now == then);
        let notes = fs::read_dir(&path).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
        let notes = notes.filter(|note| note.to_string_lossy().ends_with(NOTE));
        let in_flight = notes.filter_map(|note| serde_json::from_slice(&fs::read(note).ok()?).ok()).collect();
        Some(Self { path, in_flight, is_proof, _lock: lock })
    }
}

#[cfg(test)]
mod tests;
