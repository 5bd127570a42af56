//! The loop around the shards: takes them from the queue, at most two at a time, so that the second is ready when the
//! device is done with the first; gives signs of life; drains.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use diorama_backends::Backends;
use diorama_backends::objects::ObjectError;
use diorama_backends::progress::{Heartbeat, Holder};
use diorama_backends::queue::Consumer;
use diorama_backends::run_store::RunStore;
use diorama_core::id::{Pool, RunId, ShardId, WorkerId};
use diorama_core::key::RunRoot;
use diorama_core::message::ShardMessage;
use diorama_core::run::{RunSpec, RunState};
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::engine::{Engine, panic_message};
use crate::error::WorkerError;
use crate::picture::PictureLimits;

/// Shards in flight: one on the device, one being prepared or stored.
pub(crate) const IN_FLIGHT: u32 = 2;

/// How long what a run's owner wants may be unknown to us.
const CONTROL_AGE: Duration = Duration::from_secs(1);

/// Where the runs lie in the object store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// The store is one run's folder.
    OwnFolder,
    /// Many runs, below `runs/`.
    Shared,
}

/// How a worker works.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// Its name.
    pub worker: WorkerId,
    /// The pool that it serves.
    pub pool: Pool,
    /// Where runs lie.
    pub layout: Layout,
    /// Where archives are prepared; best on the same file system as a folder store.
    pub scratch: PathBuf,
    /// What a reference may be at most.
    pub limits: PictureLimits,
    /// How long the batch on the device may go on after a drain was asked for.
    pub drain_grace: Duration,
    /// Between two signs of life; after three missed ones the worker counts as gone.
    pub heartbeat: Duration,
}

impl WorkerConfig {
    /// The defaults for a worker of `pool`.
    pub fn new(worker: WorkerId, pool: Pool, layout: Layout, scratch: PathBuf) -> Self {
        Self {
            worker,
            pool,
            layout,
            scratch,
            limits: PictureLimits::default(),
            drain_grace: Duration::from_secs(20),
            heartbeat: Duration::from_secs(5),
        }
    }
}

/// What a worker did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WorkerReport {
    /// Shards that it committed.
    pub committed: u64,
    /// Pictures in them.
    pub pictures: u64,
    /// Shards that were committed already, or by another worker first.
    pub already_committed: u64,
    /// Shards that it handed back.
    pub handed_back: u64,
    /// Shards that it let go because their run is paused or cancelled.
    pub let_go: u64,
    /// Shards whose input is missing or damaged.
    pub dead_lettered: u64,
}

/// A worker. Runs until it is drained or something breaks that it cannot mend.
pub struct Worker {
    pub(crate) backends: Backends,
    pub(crate) engine: Engine,
    pub(crate) config: WorkerConfig,
    /// Cancelled: take nothing new, submit no batch, hand back.
    pub(crate) stopping: CancellationToken,
    /// Shards in flight; a suspected shard takes all of it, so that nothing else runs beside it.
    pub(crate) flight: Semaphore,
    /// Whose batches go to the device: one shard's at a time, so that the first finishes first.
    pub(crate) turn: Semaphore,
    pub(crate) report: Mutex<WorkerReport>,
    holding: Mutex<HashMap<(RunId, ShardId), Holder>>,
    specs: Mutex<HashMap<RunId, Arc<RunSpec>>>,
    controls: Mutex<HashMap<RunId, (Instant, RunState)>>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Worker {
    /// A worker that runs its batches on `engine`.
    pub fn new(backends: Backends, engine: Engine, config: WorkerConfig) -> Self {
        Self {
            backends,
            engine,
            config,
            stopping: CancellationToken::new(),
            flight: Semaphore::new(IN_FLIGHT as usize),
            turn: Semaphore::new(1),
            report: Mutex::default(),
            holding: Mutex::default(),
            specs: Mutex::default(),
            controls: Mutex::default(),
        }
    }

    /// Pulls and runs shards until `drain` is cancelled or something breaks; then finishes the batch on the device,
    /// hands back what it holds and ends. An error is the first one; shards in flight were handed back.
    pub async fn run(self, drain: CancellationToken) -> Result<WorkerReport, WorkerError> {
        let this = Arc::new(self);
        let mut consumer = this.backends.queue.consume(&this.config.pool, IN_FLIGHT as u16).await?;
        let mut shards = JoinSet::new();
        let mut heartbeats = JoinSet::new();
        heartbeats.spawn(this.clone().give_signs_of_life());

        let mut result = this.clone().pull(&mut *consumer, &mut shards, &drain).await;
        this.stopping.cancel();
        let ended = this.finish(&mut shards).await;
        if result.is_ok() {
            result = ended;
        }
        heartbeats.shutdown().await;
        result.map(|()| *locked(&this.report))
    }

    async fn pull(
        self: Arc<Self>,
        consumer: &mut dyn Consumer,
        shards: &mut JoinSet<Result<(), WorkerError>>,
        drain: &CancellationToken,
    ) -> Result<(), WorkerError> {
        loop {
            tokio::select! {
                biased;
                () = drain.cancelled() => return Ok(()),
                Some(ended) = shards.join_next() => flatten(ended)?,
                delivery = consumer.next(), if shards.len() < IN_FLIGHT as usize => {
                    shards.spawn(self.clone().execute_shard(delivery?));
                }
            }
        }
    }

    /// Waits for the shards in flight; after the grace the device abandons its batch.
    async fn finish(&self, shards: &mut JoinSet<Result<(), WorkerError>>) -> Result<(), WorkerError> {
        let mut result = Ok(());
        let grace = tokio::time::sleep(self.config.drain_grace);
        tokio::pin!(grace);
        let mut stopped = false;
        loop {
            tokio::select! {
                ended = shards.join_next() => match ended {
                    Some(ended) => result = result.and(flatten(ended)),
                    None => return result,
                },
                () = &mut grace, if !stopped => {
                    stopped = true;
                    self.engine.stop_now();
                }
            }
        }
    }

    async fn give_signs_of_life(self: Arc<Self>) {
        let ttl = self.config.heartbeat * 3;
        loop {
            let holding: Vec<_> =
                locked(&self.holding).iter().map(|(key, holder)| (key.clone(), holder.clone())).collect();
            let state = match (self.stopping.is_cancelled(), holding.is_empty()) {
                (true, _) => "draining",
                (false, true) => "idle",
                (false, false) => "working",
            };
            let heartbeat = Heartbeat {
                worker: self.config.worker.clone(),
                pool: self.config.pool.clone(),
                state: state.to_owned(),
                model: self.engine.info().model.clone(),
                identity: self.engine.info().into(),
                device: self.engine.info().device.clone(),
                done: locked(&self.report).pictures,
            };
            if let Err(error) = self.backends.progress.heartbeat(&heartbeat, ttl).await {
                tracing::warn!(%error, "no sign of life could be given");
            }
            for ((run, shard), holder) in holding {
                if let Err(error) = self.backends.progress.hold(&run, shard, &holder, ttl).await {
                    tracing::warn!(%error, %shard, "the progress service does not know that we hold the shard");
                }
            }
            tokio::time::sleep(self.config.heartbeat).await;
        }
    }

    /// Says that we work on the shard; `None` where this very worker already does.
    pub(crate) async fn hold(self: &Arc<Self>, message: &ShardMessage, holder: Holder) -> Option<Hold> {
        let key = (message.run.clone(), message.shard);
        {
            let mut holding = locked(&self.holding);
            if holding.contains_key(&key) {
                return None;
            }
            holding.insert(key.clone(), holder);
        }
        let hold = Hold { worker: self.clone(), key };
        hold.tell().await;
        Some(hold)
    }

    /// The run's objects.
    pub(crate) fn store(&self, run: &RunId) -> RunStore {
        let root = match self.config.layout {
            Layout::OwnFolder => RunRoot::Own,
            Layout::Shared => RunRoot::Shared(run.clone()),
        };
        RunStore::new(self.backends.objects.clone(), root)
    }

    /// The run's spec, read once.
    pub(crate) async fn spec(&self, run: &RunId, store: &RunStore) -> Result<Option<Arc<RunSpec>>, ObjectError> {
        if let Some(spec) = locked(&self.specs).get(run).cloned() {
            return Ok(Some(spec));
        }
        let spec = store.spec().await?.map(Arc::new);
        if let Some(spec) = &spec {
            locked(&self.specs).insert(run.clone(), spec.clone());
        }
        Ok(spec)
    }

    /// What the run's owner wants, at most a second old.
    pub(crate) async fn wanted(&self, run: &RunId, store: &RunStore) -> Result<RunState, ObjectError> {
        let known = locked(&self.controls).get(run).copied();
        if let Some((at, state)) = known
            && at.elapsed() < CONTROL_AGE
        {
            return Ok(state);
        }
        let state = store.control().await?.state;
        locked(&self.controls).insert(run.clone(), (Instant::now(), state));
        Ok(state)
    }

    /// Counts in the report.
    pub(crate) fn count(&self, count: impl FnOnce(&mut WorkerReport)) {
        count(&mut locked(&self.report));
    }
}

/// That this worker works on a shard; ends with [`Hold::forget`] or, where the attempt was cut off, on drop.
pub(crate) struct Hold {
    worker: Arc<Worker>,
    key: (RunId, ShardId),
}

impl Hold {
    /// Adds what was made since, so that progress moves picture by picture.
    pub(crate) async fn made(&self, done: u64, failed: u64) {
        if let Some(holder) = locked(&self.worker.holding).get_mut(&self.key) {
            holder.done += done;
            holder.failed += failed;
        }
        self.tell().await;
    }

    async fn tell(&self) {
        let holder = locked(&self.worker.holding).get(&self.key).cloned();
        let Some(holder) = holder else { return };
        let ttl = self.worker.config.heartbeat * 3;
        if let Err(error) = self.worker.backends.progress.hold(&self.key.0, self.key.1, &holder, ttl).await {
            tracing::warn!(%error, shard = %self.key.1, "the progress service does not know that we hold the shard");
        }
    }

    /// Says that we no longer do.
    pub(crate) async fn forget(&self) {
        let holder = locked(&self.worker.holding).remove(&self.key);
        let Some(holder) = holder else { return };
        if let Err(error) = self.worker.backends.progress.release(&self.key.0, self.key.1, &holder.attempt).await {
            tracing::warn!(%error, shard = %self.key.1, "the progress service still thinks that we hold the shard");
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        locked(&self.worker.holding).remove(&self.key);
    }
}

/// The result of a spawned task; its panic becomes an error.
pub(crate) fn flatten<T>(ended: Result<Result<T, WorkerError>, JoinError>) -> Result<T, WorkerError> {
    match ended {
        Ok(result) => result,
        Err(error) => Err(WorkerError::Panicked(match error.try_into_panic() {
            Ok(panic) => panic_message(&*panic),
            Err(error) => error.to_string(),
        })),
    }
}
