//! What the attempts of one worker share: its services, its device, what it holds and knows. Has no loop and starts
//! nothing.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use diorama_core::caps::Caps;
use diorama_core::id::{Pool, RunId, ShardId, WorkerId};
use diorama_core::key::RunRoot;
use diorama_picture::PictureLimits;
use diorama_protocol::{Backends, RunStore};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::device::Device;
use crate::ending::{Ending, Interrupt};
use crate::hold::Holding;
use crate::lock::locked;
use crate::metrics::Metrics;
use crate::reference::Remote;
use crate::runs::{HEARD_WITHIN, Known, Runs, Wish};
use crate::scratch::Scratch;
use crate::vitals::Pulse;

/// Shards in flight: one on the device, one being prepared or stored.
pub(crate) const IN_FLIGHT: u32 = 2;

/// How long storing what is finished of a shard may take in a drain, once the device has stopped.
pub(crate) const KEEPING: Duration = Duration::from_secs(5);

/// The same where nobody waits.
const KEEPING_AT_EASE: Duration = Duration::from_secs(60);

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
    pub worker: WorkerId,
    /// The pool that it serves.
    pub pool: Pool,
    /// Where runs lie.
    pub layout: Layout,
    /// Where archives are prepared; best on the same file system as a folder store.
    pub scratch: Arc<Scratch>,
    /// What a reference may be at most.
    pub limits: PictureLimits,
    /// What a run may ask at most; one that asks for more is paused.
    pub caps: Caps,
    /// What fetches references over `https://` and `s3://`; without it they fail.
    pub remote: Option<Arc<Remote>>,
    /// How long the batch on the device may go on after a drain was asked for.
    pub drain_grace: Duration,
    /// Between two heartbeats; after three missed ones the worker counts as gone.
    pub heartbeat: Duration,
    /// How long a decision about a run may be unknown to the worker where the progress service works.
    pub heard_within: Duration,
    /// What happens when the queue or the object store is away for longer than they try again by themselves.
    pub on_outage: OnOutage,
    /// The worker ends in good order after this long without a shard.
    pub max_idle: Option<Duration>,
    /// How long the model took to load, where it was timed.
    pub model_load: Option<Duration>,
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
    pub fn new(worker: WorkerId, pool: Pool, layout: Layout, scratch: impl Into<Scratch>) -> Self {
        Self {
            worker,
            pool,
            layout,
            scratch: Arc::new(scratch.into()),
            limits: PictureLimits::default(),
            caps: Caps::default(),
            remote: None,
            drain_grace: Duration::from_secs(17),
            heartbeat: Duration::from_secs(5),
            heard_within: HEARD_WITHIN,
            on_outage: OnOutage::End,
            max_idle: None,
            model_load: None,
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
    /// Shards that it let go because their run is paused, cancelled or over, or makes room for another one.
    pub let_go: u64,
    /// Deliveries of shards that another worker has.
    pub held_elsewhere: u64,
    /// Shards whose input is missing or damaged.
    pub dead_lettered: u64,
}

/// What the attempts of one worker share.
pub(crate) struct Context {
    pub(crate) backends: Backends,
    pub(crate) device: Device,
    pub(crate) config: WorkerConfig,
    /// Cancelled: take nothing new, submit no batch, hand back.
    pub(crate) stopping: CancellationToken,
    /// When everything must be handed back, once a drain was asked for.
    pub(crate) keep_until: OnceLock<Instant>,
    /// Shards in flight; a suspected shard takes all of it, so that nothing else runs beside it.
    flight: Arc<Semaphore>,
    /// Whose batches go to the device: one shard's at a time, so that the first finishes first.
    pub(crate) turn: Semaphore,
    report: Mutex<WorkerReport>,
    pub(crate) pulse: Pulse,
    pub(crate) holding: Arc<Holding>,
    pub(crate) runs: Runs,
}

impl Context {
    pub(crate) fn new(backends: Backends, device: Device, config: WorkerConfig) -> Self {
        let holding = Holding::new(backends.progress.clone(), config.heartbeat * 3, config.metrics.clone());
        Self {
            pulse: Pulse::new(config.model_load),
            backends,
            device,
            config,
            stopping: CancellationToken::new(),
            keep_until: OnceLock::new(),
            flight: Arc::new(Semaphore::new(IN_FLIGHT as usize)),
            turn: Semaphore::new(1),
            report: Mutex::default(),
            holding: Arc::new(holding),
            runs: Runs::default(),
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

    /// Whether the next batch of the shard is still wanted of us; `begun`: there was one already.
    pub(crate) async fn may_go_on(
        &self,
        store: &RunStore,
        run: &RunId,
        shard: ShardId,
        begun: bool,
    ) -> Result<Known, Interrupt> {
        if self.stopping.is_cancelled() {
            return Err(Interrupt::Ended(Ending::HandedBack));
        }
        let Some(known) = self.runs.look(&self.backends, store, run, shard, self.config.heard_within).await? else {
            tracing::error!("the run of this shard does not exist");
            return Err(Interrupt::Ended(Ending::DeadLettered));
        };
        match known.wish(shard, begun) {
            Wish::Work => Ok(known),
            Wish::NotNow => Err(Interrupt::Ended(Ending::LetGo)),
            Wish::Decided => Err(Interrupt::Ended(Ending::Decided)),
        }
    }

    /// Whether a shard that is about to be let go is wanted after all: its run may have been resumed meanwhile, and whoever
    /// did that may believe that we go on. What cannot be told is taken for a yes: another delivery costs little.
    pub(crate) async fn is_wanted_again(&self, run: &RunId, shard: ShardId) -> bool {
        match self.runs.look(&self.backends, &self.store(run), run, shard, Duration::ZERO).await {
            Ok(known) => known.is_some_and(|known| known.wish(shard, false) == Wish::Work),
            Err(error) => {
                tracing::warn!(%error, "could not check whether the shard is still wanted");
                true
            }
        }
    }

    /// Waits for this much of the worker.
    pub(crate) async fn share(&self, shards: u32) -> Result<OwnedSemaphorePermit, Interrupt> {
        tokio::select! {
            biased;
            () = self.stopping.cancelled() => Err(Interrupt::Ended(Ending::HandedBack)),
            share = self.flight.clone().acquire_many_owned(shards) => share.map_err(|_| Interrupt::Ended(Ending::HandedBack)),
        }
    }

    /// Waits for references, or for the device, but not into a drain: neither must hold it up.
    pub(crate) async fn unless_stopping<T>(&self, step: impl Future<Output = T>) -> Result<T, Interrupt> {
        tokio::select! {
            biased;
            done = step => Ok(done),
            () = self.stopping.cancelled() => Err(Interrupt::Ended(Ending::HandedBack)),
        }
    }

    /// Until when what is finished of a shard may be stored.
    pub(crate) fn keep_until(&self) -> Instant {
        let pause = if self.stopping.is_cancelled() { KEEPING } else { KEEPING_AT_EASE };
        self.keep_until.get().copied().unwrap_or_else(|| Instant::now() + pause)
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

    /// What was done so far.
    pub(crate) fn report(&self) -> WorkerReport {
        *locked(&self.report)
    }
}
