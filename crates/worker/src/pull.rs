//! The worker: pulls shards from the queue, at most two at a time, so that the second is ready when the device is done
//! with the first; gives heartbeats; drains.

use std::sync::Arc;
use std::time::Duration;

use diorama_backends::progress::{Heartbeat, WorkerState};
use diorama_backends::queue::Consumer;
use diorama_protocol::Backends;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::context::{Context, IN_FLIGHT, KEEPING, OnOutage, WorkerConfig, WorkerReport};
use crate::device::Device;
use crate::error::{WorkerError, flatten};
use crate::shard;

/// How long handing back may take once what is finished is kept. With the grace before both, a drain ends within 25
/// seconds.
const HANDING_BACK: Duration = Duration::from_secs(2);

/// Shards in flight.
type Shards = JoinSet<Result<(), WorkerError>>;

/// A worker. Runs until it is drained or something breaks that it cannot mend.
pub struct Worker(Arc<Context>);

impl Worker {
    /// A worker that runs its batches on `device`.
    pub fn new(backends: Backends, device: Device, config: WorkerConfig) -> Self {
        Self(Arc::new(Context::new(backends, device, config)))
    }

    /// Pulls and runs shards until `drain` is cancelled or something breaks; then finishes the batch on the device,
    /// hands back what it holds and ends. An error is the first one; shards in flight were handed back.
    pub async fn run(self, drain: CancellationToken) -> Result<WorkerReport, WorkerError> {
        let context = self.0;
        let Some(mut consumer) = subscribe(&context, &drain).await? else { return Ok(WorkerReport::default()) };
        let mut shards = Shards::new();
        let mut heartbeats = JoinSet::new();
        heartbeats.spawn(heartbeat(context.clone()));

        let mut result = pull(&context, &mut *consumer, &mut shards, &drain).await;
        let ended = finish(&context, &mut shards).await;
        if result.is_ok() {
            result = ended;
        }
        heartbeats.shutdown().await;
        result.map(|()| context.report())
    }
}

/// Starts to consume; a queue that is away just then is waited for like later. `None` where a drain came first.
async fn subscribe(context: &Context, drain: &CancellationToken) -> Result<Option<Box<dyn Consumer>>, WorkerError> {
    let mut outage = Outage::new(context.config.on_outage);
    loop {
        match context.backends.queue.consume(&context.config.pool, IN_FLIGHT as u16).await {
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
    context: &Arc<Context>,
    consumer: &mut dyn Consumer,
    shards: &mut Shards,
    drain: &CancellationToken,
) -> Result<(), WorkerError> {
    let mut outage = Outage::new(context.config.on_outage);
    let mut busy = Instant::now();
    loop {
        let idle = context.config.max_idle.filter(|_| shards.is_empty()).map(|limit| busy + limit);
        let has_room = shards.len() < IN_FLIGHT as usize;
        let step = tokio::select! {
            biased;
            () = drain.cancelled() => return Ok(()),
            Some(ended) = shards.join_next() => {
                busy = Instant::now();
                flatten(ended).map(|()| outage.is_over())
            }
            delivery = consumer.next(), if has_room => delivery.map_err(Into::into).map(|delivery| {
                shards.spawn(shard::run(context.clone(), delivery));
            }),
            () = until(idle) => {
                tracing::info!(idle = ?context.config.max_idle, "idle for too long; exiting");
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
async fn finish(context: &Context, shards: &mut Shards) -> Result<(), WorkerError> {
    let grace = context.config.drain_grace;
    // Set before anybody hears of the drain, so that it bounds everything that follows from it.
    let keep_until = *context.keep_until.get_or_init(|| Instant::now() + grace + KEEPING);
    context.stopping.cancel();
    tokio::select! {
        biased;
        result = ends(shards) => return result,
        () = tokio::time::sleep(grace) => context.device.stop_now(),
    }
    tokio::select! {
        biased;
        result = ends(shards) => result,
        () = tokio::time::sleep_until(keep_until + HANDING_BACK) => {
            tracing::warn!(shards = shards.len(), "exiting with shards that could not be handed back in time");
            shards.shutdown().await;
            Ok(())
        }
    }
}

/// Waits for all shards; gives the first error.
async fn ends(shards: &mut Shards) -> Result<(), WorkerError> {
    let mut result = Ok(());
    while let Some(ended) = shards.join_next().await {
        result = result.and(flatten(ended));
    }
    result
}

/// Says from time to time that the worker is there, and what it holds.
async fn heartbeat(context: Arc<Context>) {
    let interval = context.config.heartbeat;
    let info = context.device.info();
    loop {
        let state = match (context.stopping.is_cancelled(), context.holding.is_empty()) {
            (true, _) => WorkerState::Draining,
            (false, true) => WorkerState::Idle,
            (false, false) => WorkerState::Working,
        };
        let heartbeat = Heartbeat {
            worker: context.config.worker.clone(),
            pool: context.config.pool.clone(),
            state,
            model: info.model.clone(),
            identity: context.device.identity(&[]),
            device: info.device.clone(),
            done: context.report().pictures,
            vitals: context.pulse.take(context.report().pictures),
        };
        if let Err(error) = context.backends.progress.heartbeat(&heartbeat, interval * 3).await {
            tracing::warn!(worker = %context.config.worker, %error, "the heartbeat could not be sent");
        }
        context.holding.tell_all().await;
        tokio::time::sleep(interval).await;
    }
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
        tracing::warn!(%error, ?wait, "a service is unreachable; handing back what this worker holds, and waiting");
        Ok(drain.run_until_cancelled(tokio::time::sleep(wait)).await.is_none())
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
