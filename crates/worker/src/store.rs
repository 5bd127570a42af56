//! Where a shard's files go before its commit: one object each, or one archive of the attempt's own.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use diorama_backends::fault;
use diorama_backends::objects::ObjectError;
use diorama_backends::run_store::RunStore;
use diorama_core::id::{AttemptId, ShardId};
use diorama_core::key::{ObjectKey, RunRoot};
use diorama_core::marker::ArchiveRef;
use diorama_core::run::OutputFormat;

use crate::archive::{Archive, Content};
use crate::error::WorkerError;
use crate::output::OutputFile;

/// Takes the files of each task of one attempt.
#[derive(Clone)]
pub(crate) struct Sink {
    store: RunStore,
    /// Tasks of the shard.
    tasks: usize,
    /// `None` in files format, and after the end.
    archive: Option<Arc<Mutex<Option<Archive>>>>,
    scratch: PathBuf,
}

impl Sink {
    /// Opens the place for a shard of `tasks` tasks.
    pub(crate) fn open(format: OutputFormat, store: RunStore, scratch: &Path, tasks: usize) -> Self {
        let archive = match format {
            OutputFormat::Files => None,
            OutputFormat::Webdataset => Some(Arc::new(Mutex::new(Some(Archive::new(scratch))))),
        };
        Self { store, tasks, archive, scratch: scratch.to_owned() }
    }

    /// Stores the files of the tasks at these positions; each position once, with no files where its task failed.
    pub(crate) async fn store(&self, tasks: Vec<(usize, Vec<OutputFile>)>) -> Result<(), WorkerError> {
        let half = self.tasks / 2;
        let Some(archive) = &self.archive else {
            for (position, files) in tasks {
                at_half(position, half);
                for file in files {
                    let key = self.store.relative(&file.path);
                    self.store.objects().put(&key, file.bytes).await?;
                }
            }
            return Ok(());
        };
        let archive = archive.clone();
        self.blocking(move || {
            let mut archive = archive.lock().unwrap_or_else(PoisonError::into_inner);
            for (position, files) in tasks {
                at_half(position, half);
                if let Some(archive) = archive.as_mut() {
                    archive.add(position, files)?;
                }
            }
            Ok(())
        })
        .await
    }

    /// Ends the attempt's archive and puts it under its own name; `None` in files format or where it is empty.
    pub(crate) async fn finish(&self, shard: ShardId, attempt: &AttemptId) -> Result<Option<ArchiveRef>, WorkerError> {
        let Some(archive) = self.archive.clone() else { return Ok(None) };
        let finish = move || match archive.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(archive) => archive.finish(),
            None => Ok(None),
        };
        let Some(finished) = self.blocking(finish).await? else { return Ok(None) };
        let key = ObjectKey::Archive(shard, attempt.clone());
        let path = self.store.path(&key);
        match finished.content {
            Content::Memory(bytes) => self.store.objects().put(&path, bytes).await?,
            Content::File(file) => self.store.objects().put_file(&path, &file).await?,
        }
        Ok(Some(ArchiveRef { key: key.path(&RunRoot::Own), sha256: finished.sha256, bytes: finished.bytes }))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        step: impl FnOnce() -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, WorkerError> {
        match tokio::task::spawn_blocking(step).await {
            Ok(result) => result.map_err(|error| on_scratch(&self.scratch, &error)),
            Err(error) => Err(WorkerError::Panicked(error.to_string())),
        }
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
