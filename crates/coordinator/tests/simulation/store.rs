//! The services of the simulated world: one store, one queue, one progress service, and what each node sees of them.
//!
//! Every call of a node may be late, refused, or done with its answer lost; a put may take effect long after it failed.
//! A frozen node's calls stand still on both sides of their effect.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use diorama_backends::kind::ErrorKind;
use diorama_backends::objects::{ObjectError, ObjectErrorKind, ObjectMeta, ObjectReader, Objects, Page, Put};
use diorama_backends::progress::embedded::EmbeddedProgress;
use diorama_backends::progress::{Counted, Counts, Head, Heartbeat, Holder, Progress, ProgressError, Throughput};
use diorama_backends::queue::{Consumer, Delivery, Queue, QueueDepth, QueueError, Settle, Settlement};
use diorama_core::id::{AttemptId, Pool, Round, RunId, ShardId};
use diorama_core::message::ShardMessage;
use diorama_core::outcome::TaskOutcome;
use diorama_core::shards::ShardSet;
use tokio::sync::{Notify, watch};

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How often a call goes wrong, out of a thousand.
#[derive(Clone, Copy)]
pub(crate) struct Chaos {
    pub(crate) refused: u32,
    pub(crate) answer_lost: u32,
    pub(crate) late: u32,
    /// The progress service does not answer at all.
    pub(crate) progress_away: bool,
}

impl Chaos {
    pub(crate) const NONE: Self = Self { refused: 0, answer_lost: 0, late: 0, progress_away: false };
}

/// What everything in the world shares.
pub(crate) struct World {
    rng: Mutex<fastrand::Rng>,
    pub(crate) chaos: Mutex<Chaos>,
    objects: Mutex<BTreeMap<String, Bytes>>,
    queue: Mutex<HashMap<Pool, PoolQueue>>,
    queued: Notify,
    progress: Mutex<EmbeddedProgress>,
}

#[derive(Default)]
struct PoolQueue {
    ready: VecDeque<(ShardMessage, u32)>,
    unsettled: HashMap<u64, (u64, ShardMessage, u32)>,
    tags: u64,
    consumers: Vec<u64>,
    names: u64,
}

/// What a call comes to.
enum Fate {
    Done,
    Refused,
    AnswerLost,
    Late(Duration),
}

impl World {
    pub(crate) fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self {
            rng: Mutex::new(fastrand::Rng::with_seed(seed)),
            chaos: Mutex::new(Chaos::NONE),
            objects: Mutex::default(),
            queue: Mutex::default(),
            queued: Notify::new(),
            progress: Mutex::default(),
        })
    }

    pub(crate) fn roll(&self, below: u64) -> u64 {
        locked(&self.rng).u64(0..below.max(1))
    }

    fn fate(&self) -> Fate {
        let chaos = *locked(&self.chaos);
        let dice = self.roll(1000) as u32;
        if dice < chaos.refused {
            Fate::Refused
        } else if dice < chaos.refused + chaos.answer_lost {
            Fate::AnswerLost
        } else if dice < chaos.refused + chaos.answer_lost + chaos.late {
            Fate::Late(Duration::from_millis(self.roll(60_000)))
        } else {
            Fate::Done
        }
    }

    async fn lag(&self) {
        let millis = match self.roll(20) {
            0 => self.roll(2000),
            _ => self.roll(20),
        };
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }

    /// All of it, as it is now.
    pub(crate) fn snapshot(&self) -> BTreeMap<String, Bytes> {
        locked(&self.objects).clone()
    }

    /// The broker loses everything that waits.
    pub(crate) fn purge(&self) {
        locked(&self.queue).values_mut().for_each(|pool| pool.ready.clear());
    }

    /// The broker delivers some message a second time.
    pub(crate) fn duplicate(&self) {
        let dice = self.roll(1000) as usize;
        for pool in locked(&self.queue).values_mut() {
            if let Some(message) = pool.ready.get(dice % pool.ready.len().max(1)).cloned() {
                pool.ready.push_back(message);
            }
        }
        self.queued.notify_waiters();
    }

    /// The progress service forgets everything.
    pub(crate) fn empty_progress(&self) {
        *locked(&self.progress) = EmbeddedProgress::default();
    }

    fn progress(&self) -> EmbeddedProgress {
        locked(&self.progress).clone()
    }

    /// The broker gives up a consumer that is silent: what it has goes to others.
    fn cut(&self, pool: &Pool, consumer: u64) {
        let mut queue = locked(&self.queue);
        let pool = queue.entry(pool.clone()).or_default();
        pool.consumers.retain(|known| *known != consumer);
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
}

/// One process of the world.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) world: Arc<World>,
    frozen: watch::Sender<bool>,
}

impl Node {
    pub(crate) fn new(world: &Arc<World>) -> Self {
        Self { world: world.clone(), frozen: watch::Sender::new(false) }
    }

    pub(crate) fn freeze(&self) {
        self.frozen.send_replace(true);
    }

    pub(crate) fn go_on(&self) {
        self.frozen.send_replace(false);
    }

    async fn gate(&self) {
        let mut frozen = self.frozen.subscribe();
        // The sender lives as long as the node.
        let _ = frozen.wait_for(|frozen| !frozen).await;
    }
}

fn failed(kind: ObjectErrorKind, doing: &'static str, key: &str) -> ObjectError {
    ObjectError::new(kind, doing, key, "simulated")
}

#[async_trait]
impl Objects for Node {
    async fn get(&self, key: &str) -> Result<Bytes, ObjectError> {
        self.read("reading", key, |objects| objects.get(key).cloned())
            .await?
            .ok_or_else(|| failed(ObjectErrorKind::NotFound, "reading", key))
    }

    async fn open(&self, key: &str) -> Result<ObjectReader, ObjectError> {
        let bytes = self.get(key).await?;
        Ok(ObjectReader { bytes: bytes.len() as u64, body: Box::pin(std::io::Cursor::new(bytes)) })
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, ObjectError> {
        let meta = |bytes: &Bytes| ObjectMeta { key: key.to_owned(), bytes: bytes.len() as u64, modified: None };
        self.read("looking at", key, |objects| objects.get(key).map(meta)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, ObjectError> {
        let limit = limit.min(1 + self.world.roll(40) as usize);
        self.read("listing", prefix, |objects| {
            let from = match after {
                Some(after) if after >= prefix => Bound::Excluded(after.to_owned()),
                _ => Bound::Included(prefix.to_owned()),
            };
            let mut rest = objects.range((from, Bound::Unbounded)).take_while(|(key, _)| key.starts_with(prefix));
            let meta = |(key, bytes): (&String, &Bytes)| ObjectMeta {
                key: key.clone(),
                bytes: bytes.len() as u64,
                modified: None,
            };
            let page: Vec<_> = rest.by_ref().take(limit).map(meta).collect();
            let next = rest.next().and_then(|_| page.last().map(|last| last.key.clone()));
            Page { objects: page, next }
        })
        .await
    }

    async fn put(&self, key: &str, bytes: Bytes) -> Result<(), ObjectError> {
        let name = key.to_owned();
        self.write("writing", key, move |objects| drop(objects.insert(name, bytes))).await
    }

    async fn put_if_absent(&self, key: &str, bytes: Bytes) -> Result<Put, ObjectError> {
        let name = key.to_owned();
        self.write("writing", key, move |objects| {
            if objects.contains_key(&name) {
                return Put::Exists;
            }
            objects.insert(name, bytes);
            Put::Created
        })
        .await
    }

    async fn put_file(&self, key: &str, file: &Path) -> Result<(), ObjectError> {
        let bytes =
            std::fs::read(file).map_err(|error| ObjectError::io("reading", file.display().to_string(), &error))?;
        self.put(key, bytes.into()).await
    }

    async fn delete(&self, key: &str) -> Result<(), ObjectError> {
        let name = key.to_owned();
        self.write("removing", key, move |objects| drop(objects.remove(&name))).await
    }
}

impl Node {
    async fn read<T>(
        &self,
        doing: &'static str,
        key: &str,
        read: impl FnOnce(&BTreeMap<String, Bytes>) -> T + Send,
    ) -> Result<T, ObjectError> {
        self.gate().await;
        self.world.lag().await;
        let read = match self.world.fate() {
            Fate::Done | Fate::Late(_) => Ok(read(&locked(&self.world.objects))),
            Fate::Refused | Fate::AnswerLost => Err(failed(ObjectErrorKind::Transient, doing, key)),
        };
        self.gate().await;
        read
    }

    async fn write<T: Send + 'static>(
        &self,
        doing: &'static str,
        key: &str,
        write: impl FnOnce(&mut BTreeMap<String, Bytes>) -> T + Send + 'static,
    ) -> Result<T, ObjectError> {
        self.gate().await;
        self.world.lag().await;
        let written = match self.world.fate() {
            Fate::Done => Ok(write(&mut locked(&self.world.objects))),
            Fate::Refused => Err(failed(ObjectErrorKind::Transient, doing, key)),
            Fate::AnswerLost => {
                write(&mut locked(&self.world.objects));
                Err(failed(ObjectErrorKind::Transient, doing, key))
            }
            Fate::Late(after) => {
                let world = self.world.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(after).await;
                    write(&mut locked(&world.objects));
                });
                Err(failed(ObjectErrorKind::Transient, doing, key))
            }
        };
        self.gate().await;
        written
    }

    async fn asks<T>(&self, ask: impl Future<Output = Result<T, ProgressError>> + Send) -> Result<T, ProgressError> {
        self.gate().await;
        self.world.lag().await;
        let away = || ProgressError::new(ErrorKind::Transient, "asking", "simulated");
        let answer = match self.world.fate() {
            _ if locked(&self.world.chaos).progress_away => Err(away()),
            Fate::Refused => Err(away()),
            Fate::Done | Fate::Late(_) => ask.await,
            Fate::AnswerLost => {
                ask.await?;
                Err(away())
            }
        };
        self.gate().await;
        answer
    }
}

#[async_trait]
impl Progress for Node {
    async fn commit(
        &self,
        run: &RunId,
        shard: ShardId,
        counts: Counts,
        failures: &[TaskOutcome],
    ) -> Result<bool, ProgressError> {
        self.asks(self.world.progress().commit(run, shard, counts, failures)).await
    }

    async fn commit_many(&self, run: &RunId, shards: &[(ShardId, Counts)]) -> Result<(), ProgressError> {
        self.asks(self.world.progress().commit_many(run, shards)).await
    }

    async fn committed(&self, run: &RunId, round: Round) -> Result<ShardSet, ProgressError> {
        self.asks(self.world.progress().committed(run, round)).await
    }

    async fn counted(&self, run: &RunId) -> Result<Counted, ProgressError> {
        self.asks(self.world.progress().counted(run)).await
    }

    async fn complete(&self, run: &RunId) -> Result<(), ProgressError> {
        self.asks(self.world.progress().complete(run)).await
    }

    async fn hold(&self, run: &RunId, shard: ShardId, holder: &Holder, ttl: Duration) -> Result<(), ProgressError> {
        self.asks(self.world.progress().hold(run, shard, holder, ttl)).await
    }

    async fn release(&self, run: &RunId, shard: ShardId, attempt: &AttemptId) -> Result<(), ProgressError> {
        self.asks(self.world.progress().release(run, shard, attempt)).await
    }

    async fn holder(&self, run: &RunId, shard: ShardId) -> Result<Option<Holder>, ProgressError> {
        self.asks(self.world.progress().holder(run, shard)).await
    }

    async fn holders(&self, run: &RunId) -> Result<Vec<(ShardId, Holder)>, ProgressError> {
        self.asks(self.world.progress().holders(run)).await
    }

    async fn heartbeat(&self, heartbeat: &Heartbeat, ttl: Duration) -> Result<(), ProgressError> {
        self.asks(self.world.progress().heartbeat(heartbeat, ttl)).await
    }

    async fn workers(&self) -> Result<Vec<Heartbeat>, ProgressError> {
        self.asks(self.world.progress().workers()).await
    }

    async fn recent_failures(&self, run: &RunId) -> Result<Vec<TaskOutcome>, ProgressError> {
        self.asks(self.world.progress().recent_failures(run)).await
    }

    async fn throughput(&self, run: &RunId) -> Result<Throughput, ProgressError> {
        self.asks(self.world.progress().throughput(run)).await
    }

    async fn announce(&self, run: &RunId, head: &Head) -> Result<(), ProgressError> {
        self.asks(self.world.progress().announce(run, head)).await
    }

    async fn head(&self, run: &RunId) -> Result<Option<Head>, ProgressError> {
        self.asks(self.world.progress().head(run)).await
    }

    async fn claim(
        &self,
        run: &RunId,
        what: &str,
        attempt: &AttemptId,
        ttl: Duration,
    ) -> Result<AttemptId, ProgressError> {
        self.asks(self.world.progress().claim(run, what, attempt, ttl)).await
    }

    async fn lease(&self, name: &str, owner: &str, ttl: Duration) -> Result<bool, ProgressError> {
        self.asks(self.world.progress().lease(name, owner, ttl)).await
    }

    async fn release_lease(&self, name: &str, owner: &str) -> Result<(), ProgressError> {
        self.asks(self.world.progress().release_lease(name, owner)).await
    }

    async fn ring(&self) -> Result<(), ProgressError> {
        self.asks(self.world.progress().ring()).await
    }

    async fn rung(&self) -> Result<u64, ProgressError> {
        self.asks(self.world.progress().rung()).await
    }

    async fn forget(&self, run: &RunId) -> Result<(), ProgressError> {
        self.asks(self.world.progress().forget(run)).await
    }

    async fn expire(&self, run: &RunId, after: Duration) -> Result<(), ProgressError> {
        self.asks(self.world.progress().expire(run, after)).await
    }
}

#[async_trait]
impl Queue for Node {
    async fn publish(&self, pool: &Pool, message: &ShardMessage) -> Result<(), QueueError> {
        self.gate().await;
        self.world.lag().await;
        let fate = self.world.fate();
        if !matches!(fate, Fate::Refused) {
            locked(&self.world.queue).entry(pool.clone()).or_default().ready.push_back((message.clone(), 0));
            self.world.queued.notify_waiters();
        }
        match fate {
            Fate::Done | Fate::Late(_) => Ok(()),
            Fate::Refused | Fate::AnswerLost => {
                Err(QueueError::failed(ErrorKind::Transient, "publishing", "simulated"))
            }
        }
    }

    async fn consume(&self, pool: &Pool, prefetch: u16) -> Result<Box<dyn Consumer>, QueueError> {
        let mut queue = locked(&self.world.queue);
        let known = queue.entry(pool.clone()).or_default();
        known.names += 1;
        let id = known.names;
        known.consumers.push(id);
        Ok(Box::new(NodeConsumer { node: self.clone(), pool: pool.clone(), id, prefetch: usize::from(prefetch) }))
    }

    async fn dead_letter(&self, _: &Pool) -> Result<Option<Delivery>, QueueError> {
        Ok(None)
    }

    async fn depth(&self, pool: &Pool) -> Result<QueueDepth, QueueError> {
        self.gate().await;
        let queue = locked(&self.world.queue);
        let known = queue.get(pool);
        let ready = known.map_or(0, |pool| pool.ready.len() as u64);
        Ok(QueueDepth { ready, consumers: known.map_or(0, |pool| pool.consumers.len() as u64), dead: 0 })
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
        loop {
            self.node.gate().await;
            let world = self.node.world.clone();
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
        let mut queue = locked(&self.node.world.queue);
        let pool = queue.entry(self.pool.clone()).or_default();
        if !pool.consumers.contains(&self.id) {
            // The broker had given it up; it subscribes anew.
            pool.names += 1;
            self.id = pool.names;
            pool.consumers.push(self.id);
        }
        let held = pool.unsettled.values().filter(|(consumer, _, _)| *consumer == self.id).count();
        if held >= self.prefetch {
            return None;
        }
        let (message, deliveries) = pool.ready.pop_front()?;
        pool.tags += 1;
        pool.unsettled.insert(pool.tags, (self.id, message.clone(), deliveries + 1));
        let settle =
            Tag { world: self.node.world.clone(), pool: self.pool.clone(), tag: pool.tags, shard: message.shard };
        Some(Delivery::new(message, deliveries + 1, Box::new(settle)))
    }
}

impl Drop for NodeConsumer {
    fn drop(&mut self) {
        self.node.world.cut(&self.pool, self.id);
    }
}

struct Tag {
    world: Arc<World>,
    pool: Pool,
    tag: u64,
    shard: ShardId,
}

#[async_trait]
impl Settle for Tag {
    async fn settle(self: Box<Self>, how: Settlement) -> Result<(), QueueError> {
        {
            let mut queue = locked(&self.world.queue);
            let pool = queue.entry(self.pool.clone()).or_default();
            let Some((_, message, deliveries)) = pool.unsettled.remove(&self.tag) else {
                return Err(QueueError::Stale(self.shard));
            };
            if how == Settlement::HandBack {
                pool.ready.push_back((message, deliveries));
            }
        }
        self.world.queued.notify_waiters();
        Ok(())
    }
}

impl World {
    /// The broker gives up every consumer: after a freeze, or a cut.
    pub(crate) fn cut_everybody(&self) {
        let all: Vec<(Pool, u64)> = locked(&self.queue)
            .iter()
            .flat_map(|(pool, known)| known.consumers.iter().map(|consumer| (pool.clone(), *consumer)))
            .collect();
        all.into_iter().for_each(|(pool, consumer)| self.cut(&pool, consumer));
    }
}
