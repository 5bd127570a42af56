//! That a worker works on a shard, as the progress service is told: from the first sign of life to the last.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use diorama_backends::progress::Holder;
use diorama_core::id::{RunId, ShardId};
use diorama_core::message::ShardMessage;

use crate::worker::{Worker, locked};

impl Worker {
    /// Says that we work on the shard; `None` where this very worker already does.
    pub(crate) async fn hold(self: &Arc<Self>, message: &ShardMessage, holder: Holder) -> Option<Hold> {
        let key = (message.run.clone(), message.shard);
        {
            let mut holding = locked(&self.holding);
            if holding.contains_key(&key) {
                return None;
            }
            holding.insert(key.clone(), holder);
            self.measure(|metrics| metrics.held(holding.len()));
        }
        let hold = Hold { worker: self.clone(), key, told: Mutex::new(Instant::now()) };
        hold.tell().await;
        Some(hold)
    }
}

/// That this worker works on a shard; ends with [`Hold::forget`] or, where the attempt was cut off, on drop.
pub(crate) struct Hold {
    worker: Arc<Worker>,
    key: (RunId, ShardId),
    /// When the progress service last heard of it.
    told: Mutex<Instant>,
}

/// How often the progress service hears of what was made: fast shards must not cost it a command a batch.
const TELLING: Duration = Duration::from_millis(500);

impl Hold {
    /// Adds what was made since, so that progress moves picture by picture.
    pub(crate) async fn made(&self, done: u64, failed: u64) {
        if let Some(holder) = locked(&self.worker.holding).get_mut(&self.key) {
            holder.done += done;
            holder.failed += failed;
        }
        // Out of the condition, where the lock would be held over the command.
        let is_due = locked(&self.told).elapsed() >= TELLING;
        if is_due {
            *locked(&self.told) = Instant::now();
            self.tell().await;
        }
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
        let Some(holder) = self.let_go() else { return };
        if let Err(error) = self.worker.backends.progress.release(&self.key.0, self.key.1, &holder.attempt).await {
            tracing::warn!(%error, shard = %self.key.1, "the progress service still thinks that we hold the shard");
        }
    }

    fn let_go(&self) -> Option<Holder> {
        let mut holding = locked(&self.worker.holding);
        let holder = holding.remove(&self.key);
        self.worker.measure(|metrics| metrics.held(holding.len()));
        holder
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.let_go();
    }
}
