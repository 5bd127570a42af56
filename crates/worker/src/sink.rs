//! Where an attempt's files go before its commit: one object each, or one archive, under names of the attempt's own.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use diorama_backends::blocking;
use diorama_backends::objects::ObjectError;
use diorama_core::key::RunRoot;
use diorama_core::marker::ArchiveRef;
use diorama_protocol::{RunStore, fault};

use crate::archive::{Archive, Content};
use crate::error::WorkerError;
use crate::lock::locked;
use crate::output::{OutputFile, Place};

/// Takes the files of each task of one attempt.
#[derive(Clone)]
pub(crate) struct Sink {
    store: RunStore,
    place: Place,
    /// Tasks of the shard.
    tasks: usize,
    /// Empty in files format, and after the end.
    archive: Arc<Mutex<Option<Archive>>>,
    /// The archive, once it is stored.
    stored: Arc<Mutex<Option<ArchiveRef>>>,
    scratch: PathBuf,
}

impl Sink {
    /// Opens the place for an attempt on a shard of `tasks` tasks.
    pub(crate) fn open(place: Place, store: RunStore, scratch: &Path, tasks: usize) -> Self {
        let archive = place.archive().map(|_| Archive::new(scratch));
        let (archive, stored) = (Arc::new(Mutex::new(archive)), Arc::default());
        Self { store, place, tasks, archive, stored, scratch: scratch.to_owned() }
    }

    /// Where the files go.
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// Stores the files of the tasks at these positions; each position once, with no files where its task failed.
    pub(crate) async fn store(&self, tasks: Vec<(usize, Vec<OutputFile>)>) -> Result<(), WorkerError> {
        let half = self.tasks / 2;
        if matches!(self.place, Place::Files { .. }) {
            for (position, files) in tasks {
                at_half(position, half);
                for file in files {
                    let key = self.store.relative(&file.path);
                    self.store.objects().put(&key, file.bytes).await?;
                }
            }
            return Ok(());
        }
        let archive = self.archive.clone();
        self.blocking(move || {
            let mut archive = locked(&archive);
            for (position, files) in tasks {
                at_half(position, half);
                let added = archive.as_mut().map_or(Ok(()), |archive| archive.add(position, files));
                if added.is_err() {
                    // What of it was lost nobody knows: none of it may be kept.
                    *archive = None;
                    return added;
                }
            }
            Ok(())
        })
        .await
    }

    /// Ends the attempt's archive and puts it under its own name; `None` in files format or where it is empty. Asked again,
    /// gives what was stored.
    pub(crate) async fn finish(&self) -> Result<Option<ArchiveRef>, WorkerError> {
        let Place::Archive(key) = &self.place else { return Ok(None) };
        let archive = self.archive.clone();
        let finish = move || {
            let archive = locked(&archive).take();
            archive.map_or(Ok(None), Archive::finish)
        };
        let Some(finished) = self.blocking(finish).await? else { return Ok(locked(&self.stored).clone()) };
        let path = self.store.relative(key);
        match finished.content {
            Content::Memory(bytes) => self.store.objects().put(&path, bytes).await?,
            Content::File(file) => self.store.objects().put_file(&path, &file).await?,
        }
        let archive = ArchiveRef { key: key.clone(), sha256: finished.sha256, bytes: finished.bytes };
        *locked(&self.stored) = Some(archive.clone());
        Ok(Some(archive))
    }

    /// Removes what the attempt stored, because another one's outputs count: its archive, or these files of its own.
    pub(crate) async fn discard(&self, files: Vec<&str>) -> Result<(), WorkerError> {
        let keys = match &self.place {
            Place::Archive(key) => vec![self.store.relative(key)],
            // In a folder of its own a run's files have one name, whoever made them: the winner's, too.
            Place::Files { root: RunRoot::Own, .. } => return Ok(()),
            Place::Files { .. } => files.into_iter().map(|path| self.store.relative(path)).collect(),
        };
        Ok(self.store.objects().delete_all(&keys).await?)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        step: impl FnOnce() -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, WorkerError> {
        blocking::run(step).await?.map_err(|error| on_scratch(&self.scratch, &error))
    }
}

fn at_half(position: usize, half: usize) {
    if position == half {
        fault::point("worker.after-half-of-the-files");
    }
}

fn on_scratch(scratch: &Path, error: &std::io::Error) -> WorkerError {
    WorkerError::Scratch(ObjectError::io("preparing an archive in", scratch.display().to_string(), error))
}
