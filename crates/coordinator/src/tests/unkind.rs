//! Services that do to the pump what real ones may do: a queue that a test looks into and takes messages from, loses
//! them or gives them twice, and is away; and an object store in memory, so that time stands still while it is asked.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;
use diorama_backends::kind::ErrorKind;
use diorama_backends::objects::{ObjectError, ObjectErrorKind, ObjectMeta, ObjectReader, Objects, Page, Put};
use diorama_backends::queue::{Consumer, Delivery, Queue, QueueDepth, QueueError, Settle, Settlement};
use diorama_core::id::{Pool, ShardId};
use diorama_core::message::ShardMessage;

/// Objects in memory.
#[derive(Default)]
pub(super) struct MemoryObjects(Mutex<BTreeMap<String, Bytes>>);

impl MemoryObjects {
    /// All of them, to be looked at or damaged.
    pub(super) fn all(&self) -> MutexGuard<'_, BTreeMap<String, Bytes>> {
        self.0.lock().unwrap()
    }
}

#[async_trait]
impl Objects for MemoryObjects {
    async fn get(&self, key: &str) -> Result<Bytes, ObjectError> {
        let none = || ObjectError::new(ObjectErrorKind::NotFound, "reading", key, "there is none");
        self.0.lock().unwrap().get(key).cloned().ok_or_else(none)
    }

    async fn open(&self, key: &str) -> Result<ObjectReader, ObjectError> {
        let bytes = self.get(key).await?;
        Ok(ObjectReader { bytes: bytes.len() as u64, body: Box::pin(std::io::Cursor::new(bytes)) })
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, ObjectError> {
        let bytes = self.0.lock().unwrap().get(key).map(|bytes| bytes.len() as u64);
        Ok(bytes.map(|bytes| ObjectMeta { key: key.to_owned(), bytes }))
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, ObjectError> {
        let all = self.0.lock().unwrap();
        let keys =
            all.iter().filter(|(key, _)| key.starts_with(prefix) && after.is_none_or(|after| key.as_str() > after));
        let meta = |(key, bytes): (&String, &Bytes)| ObjectMeta { key: key.clone(), bytes: bytes.len() as u64 };
        let mut objects: Vec<_> = keys.take(limit + 1).map(meta).collect();
        let more = objects.len() > limit;
        objects.truncate(limit);
        let next = objects.last().filter(|_| more).map(|last| last.key.clone());
        Ok(Page { objects, next })
    }

    async fn put(&self, key: &str, bytes: Bytes) -> Result<(), ObjectError> {
        self.0.lock().unwrap().insert(key.to_owned(), bytes);
        Ok(())
    }

    async fn put_if_absent(&self, key: &str, bytes: Bytes) -> Result<Put, ObjectError> {
        let mut all = self.0.lock().unwrap();
        if all.contains_key(key) {
            return Ok(Put::Exists);
        }
        all.insert(key.to_owned(), bytes);
        Ok(Put::Created)
    }

    async fn put_file(&self, key: &str, file: &Path) -> Result<(), ObjectError> {
        let bytes = std::fs::read(file).map_err(|error| ObjectError::io("reading", key, &error))?;
        self.put(key, bytes.into()).await
    }

    async fn delete(&self, key: &str) -> Result<(), ObjectError> {
        self.0.lock().unwrap().remove(key);
        Ok(())
    }
}

/// What is in a queue.
#[derive(Default)]
pub(super) struct Messages {
    pub(super) ready: VecDeque<ShardId>,
    /// Taken by workers that neither committed nor let go.
    pub(super) held: VecDeque<ShardId>,
    pub(super) dead: VecDeque<ShardId>,
    /// Nothing answers.
    pub(super) away: bool,
    /// How often each shard was published.
    pub(super) published: BTreeMap<ShardId, u32>,
}

/// A queue of one run, that the test is the worker of.
#[derive(Clone, Default)]
pub(super) struct OpenQueue(Arc<Mutex<Messages>>);

impl OpenQueue {
    pub(super) fn messages(&self) -> MutexGuard<'_, Messages> {
        self.0.lock().unwrap()
    }

    fn present(&self) -> Result<MutexGuard<'_, Messages>, QueueError> {
        let messages = self.messages();
        if messages.away {
            return Err(QueueError::failed(ErrorKind::Transient, "asking", "the broker is away"));
        }
        Ok(messages)
    }
}

/// A dead letter that was taken: gone, unless it is handed back.
struct Letter(OpenQueue, ShardId);

#[async_trait]
impl Settle for Letter {
    async fn settle(self: Box<Self>, how: Settlement) -> Result<(), QueueError> {
        if how != Settlement::Ack {
            self.0.messages().dead.push_back(self.1);
        }
        Ok(())
    }
}

#[async_trait]
impl Queue for OpenQueue {
    async fn publish(&self, _: &Pool, message: &ShardMessage) -> Result<(), QueueError> {
        let mut messages = self.present()?;
        messages.ready.push_back(message.shard);
        *messages.published.entry(message.shard).or_default() += 1;
        Ok(())
    }

    async fn consume(&self, _: &Pool, _: u16) -> Result<Box<dyn Consumer>, QueueError> {
        unreachable!("the test takes the messages itself")
    }

    async fn dead_letter(&self, _: &Pool) -> Result<Option<Delivery>, QueueError> {
        let Some(shard) = self.present()?.dead.pop_front() else { return Ok(None) };
        let message = ShardMessage { run: super::spec(1, 1).run, shard };
        Ok(Some(Delivery::new(message, 1, Box::new(Letter(self.clone(), shard)))))
    }

    async fn depth(&self, _: &Pool) -> Result<QueueDepth, QueueError> {
        let messages = self.present()?;
        Ok(QueueDepth { ready: messages.ready.len() as u64, consumers: 1, dead: messages.dead.len() as u64 })
    }
}
