//! The loop around the shards: takes them from the queue, at most two at a time, so that the second is ready when the
//! device is done with the first; gives signs of life; drains.

use std::collections::{HashMap, HashSet};
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
use diorama_core::run::{ModelIdentity, RunSpec, RunState};
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::engine::{Engine, panic_message};
use crate::error::WorkerError;
use crate::metrics::Metrics;
use crate::picture::PictureLimits;
use crate::reference::Remote;

/// Shards in flight: one on the device, one being prepared or stored.
pub(crate) const IN_FLIGHT: u32 = 2;

/// How long what a run's owner wants may be unknown to us.
const CONTROL_AGE: Duration = Duration::from_secs(1);

/// How long handing back may take once the device has stopped. With the grace before it a drain ends within 25 seconds.
const HANDING_BACK: Duration = Duration::from_secs(3);

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
    /// What fetches references over `https://` and `s3://`; without it they fail.
    pub remote: Option<Arc<Remote>>,
    /// How long the batch on the device may go on after a drain was asked for.
    pub drain_grace: Duration,
    /// Between two signs of life; after three missed ones the worker counts as gone.
    pub heartbeat: Duration,
    /// What happens when the queue or the object store is away for longer than they try again by themselves.
    pub on_outage: OnOutage,
    /// The worker ends in good order after this long without a shard.
    pub max_idle: Option<Duration>,
    /// Counts for Prometheus.
    pub metrics: Option<Metrics>,
}

/// What a worker does while a service is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnOutage {
    /// It ends; whoever started it sees why.
    End,
    /// It hands its shards back, waits, and goes on when the service is back.
    Wait,
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
            remote: None,
            drain_grace: Duration::from_secs(20),
            heartbeat: Duration::from_secs(5),
            on_outage: OnOutage::End,
            max_idle: None,
            metrics: None,
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

/// A service that is away.
struct Outage {
    on_outage: OnOutage,
    wait: Duration,
}

impl Outage {
    const FIRST_WAIT: Duration = Duration::from_millis(500);
    const LONGEST_WAIT: Duration = Duration::from_secs(15);

    fn new(on_outage: OnOutage) -> Self {
        Self { on_outage, wait: Self::FIRST_WAIT }
    }

    fn is_over(&mut self) {
        self.wait = Self::FIRST_WAIT;
    }

    /// Waits, where waiting can help; whether a drain came meanwhile. The error where the worker ends.
    async fn wait(&mut self, error: WorkerError, drain: &CancellationToken) -> Result<bool, WorkerError> {
        let service = matches!(error, WorkerError::Objects(_) | WorkerError::Queue(_)) && error.is_retryable();
        if self.on_outage == OnOutage::End || !service {
            return Err(error);
        }
        let wait = self.wait;
        self.wait = (wait * 2).min(Self::LONGEST_WAIT);
        tracing::warn!(%error, ?wait, "a service is away; the worker hands back what it holds and waits");
        Ok(drain.run_until_cancelled(tokio::time::sleep(wait)).await.is_none())
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
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
    pub(crate) holding: Mutex<HashMap<(RunId, ShardId), Holder>>,
    specs: Mutex<HashMap<RunId, Arc<RunSpec>>>,
    /// Runs that are bound to our model.
    ours: Mutex<HashSet<RunId>>,
    controls: Mutex<HashMap<RunId, (Instant, RunState)>>,
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
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
            ours: Mutex::default(),
            controls: Mutex::default(),
        }
    }

    /// Pulls and runs shards until `drain` is cancelled or something breaks; then finishes the batch on the device,
    /// hands back what it holds and ends. An error is the first one; shards in flight were handed back.
    pub async fn run(self, drain: CancellationToken) -> Result<WorkerReport, WorkerError> {
        let this = Arc::new(self);
        let Some(mut consumer) = this.subscribe(&drain).await? else { return Ok(WorkerReport::default()) };
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

    /// Starts to consume; a queue that is away just then is waited for like later. `None` where a drain came first.
    async fn subscribe(&self, drain: &CancellationToken) -> Result<Option<Box<dyn Consumer>>, WorkerError> {
        let mut outage = Outage::new(self.config.on_outage);
        loop {
            match self.backends.queue.consume(&self.config.pool, IN_FLIGHT as u16).await {
                Ok(consumer) => return Ok(Some(consumer)),
                Err(error) => {
                    if outage.wait(error.into(), drain).await? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    async fn pull(
        self: Arc<Self>,
        consumer: &mut dyn Consumer,
        shards: &mut JoinSet<Result<(), WorkerError>>,
        drain: &CancellationToken,
    ) -> Result<(), WorkerError> {
        let mut outage = Outage::new(self.config.on_outage);
        let mut busy = Instant::now();
        loop {
            let idle = self.config.max_idle.filter(|_| shards.is_empty()).map(|limit| busy + limit);
            let step = tokio::select! {
                biased;
                () = drain.cancelled() => return Ok(()),
                Some(ended) = shards.join_next() => {
                    busy = Instant::now();
                    flatten(ended).map(|()| outage.is_over())
                }
                delivery = consumer.next(), if shards.len() < IN_FLIGHT as usize => delivery.map_err(Into::into).map(|delivery| {
                    shards.spawn(self.clone().execute_shard(delivery));
                }),
                () = until(idle) => {
                    tracing::info!(target: "diorama", idle = ?self.config.max_idle, "no work came for long: the worker ends");
                    return Ok(());
                }
            };
            if let Err(error) = step
                && outage.wait(error, drain).await?
            {
                return Ok(());
            }
        }
    }

    /// Waits for the shards in flight; after the grace the device abandons its batch. What cannot be handed back then,
    /// because a service is away, is let go: the queue gives it to another worker when this one is gone.
    async fn finish(&self, shards: &mut JoinSet<Result<(), WorkerError>>) -> Result<(), WorkerError> {
        tokio::select! {
            result = ends(shards) => return result,
            () = tokio::time::sleep(self.config.drain_grace) => self.engine.stop_now(),
        }
        tokio::select! {
            result = ends(shards) => result,
            () = tokio::time::sleep(HANDING_BACK) => {
                tracing::warn!(shards = shards.len(), "the worker ends with shards that it could not hand back in time");
                shards.shutdown().await;
                Ok(())
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

    /// Whether this worker's model is the one that the run is bound to. The first worker binds a run that names none. A
    /// run that is bound to another one is paused with the reason: its pictures come from one model.
    pub(crate) async fn is_our_model(&self, spec: &RunSpec, store: &RunStore) -> Result<bool, ObjectError> {
        if locked(&self.ours).contains(&spec.run) {
            return Ok(true);
        }
        let here = ModelIdentity::from(self.engine.info());
        let bound = match &spec.model {
            Some(bound) => bound.clone(),
            None => store.bind_model(&here).await?,
        };
        if bound == here {
            locked(&self.ours).insert(spec.run.clone());
            return Ok(true);
        }
        let reason = format!(
            "the run was begun with the model {bound}, and {} of the pool {} serves {here}; serve the first one in this \
             pool and resume the run, or submit it again",
            self.config.worker, self.config.pool
        );
        tracing::error!(run = %spec.run, %reason, "the run is paused");
        store.pause(Some(reason)).await?;
        Ok(false)
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

    /// Counts for Prometheus, where somebody wants it.
    pub(crate) fn measure(&self, measure: impl FnOnce(&Metrics)) {
        if let Some(metrics) = &self.config.metrics {
            measure(metrics);
        }
    }

    /// Counts in the report.
    pub(crate) fn count(&self, count: impl FnOnce(&mut WorkerReport)) {
        count(&mut locked(&self.report));
    }
}

/// Waits for all shards; gives the first error.
async fn ends(shards: &mut JoinSet<Result<(), WorkerError>>) -> Result<(), WorkerError> {
    let mut result = Ok(());
    while let Some(ended) = shards.join_next().await {
        result = result.and(flatten(ended));
    }
    result
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
