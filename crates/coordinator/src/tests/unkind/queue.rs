//! A queue that a test looks into and takes messages from, loses them or gives them twice, and that may be away.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use diorama_backends::kind::ErrorKind;
use diorama_backends::queue::{Consumer, Delivery, Queue, QueueDepth, QueueError, Settle, Settlement};
use diorama_core::id::{Pool, ShardId};
use diorama_core::message::ShardMessage;

use crate::tests::spec;

/// What is in a queue.
#[derive(Default)]
pub(crate) struct Messages {
    pub(crate) ready: VecDeque<ShardId>,
    /// Taken by workers that neither committed nor let go.
    pub(crate) held: VecDeque<ShardId>,
    pub(crate) dead: VecDeque<ShardId>,
    /// Nothing answers.
    pub(crate) away: bool,
    /// How often each shard was published.
    pub(crate) published: BTreeMap<ShardId, u32>,
}

/// A queue of one run, that the test is the worker of.
#[derive(Clone, Default)]
pub(crate) struct OpenQueue(Arc<Mutex<Messages>>);

impl OpenQueue {
    pub(crate) fn messages(&self) -> MutexGuard<'_, Messages> {
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
        let message = ShardMessage { run: spec(1, 1).run, shard };
        Ok(Some(Delivery::new(message, 1, Box::new(Letter(self.clone(), shard)))))
    }

    async fn remove_if_idle(&self, _: &Pool) -> Result<bool, QueueError> {
        // One that is empty is kept.
        Ok(false)
    }

    async fn depth(&self, _: &Pool) -> Result<QueueDepth, QueueError> {
        let messages = self.present()?;
        Ok(QueueDepth { ready: messages.ready.len() as u64, consumers: 1, dead: messages.dead.len() as u64 })
    }
}
