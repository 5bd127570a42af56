//! The queue inside one process. Lost with it, on purpose.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use diorama_core::id::Pool;
use diorama_core::message::ShardMessage;
use tokio::sync::Notify;

use super::{Consumer, Delivery, Queue, QueueDepth, QueueError, Settle, Settlement};

/// An in-process queue. Clones share it.
#[derive(Clone, Default)]
pub struct EmbeddedQueue {
    pools: Arc<Mutex<HashMap<Pool, Arc<PoolQueue>>>>,
}

#[derive(Default)]
struct PoolQueue {
    state: Mutex<PoolState>,
    /// Something became ready, or a consumer may take one more.
    changed: Notify,
}

#[derive(Default)]
struct PoolState {
    ready: VecDeque<Waiting>,
    dead: VecDeque<Waiting>,
    unsettled: HashMap<u64, Unsettled>,
    next_tag: u64,
    next_consumer: u64,
    consumers: u64,
}

#[derive(Clone)]
struct Waiting {
    message: ShardMessage,
    /// Deliveries so far.
    deliveries: u32,
}

struct Unsettled {
    /// `None`: taken from the dead letters.
    consumer: Option<u64>,
    waiting: Waiting,
}

impl PoolQueue {
    fn state(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deliver(self: &Arc<Self>, state: &mut PoolState, mut waiting: Waiting, consumer: Option<u64>) -> Delivery {
        waiting.deliveries += 1;
        let tag = state.next_tag;
        state.next_tag += 1;
        let settle = Tag { queue: self.clone(), tag, shard: waiting.message.shard };
        let delivery = Delivery::new(waiting.message.clone(), waiting.deliveries, Box::new(settle));
        state.unsettled.insert(tag, Unsettled { consumer, waiting });
        delivery
    }
}

struct Tag {
    queue: Arc<PoolQueue>,
    tag: u64,
    shard: diorama_core::id::ShardId,
}

#[async_trait]
impl Settle for Tag {
    async fn settle(self: Box<Self>, how: Settlement) -> Result<(), QueueError> {
        {
            let mut state = self.queue.state();
            let Some(unsettled) = state.unsettled.remove(&self.tag) else {
                return Err(QueueError::Stale(self.shard));
            };
            match how {
                Settlement::Ack => {}
                Settlement::HandBack if unsettled.consumer.is_some() => state.ready.push_front(unsettled.waiting),
                Settlement::HandBack | Settlement::DeadLetter => state.dead.push_back(unsettled.waiting),
            }
        }
        self.queue.changed.notify_waiters();
        Ok(())
    }
}

struct EmbeddedConsumer {
    queue: Arc<PoolQueue>,
    id: u64,
    prefetch: usize,
}

#[async_trait]
impl Consumer for EmbeddedConsumer {
    async fn next(&mut self) -> Result<Delivery, QueueError> {
        loop {
            let queue = self.queue.clone();
            let changed = queue.changed.notified();
            tokio::pin!(changed);
            // Registered before looking, so that a change between the look and the wait is not missed.
            changed.as_mut().enable();
            {
                let mut state = self.queue.state();
                let held = state.unsettled.values().filter(|unsettled| unsettled.consumer == Some(self.id)).count();
                if held < self.prefetch
                    && let Some(waiting) = state.ready.pop_front()
                {
                    return Ok(self.queue.deliver(&mut state, waiting, Some(self.id)));
                }
            }
            changed.await;
        }
    }
}

impl Drop for EmbeddedConsumer {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        state.consumers -= 1;
        let mine: Vec<u64> =
            state.unsettled.iter().filter(|(_, held)| held.consumer == Some(self.id)).map(|(tag, _)| *tag).collect();
        for tag in mine {
            if let Some(unsettled) = state.unsettled.remove(&tag) {
                state.ready.push_front(unsettled.waiting);
            }
        }
        drop(state);
        self.queue.changed.notify_waiters();
    }
}

impl EmbeddedQueue {
    fn pool(&self, pool: &Pool) -> Arc<PoolQueue> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner).entry(pool.clone()).or_default().clone()
    }
}

#[async_trait]
impl Queue for EmbeddedQueue {
    async fn publish(&self, pool: &Pool, message: &ShardMessage) -> Result<(), QueueError> {
        let queue = self.pool(pool);
        queue.state().ready.push_back(Waiting { message: message.clone(), deliveries: 0 });
        queue.changed.notify_waiters();
        Ok(())
    }

    async fn consume(&self, pool: &Pool, prefetch: u16) -> Result<Box<dyn Consumer>, QueueError> {
        let queue = self.pool(pool);
        let id = {
            let mut state = queue.state();
            state.next_consumer += 1;
            state.consumers += 1;
            state.next_consumer
        };
        Ok(Box::new(EmbeddedConsumer { queue, id, prefetch: usize::from(prefetch.max(1)) }))
    }

    async fn dead_letter(&self, pool: &Pool) -> Result<Option<Delivery>, QueueError> {
        let queue = self.pool(pool);
        let mut state = queue.state();
        let Some(waiting) = state.dead.pop_front() else { return Ok(None) };
        Ok(Some(queue.deliver(&mut state, waiting, None)))
    }

    async fn depth(&self, pool: &Pool) -> Result<QueueDepth, QueueError> {
        let queue = self.pool(pool);
        let state = queue.state();
        Ok(QueueDepth { ready: state.ready.len() as u64, consumers: state.consumers, dead: state.dead.len() as u64 })
    }

    async fn remove_if_idle(&self, pool: &Pool) -> Result<bool, QueueError> {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let is_idle = |state: &PoolState| {
            state.ready.is_empty() && state.dead.is_empty() && state.unsettled.is_empty() && state.consumers == 0
        };
        let is_idle = pools.get(pool).is_none_or(|queue| is_idle(&queue.state()));
        if is_idle {
            pools.remove(pool);
        }
        Ok(is_idle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::conformance;

    #[tokio::test]
    async fn every_message_is_delivered_once_in_order_and_an_ack_ends_it() {
        conformance::every_message_is_delivered_once_in_order_and_an_ack_ends_it(&EmbeddedQueue::default()).await;
    }

    #[tokio::test]
    async fn a_dropped_consumers_messages_are_delivered_again_and_counted() {
        conformance::a_dropped_consumers_messages_are_delivered_again_and_counted(&EmbeddedQueue::default()).await;
    }

    #[tokio::test]
    async fn prefetch_bounds_what_a_consumer_holds() {
        conformance::prefetch_bounds_what_a_consumer_holds(&EmbeddedQueue::default()).await;
    }

    #[tokio::test]
    async fn handed_back_goes_to_another_consumer_and_dead_letters_are_kept_apart() {
        conformance::handed_back_goes_to_another_and_dead_letters_are_kept_apart(&EmbeddedQueue::default()).await;
    }

    #[tokio::test]
    async fn a_queue_goes_only_while_it_is_empty_and_comes_back_with_the_next_message() {
        conformance::a_queue_goes_only_while_it_is_empty_and_comes_back(&EmbeddedQueue::default()).await;
    }

    #[tokio::test]
    async fn a_stale_settlement_is_noticed_and_changes_nothing() {
        conformance::a_stale_settlement_is_noticed_and_changes_nothing(&EmbeddedQueue::default()).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn many_consumers_share_and_nothing_is_lost_or_doubled() {
        conformance::many_consumers_share_and_nothing_is_lost_or_doubled(Arc::new(EmbeddedQueue::default())).await;
    }
}
