//! The shards in this worker's hands: each with its delivery, and as the progress service is told, from the first sign of
//! life to the last.
//!
//! A queue may deliver again what we hold, because it lost its connection to us or because the shard was published
//! twice. Then the attempt goes on, and is settled through the newest delivery: the older one may belong to a channel that
//! is dead.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use diorama_backends::progress::{Holder, Progress};
use diorama_backends::queue::{Delivery, QueueError, Settlement};
use diorama_core::id::{AttemptId, RunId, ShardId, WorkerId};
use tokio::time::Instant;

use crate::lock::locked;
use crate::metrics::Metrics;

type Key = (RunId, ShardId);

/// Everything that this worker holds.
pub(crate) struct Holding {
    progress: Arc<dyn Progress>,
    /// After this long without a heartbeat the progress service forgets a holder.
    ttl: Duration,
    metrics: Option<Metrics>,
    held: Mutex<BTreeMap<Key, Held>>,
}

struct Held {
    holder: Holder,
    /// The newest one.
    delivery: Delivery,
    /// When the progress service last heard of it, if it did.
    told: Option<Instant>,
}

/// How often the progress service hears of what was made: fast shards must not cost it a command a batch.
const TELLING: Duration = Duration::from_millis(500);

impl Holding {
    /// Nothing yet.
    pub(crate) fn new(progress: Arc<dyn Progress>, ttl: Duration, metrics: Option<Metrics>) -> Self {
        Self { progress, ttl, metrics, held: Mutex::default() }
    }

    /// Takes a shard for a new attempt. `None` where this very worker has it: its attempt goes on with this delivery.
    pub(crate) async fn take(self: &Arc<Self>, delivery: Delivery, worker: &WorkerId) -> Option<Hold> {
        let key = (delivery.message.run.clone(), delivery.message.shard);
        let (attempt, deliveries) = (AttemptId::generate(), delivery.deliveries);
        let stale = {
            let mut held = locked(&self.held);
            match held.get_mut(&key) {
                Some(held) => Some(std::mem::replace(&mut held.delivery, delivery)),
                None => {
                    let holder = Holder { worker: worker.clone(), attempt: attempt.clone(), done: 0, failed: 0 };
                    held.insert(key.clone(), Held { holder, delivery, told: None });
                    self.measure(held.len());
                    None
                }
            }
        };
        let Some(stale) = stale else {
            return Some(Hold { holding: self.clone(), key, attempt, deliveries });
        };
        tracing::info!(run = %key.0, shard = %key.1, "redelivered while this worker holds it; the attempt goes on");
        match stale.settle(Settlement::Ack).await {
            // Its channel is dead, and that is why the queue delivered again.
            Ok(()) | Err(QueueError::Stale(_)) => {}
            Err(error) => tracing::warn!(%error, "the older delivery could not be acknowledged"),
        }
        None
    }

    /// Whether nothing is held.
    pub(crate) fn is_empty(&self) -> bool {
        locked(&self.held).is_empty()
    }

    /// Says once more that we hold what the progress service was told.
    pub(crate) async fn tell_all(&self) {
        let told: Vec<_> = {
            let held = locked(&self.held);
            let told = held.iter().filter(|(_, held)| held.told.is_some());
            told.map(|(key, held)| (key.clone(), held.holder.clone())).collect()
        };
        for (key, holder) in told {
            self.tell(&key, &holder).await;
        }
    }

    async fn tell(&self, (run, shard): &Key, holder: &Holder) {
        if let Err(error) = self.progress.hold(run, *shard, holder, self.ttl).await {
            tracing::warn!(%run, %shard, %error, "the progress service does not know that we hold the shard");
        }
    }

    fn remove(&self, key: &Key) -> Option<Held> {
        let mut held = locked(&self.held);
        let removed = held.remove(key);
        self.measure(held.len());
        removed
    }

    fn measure(&self, held: usize) {
        if let Some(metrics) = &self.metrics {
            metrics.held(held);
        }
    }
}

/// That this worker works on a shard. Ends with [`Hold::release`]; or, where the attempt was cut off, on drop, and then the
/// queue gives the delivery to somebody else once this worker is gone.
pub(crate) struct Hold {
    holding: Arc<Holding>,
    key: Key,
    attempt: AttemptId,
    deliveries: u32,
}

impl Hold {
    pub(crate) fn run(&self) -> &RunId {
        &self.key.0
    }

    pub(crate) fn shard(&self) -> ShardId {
        self.key.1
    }

    pub(crate) fn attempt(&self) -> &AttemptId {
        &self.attempt
    }

    /// How often the shard was delivered before we took it, that time included.
    pub(crate) fn deliveries(&self) -> u32 {
        self.deliveries
    }

    /// Another worker that has the shard, as far as the progress service knows. One that died is forgotten in time.
    pub(crate) async fn other_holder(&self, worker: &WorkerId) -> Option<Holder> {
        let holder = self.holding.progress.holder(&self.key.0, self.key.1).await.ok().flatten();
        holder.filter(|holder| holder.worker != *worker)
    }

    /// Says that we have it.
    pub(crate) async fn tell(&self) {
        let holder = locked(&self.holding.held).get_mut(&self.key).map(|held| {
            held.told = Some(Instant::now());
            held.holder.clone()
        });
        if let Some(holder) = holder {
            self.holding.tell(&self.key, &holder).await;
        }
    }

    /// Adds what was made since, so that progress moves picture by picture.
    pub(crate) async fn made(&self, done: u64, failed: u64) {
        let is_due = locked(&self.holding.held).get_mut(&self.key).is_some_and(|held| {
            held.holder.done += done;
            held.holder.failed += failed;
            held.told.is_none_or(|told| told.elapsed() >= TELLING)
        });
        if is_due {
            self.tell().await;
        }
    }

    /// Ends it and gives the newest delivery. `forgotten`: the progress service has dropped the holder with a commit.
    pub(crate) async fn release(&self, forgotten: bool) -> Option<Delivery> {
        let held = self.holding.remove(&self.key)?;
        if held.told.is_some()
            && !forgotten
            && let Err(error) = self.holding.progress.release(&self.key.0, self.key.1, &self.attempt).await
        {
            tracing::warn!(%error, "the progress service still thinks that we hold the shard");
        }
        Some(held.delivery)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // After a release there may be another attempt of ours under this key.
        let mut held = locked(&self.holding.held);
        if held.get(&self.key).is_some_and(|held| held.holder.attempt == self.attempt) {
            held.remove(&self.key);
            self.holding.measure(held.len());
        }
    }
}
