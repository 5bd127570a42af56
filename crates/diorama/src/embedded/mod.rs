//! The fleet in one process: the same coordinator and the same worker, with an in-process queue, in-process progress and
//! a folder for objects. Not a second code path: the same traits, other implementations.
//!
//! Nothing of the queue or the progress survives this process, and nothing needs to: the next one rebuilds both from
//! the folder's markers.

pub(crate) mod page;

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use diorama_backends::objects::embedded::FolderObjects;
use diorama_backends::objects::retrying::Retrying;
use diorama_backends::objects::{ObjectError, Objects};
use diorama_backends::progress::embedded::EmbeddedProgress;
use diorama_backends::queue::embedded::EmbeddedQueue;
use diorama_coordinator::{
    Coordinator, CoordinatorConfig, CoordinatorError, RunEnd, RunProgress, Submission, Tasks, submit,
};
use diorama_core::id::{InvalidId, WorkerId};
use diorama_core::key::RunRoot;
use diorama_core::manifest::ManifestIssue;
use diorama_core::measure;
use diorama_core::run::{ModelIdentity, RunSpec};
use diorama_picture::PictureLimits;
use diorama_protocol::history::History;
use diorama_protocol::{Backends, Exclusive, RunStore};
use diorama_worker::device::{DeviceError, MakeEngine};
use diorama_worker::{Device, Layout, Remote, Worker, WorkerConfig, WorkerError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

/// Why a run in a folder could not be brought to its end. What is committed is kept.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// Another process runs here.
    #[error("{} is in use by another run ({holder}); wait for it, stop it, or choose another folder", .folder.display())]
    InUse {
        folder: PathBuf,
        /// `process 123`, where it is known.
        holder: String,
    },
    /// The folder cannot be locked.
    #[error("{} cannot be locked: {error}; choose a writable folder on a local file system", .folder.display())]
    Lock { folder: PathBuf, error: std::io::Error },
    #[error(transparent)]
    Objects(#[from] ObjectError),
    #[error(transparent)]
    Coordinator(#[from] CoordinatorError),
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// The run in the folder was begun with another model.
    #[error("the run started with the model {begun}, but this is {here}; use that model, or choose another folder")]
    OtherModel {
        /// As the spec has it.
        begun: Box<ModelIdentity>,
        /// As it was loaded.
        here: Box<ModelIdentity>,
    },
    /// The run in the folder wants measured what cannot be measured here.
    #[error("the run's pictures cannot be measured: {why}; name the folder of the network with --networks")]
    Unmeasurable {
        /// What is missing for which measure.
        why: String,
    },
    /// The worker's name; cannot happen.
    #[error(transparent)]
    Id(#[from] InvalidId),
}

impl EmbeddedError {
    /// Whether the same command may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::InUse { .. } => true,
            Self::Lock { .. } | Self::OtherModel { .. } | Self::Unmeasurable { .. } | Self::Id(_) => false,
            Self::Objects(error) => error.may_pass_later(),
            Self::Coordinator(error) => error.is_retryable(),
            Self::Worker(error) => error.is_retryable(),
        }
    }
}

/// What is already in a folder.
#[derive(Debug, Clone, PartialEq)]
pub struct Existing {
    /// The spec that is in force.
    pub spec: RunSpec,
    /// What was decided about it. Where it is submitted, every input shard is there, and the manifest is not needed any
    /// more.
    pub history: History,
}

/// What is to be run.
pub struct Plan {
    /// The spec; where a run is there already, it must agree with it.
    pub spec: RunSpec,
    /// Only read where the run is not completely submitted yet.
    pub tasks: Tasks,
    /// The rows that were refused and skipped.
    pub invalid: Vec<ManifestIssue>,
    /// Makes generator and measurer, on the device's thread; not called where the run has ended.
    pub engine: MakeEngine,
    /// What a reference may be at most.
    pub limits: PictureLimits,
    /// What fetches references that are no files.
    pub remote: Option<Arc<Remote>>,
}

/// The folder of one run, locked for this process.
pub struct RunFolder {
    path: PathBuf,
    objects: FolderObjects,
    /// Unlocked by the system when this process ends, however it ends.
    _lock: File,
}

impl RunFolder {
    /// Creates or opens the folder and locks it. Removes what crashed writes left.
    pub fn open(path: &Path) -> Result<Self, EmbeddedError> {
        std::fs::create_dir_all(path)
            .map_err(|error| ObjectError::io("creating", path.display().to_string(), &error))?;
        // The lock comes first: only its holder may clear what it finds.
        let lock = lock(path)?;
        let objects = FolderObjects::open(path)?;
        Ok(Self { path: path.to_owned(), objects, _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is already there; `None` in a new folder.
    pub async fn existing(&self) -> Result<Option<Existing>, EmbeddedError> {
        let store = self.store();
        let Some(spec) = store.spec().await? else { return Ok(None) };
        Ok(Some(Existing { spec, history: store.history().await? }))
    }

    /// Submits or resumes the run on these services and brings it to its end. Cancel `drain` to stop in good order.
    pub async fn run(
        &self,
        services: Backends,
        plan: Plan,
        drain: CancellationToken,
        progress: watch::Sender<RunProgress>,
    ) -> Result<RunEnd, EmbeddedError> {
        run_on(services, self.scratch(), plan, drain, progress).await
    }

    /// The services of a run in this folder: those in this process, and the folder.
    pub(crate) fn services(&self) -> Backends {
        services(self.objects())
    }

    /// Where uploads and archives are prepared.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.objects.scratch()
    }

    fn objects(&self) -> Arc<dyn Objects> {
        Arc::new(Retrying::new(self.objects.clone()))
    }

    fn store(&self) -> RunStore {
        RunStore::new(self.objects(), RunRoot::Own)
    }
}

fn services(objects: Arc<dyn Objects>) -> Backends {
    Backends {
        queue: Arc::new(EmbeddedQueue::default()),
        progress: Arc::new(EmbeddedProgress::default()),
        objects,
        exclusive: Exclusive::ConditionalPut,
    }
}

/// Runs coordinator and worker side by side until the run ends, one of them fails, or `drain` is cancelled.
async fn run_on(
    backends: Backends,
    scratch: PathBuf,
    plan: Plan,
    drain: CancellationToken,
    progress: watch::Sender<RunProgress>,
) -> Result<RunEnd, EmbeddedError> {
    let store = RunStore::new(backends.objects.clone(), RunRoot::Own);
    let Plan { spec, tasks, invalid, engine, limits, remote } = plan;
    let config = CoordinatorConfig::new(scratch.clone());
    let spec = submit(&backends, &store, &config.name, Submission { spec, tasks, invalid }).await?;
    let coordinator = Coordinator::new(backends.clone(), store.clone(), config, progress);
    if store.history().await?.ended().is_some() {
        return Ok(coordinator.drive(&spec, &drain).await?);
    }

    let (device, thread) = Device::start(engine).await.map_err(WorkerError::from)?;
    let unmeasurable = device.unmeasurable(&spec.measures);
    if !unmeasurable.is_empty() {
        return Err(EmbeddedError::Unmeasurable { why: measure::missing(&unmeasurable) });
    }
    let here = device.identity(&spec.measures);
    if let Some(begun) = spec.model.clone().filter(|begun| *begun != here) {
        return Err(EmbeddedError::OtherModel { begun: Box::new(begun), here: Box::new(here) });
    }
    let name = WorkerId::new(format!("embedded-{}", std::process::id()))?;
    let config =
        WorkerConfig { limits, remote, ..WorkerConfig::new(name, spec.pool.clone(), Layout::OwnFolder, scratch) };
    let worker = Worker::new(backends, device, config);

    // Whoever ends first, well or badly, stops the other; the error that counts is the first one.
    let stop = drain.child_token();
    let (driven, worked) = tokio::join!(
        async {
            let span = tracing::info_span!("run", run = %spec.run);
            let driven = coordinator.drive(&spec, &stop).instrument(span).await;
            stop.cancel();
            driven
        },
        async {
            let worked = worker.run(stop.clone()).await;
            stop.cancel();
            worked
        }
    );
    thread.join().await;
    match (driven, worked) {
        (Ok(end @ (RunEnd::Finished(_) | RunEnd::Cancelled(_) | RunEnd::Deleted)), _) => Ok(end),
        (Ok(RunEnd::Drained), Ok(_)) => Ok(RunEnd::Drained),
        (Ok(RunEnd::Drained), Err(WorkerError::Device(DeviceError::Stopped))) => Ok(RunEnd::Drained),
        (Ok(RunEnd::Drained), Err(error)) => Err(error.into()),
        (Err(error), _) => Err(error.into()),
    }
}

/// Locks `.lock` in the folder and writes our process id into it.
fn lock(folder: &Path) -> Result<File, EmbeddedError> {
    let failed = |error| EmbeddedError::Lock { folder: folder.to_owned(), error };
    let path = folder.join(".lock");
    let mut options = File::options();
    // A folder that somebody sent may have a link to anything under this name.
    options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32);
    let mut file = options.read(true).write(true).create(true).truncate(false).open(path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // The other one may be about to write it.
            let known = file.read_to_string(&mut holder).is_ok() && !holder.trim().is_empty();
            let holder = if known { format!("process {}", holder.trim()) } else { "its process is unknown".to_owned() };
            return Err(EmbeddedError::InUse { folder: folder.to_owned(), holder });
        }
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    // Only for the message above; on a full disk the lock holds without it.
    let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(file)
}

#[cfg(test)]
mod tests;
