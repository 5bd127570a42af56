//! The queue, as a node sees it, and what can happen to what lies in it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use diorama_backends::kind::ErrorKind;
use diorama_backends::queue::{Consumer, Delivery, Queue, QueueDepth, QueueError, Settle, Settlement};
use diorama_core::id::{Pool, ShardId};
use diorama_core::message::ShardMessage;

use crate::node::{Node, Service};
use crate::world::{Fate, World, locked};

/// How often a message is delivered before the broker gives it up.
const DELIVERIES: u32 = 100;

/// Between two looks whether a broker that cannot be reached can be reached again.
const UNHEARD: Duration = Duration::from_millis(500);

/// A pool's queue, as the broker has it.
#[derive(Default)]
pub(crate) struct PoolQueue {
    /// With how often each was delivered.
    ready: VecDeque<(ShardMessage, u32)>,
    /// By tag: whose it is.
    unsettled: BTreeMap<u64, (u64, ShardMessage, u32)>,
    /// The dead letters.
    dead: VecDeque<ShardMessage>,
    tags: u64,
    /// With the number of the process that each belongs to.
    consumers: BTreeMap<u64, u64>,
    names: u64,
}

impl PoolQueue {
    fn consumer(&mut self, of: u64) -> u64 {
        self.names += 1;
        self.consumers.insert(self.names, of);
        self.names
    }
}

/// What can happen to what waits.
impl World {
    /// The broker loses all of it.
    pub(crate) fn purge(&self) {
        locked(&self.queue).values_mut().for_each(|pool| pool.ready.clear());
    }

    /// It loses one message of each pool.
    pub(crate) fn lose_one(&self) {
        let dice = self.roll(1000) as usize;
        for pool in locked(&self.queue).values_mut() {
            pool.ready.remove(dice % pool.ready.len().max(1));
        }
    }

    /// It delivers some message a second time.
    pub(crate) fn duplicate(&self) {
        let dice = self.roll(1000) as usize;
        for pool in locked(&self.queue).values_mut() {
            if let Some(message) = pool.ready.get(dice % pool.ready.len().max(1)).cloned() {
                pool.ready.push_back(message);
            }
        }
        self.queued.notify_waiters();
    }

    /// It gives one message of each pool up, as after too many deliveries.
    pub(crate) fn give_up_one(&self) {
        let dice = self.roll(1000) as usize;
        for pool in locked(&self.queue).values_mut() {
            let given_up = pool.ready.remove(dice % pool.ready.len().max(1));
            pool.dead.extend(given_up.map(|(message, _)| message));
        }
    }

    /// It gives up every consumer of the pools: what they have goes to others.
    pub(crate) fn cut_consumers(&self) {
        self.cut_consumers_of(|_| true);
    }

    /// The same of a process that it has not heard of for too long.
    pub(crate) fn give_up(&self, process: u64) {
        self.note(&("given up", process));
        self.cut_consumers_of(|of| of == process);
    }

    fn cut_consumers_of(&self, is_cut: impl Fn(u64) -> bool) {
        let mut cut = Vec::new();
        for (pool, known) in &*locked(&self.queue) {
            let consumers = known.consumers.iter().filter(|(_, of)| is_cut(**of));
            cut.extend(consumers.map(|(consumer, _)| (pool.clone(), *consumer)));
        }
        cut.into_iter().for_each(|(pool, consumer)| self.cut(&pool, consumer));
    }

    fn cut(&self, pool: &Pool, consumer: u64) {
        let mut queue = locked(&self.queue);
        let pool = queue.entry(pool.clone()).or_default();
        pool.consumers.remove(&consumer);
        let tags: Vec<u64> =
            pool.unsettled.iter().filter(|(_, (held, _, _))| *held == consumer).map(|(tag, _)| *tag).collect();
        for tag in tags {
            if let Some((_, message, deliveries)) = pool.unsettled.remove(&tag) {
                pool.ready.push_front((message, deliveries));
            }
        }
        drop(queue);
        self.queued.notify_waiters();
    }

    fn enqueue(&self, pool: Pool, message: ShardMessage) {
        self.note(&("published", &pool, &message.run, message.shard));
        locked(&self.queue).entry(pool).or_default().ready.push_back((message, 0));
        self.queued.notify_waiters();
    }
}

fn away(doing: &'static str) -> QueueError {
    QueueError::failed(ErrorKind::Transient, doing, "simulated")
}

#[async_trait]
impl Queue for Node {
    async fn publish(&self, pool: &Pool, message: &ShardMessage) -> Result<(), QueueError> {
        let (world, to, message) = (self.world.clone(), pool.clone(), message.clone());
        let published = match self.call(Service::Queue).await {
            Fate::Done => {
                world.enqueue(to, message);
                Ok(())
            }
            Fate::Refused => Err(away("publishing")),
            Fate::AnswerLost => {
                world.enqueue(to, message);
                Err(away("publishing"))
            }
            Fate::Late(after) => {
                tokio::spawn(async move {
                    tokio::time::sleep(after).await;
                    world.enqueue(to, message);
                });
                Err(away("publishing"))
            }
        };
        self.gate().await;
        published
    }

    async fn consume(&self, pool: &Pool, prefetch: u16) -> Result<Box<dyn Consumer>, QueueError> {
        if let Fate::Refused | Fate::AnswerLost = self.call(Service::Queue).await {
            return Err(away("consuming"));
        }
        let id = locked(&self.world.queue).entry(pool.clone()).or_default().consumer(self.number);
        Ok(Box::new(NodeConsumer { node: self.clone(), pool: pool.clone(), id, prefetch: usize::from(prefetch) }))
    }

    async fn dead_letter(&self, pool: &Pool) -> Result<Option<Delivery>, QueueError> {
        if let Fate::Refused | Fate::AnswerLost = self.call(Service::Queue).await {
            return Err(away("looking for dead letters"));
        }
        let dead = locked(&self.world.queue).get_mut(pool).and_then(|pool| pool.dead.pop_front());
        let delivery = dead.map(|message| {
            let letter = DeadLetter { world: self.world.clone(), pool: pool.clone(), message: Some(message.clone()) };
            Delivery::new(message, DELIVERIES, Box::new(letter))
        });
        self.gate().await;
        Ok(delivery)
    }

    async fn remove_if_idle(&self, _: &Pool) -> Result<bool, QueueError> {
        // One that is empty is kept.
        Ok(false)
    }

    async fn depth(&self, pool: &Pool) -> Result<QueueDepth, QueueError> {
        if let Fate::Refused | Fate::AnswerLost = self.call(Service::Queue).await {
            return Err(away("looking"));
        }
        let queue = locked(&self.world.queue);
        let known = queue.get(pool);
        let count = |of: fn(&PoolQueue) -> usize| known.map_or(0, |pool| of(pool) as u64);
        Ok(QueueDepth {
            ready: count(|pool| pool.ready.len()),
            consumers: count(|pool| pool.consumers.len()),
            dead: count(|pool| pool.dead.len()),
        })
    }
}

struct NodeConsumer {
    node: Node,
    pool: Pool,
    id: u64,
    prefetch: usize,
}

#[async_trait]
impl Consumer for NodeConsumer {
    async fn next(&mut self) -> Result<Delivery, QueueError> {
        let world = self.node.world.clone();
        loop {
            // Deliveries take a moment, so that whoever handed one back is not always the first to get it.
            tokio::time::sleep(Duration::from_millis(1 + world.roll(20))).await;
            self.node.gate().await;
            if self.node.is_cut_off_from(Service::Queue) {
                tokio::time::sleep(UNHEARD).await;
                continue;
            }
            let queued = world.queued.notified();
            tokio::pin!(queued);
            queued.as_mut().enable();
            if let Some(delivery) = self.take() {
                return Ok(delivery);
            }
            queued.await;
        }
    }
}

impl NodeConsumer {
    fn take(&mut self) -> Option<Delivery> {
        let world = &self.node.world;
        let mut queue = locked(&world.queue);
        let pool = queue.entry(self.pool.clone()).or_default();
        if !pool.consumers.contains_key(&self.id) {
            // The broker had given it up; it subscribes anew.
            self.id = pool.consumer(self.node.number);
        }
        let held = pool.unsettled.values().filter(|(consumer, _, _)| *consumer == self.id).count();
        if held >= self.prefetch {
            return None;
        }
        let (message, deliveries) = loop {
            match pool.ready.pop_front()? {
                (message, DELIVERIES..) => pool.dead.push_back(message),
                next => break next,
            }
        };
        world.note(&("delivered", &self.pool, self.id, &message.run, message.shard));
        pool.tags += 1;
        pool.unsettled.insert(pool.tags, (self.id, message.clone(), deliveries + 1));
        let settle = Tag {
            node: self.node.clone(),
            pool: self.pool.clone(),
            consumer: self.id,
            tag: pool.tags,
            shard: message.shard,
        };
        Some(Delivery::new(message, deliveries + 1, Box::new(settle)))
    }
}

impl Drop for NodeConsumer {
    fn drop(&mut self) {
        self.node.world.cut(&self.pool, self.id);
    }
}

struct Tag {
    node: Node,
    pool: Pool,
    consumer: u64,
    tag: u64,
    shard: ShardId,
}

#[async_trait]
impl Settle for Tag {
    async fn settle(self: Box<Self>, how: Settlement) -> Result<(), QueueError> {
        let world = &self.node.world;
        if let Fate::Refused = self.node.call(Service::Queue).await {
            // The connection is broken, and what came over it goes to others.
            world.cut(&self.pool, self.consumer);
            return Err(QueueError::Stale(self.shard));
        }
        {
            let mut queue = locked(&world.queue);
            let pool = queue.entry(self.pool.clone()).or_default();
            let Some((_, message, deliveries)) = pool.unsettled.remove(&self.tag) else {
                return Err(QueueError::Stale(self.shard));
            };
            world.note(&("settled", &self.pool, &message.run, message.shard, format!("{how:?}")));
            match how {
                Settlement::Ack => {}
                Settlement::HandBack => pool.ready.push_back((message, deliveries)),
                Settlement::DeadLetter => pool.dead.push_back(message),
            }
        }
        world.queued.notify_waiters();
        Ok(())
    }
}

/// A dead letter in somebody's hands; back where it was when he dies.
struct DeadLetter {
    world: Arc<World>,
    pool: Pool,
    message: Option<ShardMessage>,
}

#[async_trait]
impl Settle for DeadLetter {
    async fn settle(mut self: Box<Self>, how: Settlement) -> Result<(), QueueError> {
        if how == Settlement::Ack {
            self.message = None;
        }
        Ok(())
    }
}

impl Drop for DeadLetter {
    fn drop(&mut self) {
        if let Some(message) = self.message.take() {
            locked(&self.world.queue).entry(self.pool.clone()).or_default().dead.push_back(message);
        }
    }
}
