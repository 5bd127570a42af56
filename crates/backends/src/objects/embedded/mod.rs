//! Objects as files of a folder.
//!
//! A write goes to a file of its own below `.tmp/`, is synced, and then takes its name in one step: a rename where it
//! may replace, a hard link where it must be the first. The folder is synced behind it. So an object is never half
//! written, and a marker never outlives the files it names. What a crash leaves below `.tmp/` is removed at open.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use super::{ObjectError, ObjectErrorKind, ObjectMeta, ObjectReader, Objects, Page, Put, check_key};

/// The folder inside the root where writes begin. No key can name it, because no component starts with a dot.
const TEMPORARY: &str = ".tmp";

/// Numbers the temporary files of this process: of all its stores, so that a store that was given up cannot remove
/// what a later one on the same folder writes.
static WRITES: AtomicU64 = AtomicU64::new(0);

/// A store in a folder. Of the processes on one machine, one at a time: whoever opens it holds the folder's lock.
#[derive(Clone)]
pub struct FolderObjects {
    root: Arc<PathBuf>,
}

impl FolderObjects {
    /// Opens or creates the folder, and removes what crashed writes left.
    pub fn open(root: &Path) -> Result<Self, ObjectError> {
        let failed = |doing, path: &Path, error: &io::Error| ObjectError::io(doing, path.display().to_string(), error);
        let temporary = root.join(TEMPORARY);
        fs::create_dir_all(root).map_err(|e| failed("creating", root, &e))?;
        match fs::remove_dir_all(&temporary) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("clearing", &temporary, &error)),
        }
        fs::create_dir_all(&temporary).map_err(|e| failed("creating", &temporary, &e))?;
        let root = root.canonicalize().map_err(|e| failed("opening", root, &e))?;
        Ok(Self { root: Arc::new(root) })
    }

    /// Opens a folder that another process may be writing to, for whoever only reads: nothing is created or removed.
    pub fn open_to_read(root: &Path) -> Result<Self, ObjectError> {
        let root =
            root.canonicalize().map_err(|error| ObjectError::io("opening", root.display().to_string(), &error))?;
        Ok(Self { root: Arc::new(root) })
    }

    /// Where files may be prepared that [`Objects::put_file`] then takes over without a copy.
    pub fn scratch(&self) -> PathBuf {
        self.root.join(TEMPORARY)
    }

    fn path(&self, key: &str) -> Result<PathBuf, ObjectError> {
        check_key(key)?;
        Ok(self.root.join(key))
    }

    fn temporary(&self) -> PathBuf {
        let unique = WRITES.fetch_add(1, Ordering::Relaxed);
        self.root.join(TEMPORARY).join(format!("put-{}-{unique}", std::process::id()))
    }

    /// Runs a blocking step off the async threads.
    async fn blocking<T: Send + 'static>(
        &self,
        doing: &'static str,
        what: String,
        step: impl FnOnce(&Self) -> io::Result<T> + Send + 'static,
    ) -> Result<T, ObjectError> {
        let this = self.clone();
        match tokio::task::spawn_blocking(move || step(&this)).await {
            Ok(result) => result.map_err(|error| ObjectError::io(doing, what, &error)),
            Err(error) => {
                let problem = if error.is_panic() { "the thread panicked" } else { "the runtime is shutting down" };
                Err(ObjectError::new(ObjectErrorKind::Io, doing, what, problem).caused_by(error))
            }
        }
    }

    /// Makes the folders that `path` lies in; new ones are synced into their parents.
    fn make_parents(&self, path: &Path) -> io::Result<()> {
        let Some(parent) = path.parent() else { return Ok(()) };
        if parent.is_dir() {
            return Ok(());
        }
        fs::create_dir_all(parent)?;
        for folder in parent.ancestors().skip(1).take_while(|folder| folder.starts_with(&*self.root)) {
            sync_folder(folder)?;
        }
        Ok(())
    }

    /// Gives the finished file at `from` the name `to`, replacing what was there.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.make_parents(to)?;
        fs::rename(from, to)?;
        to.parent().map_or(Ok(()), sync_folder)
    }

    /// Gives the finished file at `from` the name `to` unless that is taken.
    fn link(&self, from: &Path, to: &Path) -> io::Result<Put> {
        self.make_parents(to)?;
        match fs::hard_link(from, to) {
            Ok(()) => {
                to.parent().map_or(Ok(()), sync_folder)?;
                Ok(Put::Created)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Put::Exists),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && to.parent().is_some_and(is_writable) => {
                // Linux says EPERM where the file system knows no hard links.
                Err(io::Error::new(io::ErrorKind::Unsupported, "this file system has no hard links"))
            }
            Err(error) => Err(error),
        }
    }
}

fn is_writable(folder: &Path) -> bool {
    let probe = folder.join(format!(".probe-{}", std::process::id()));
    let made = File::create_new(&probe).is_ok();
    made && fs::remove_file(&probe).is_ok()
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Runs `step` on a temporary file and removes that file whatever happened.
fn with_temporary<T>(path: &Path, step: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let result = step(path);
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound && result.is_ok() => Err(error),
        _ => result,
    }
}

fn meta(key: String, metadata: &fs::Metadata) -> ObjectMeta {
    let modified = metadata.modified().ok().and_then(|at| at.try_into().ok());
    ObjectMeta { key, bytes: metadata.len(), modified }
}

/// Every file below `folder` whose key starts with `prefix`, hidden ones left out.
fn collect(folder: &Path, key: &str, prefix: &str, found: &mut BTreeMap<String, ObjectMeta>) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name.starts_with('.') {
            continue;
        }
        let key = if key.is_empty() { name } else { format!("{key}/{name}") };
        let may_hold = key.starts_with(prefix) || prefix.starts_with(&format!("{key}/"));
        if !may_hold {
            continue;
        }
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if metadata.is_dir() {
            collect(&entry.path(), &key, prefix, found)?;
        } else if metadata.is_file() && key.starts_with(prefix) {
            found.insert(key.clone(), meta(key, &metadata));
        }
    }
    Ok(())
}

/// A name that no file can have is the name of no object: one below a file, of a folder, or too long.
fn no_object(error: io::Error) -> io::Error {
    use io::ErrorKind::{InvalidFilename, IsADirectory, NotADirectory, NotFound};
    if matches!(error.kind(), NotADirectory | IsADirectory | InvalidFilename) { NotFound.into() } else { error }
}

#[async_trait]
impl Objects for FolderObjects {
    async fn get(&self, key: &str) -> Result<Bytes, ObjectError> {
        let path = self.path(key)?;
        self.blocking("reading", path.display().to_string(), move |_| {
            fs::read(path).map(Bytes::from).map_err(no_object)
        })
        .await
    }

    async fn open(&self, key: &str) -> Result<ObjectReader, ObjectError> {
        let path = self.path(key)?;
        let opened = self.blocking("reading", path.display().to_string(), move |_| {
            let file = File::open(path).map_err(no_object)?;
            let metadata = file.metadata()?;
            if metadata.is_dir() {
                return Err(io::ErrorKind::NotFound.into());
            }
            Ok((metadata.len(), file))
        });
        let (bytes, file) = opened.await?;
        Ok(ObjectReader { bytes, body: Box::pin(tokio::fs::File::from_std(file)) })
    }

    async fn read_range(&self, key: &str, from: u64, length: u64) -> Result<Bytes, ObjectError> {
        let path = self.path(key)?;
        self.blocking("reading", path.display().to_string(), move |_| {
            let mut file = File::open(path).map_err(no_object)?;
            file.seek(SeekFrom::Start(from))?;
            let mut read = Vec::new();
            file.take(length).read_to_end(&mut read)?;
            Ok(read.into())
        })
        .await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, ObjectError> {
        let path = self.path(key)?;
        let key = key.to_owned();
        self.blocking("looking at", path.display().to_string(), move |_| match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => Ok(Some(meta(key, &metadata))),
            Ok(_) => Ok(None),
            Err(error) => match no_object(error) {
                error if error.kind() == io::ErrorKind::NotFound => Ok(None),
                error => Err(error),
            },
        })
        .await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, ObjectError> {
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        let what = format!("{}/{prefix}", self.root.display());
        self.blocking("listing", what, move |this| {
            let mut found = BTreeMap::new();
            collect(&this.root, "", &prefix, &mut found)?;
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            let mut rest = found.range((from, Bound::Unbounded));
            let objects: Vec<_> = rest.by_ref().take(limit.max(1)).map(|(_, meta)| meta.clone()).collect();
            let next = rest.next().and_then(|_| objects.last().map(|last| last.key.clone()));
            Ok(Page { objects, next })
        })
        .await
    }

    async fn put(&self, key: &str, bytes: Bytes) -> Result<(), ObjectError> {
        let path = self.path(key)?;
        self.blocking("writing", path.display().to_string(), move |this| {
            with_temporary(&this.temporary(), |temporary| {
                write_synced(temporary, &bytes)?;
                this.rename(temporary, &path)
            })
        })
        .await
    }

    async fn put_if_absent(&self, key: &str, bytes: Bytes) -> Result<Put, ObjectError> {
        let path = self.path(key)?;
        self.blocking("writing", path.display().to_string(), move |this| {
            with_temporary(&this.temporary(), |temporary| {
                write_synced(temporary, &bytes)?;
                this.link(temporary, &path)
            })
        })
        .await
    }

    async fn put_file(&self, key: &str, file: &Path) -> Result<(), ObjectError> {
        let path = self.path(key)?;
        let file = file.to_owned();
        self.blocking("writing", path.display().to_string(), move |this| {
            File::open(&file)?.sync_all()?;
            match this.rename(&file, &path) {
                Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                    with_temporary(&this.temporary(), |temporary| {
                        fs::copy(&file, temporary)?;
                        File::open(temporary)?.sync_all()?;
                        this.rename(temporary, &path)
                    })?;
                    fs::remove_file(&file)
                }
                done => done,
            }
        })
        .await
    }

    async fn delete(&self, key: &str) -> Result<(), ObjectError> {
        let path = self.path(key)?;
        self.blocking("removing", path.display().to_string(), move |_| match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        })
        .await
    }
}

#[cfg(test)]
mod tests;
