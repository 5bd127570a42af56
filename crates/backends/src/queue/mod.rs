//! The queue of a pool: hands each shard to one worker at a time, and to another one when that worker is gone.
//!
//! Deliveries are at least once. Nothing of a queue needs to outlive a run: the coordinator publishes again what has no
//! commit marker.

use std::sync::Mutex;

use async_trait::async_trait;
use diorama_core::id::Pool;
use diorama_core::message::ShardMessage;

use crate::kind::{Cause, ErrorKind};

#[cfg(any(test, feature = "testing"))]
#[allow(clippy::unwrap_used, reason = "a suite panics where a guarantee is broken")]
pub mod conformance;
pub mod embedded;
pub mod rabbitmq;

/// A failed operation on the queue.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The delivery was settled before, or its consumer is gone: it is somebody else's now.
    #[error("the delivery of shard {0} is no longer ours: it was settled, or its consumer is gone")]
    Stale(diorama_core::id::ShardId),
    /// The service cannot be reached, or refused.
    #[error("{doing} failed: {problem}")]
    Failed {
        /// What it calls for.
        kind: ErrorKind,
        /// `publishing`, `consuming` …
        doing: &'static str,
        /// What went wrong and how to mend it.
        problem: String,
        /// The error below, where there is one.
        #[source]
        cause: Option<Cause>,
    },
}

impl QueueError {
    /// A call that failed, with nothing below that says why.
    pub fn failed(kind: ErrorKind, doing: &'static str, problem: impl Into<String>) -> Self {
        Self::Failed { kind, doing, problem: problem.into(), cause: None }
    }

    /// What it calls for.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Stale(_) => ErrorKind::Conflict,
            Self::Failed { kind, .. } => *kind,
        }
    }

    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        self.kind().is_retryable()
    }
}

/// How a delivery ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// Done: never delivered again.
    Ack,
    /// Back into the queue, for anybody.
    HandBack,
    /// To the dead letters, where the coordinator looks.
    DeadLetter,
}

/// The part of a delivery that a queue implements.
#[async_trait]
pub trait Settle: Send + Sync {
    /// Ends the delivery.
    async fn settle(self: Box<Self>, how: Settlement) -> Result<(), QueueError>;
}

/// A message in this process's hands. Dropped without being settled, it is delivered again once its consumer is gone.
pub struct Delivery {
    pub message: ShardMessage,
    /// How often the message was delivered, this time included: from 1. A hint; a queue that was rebuilt starts anew.
    pub deliveries: u32,
    // A delivery crosses threads by reference inside futures; the mutex makes it Sync and is never contended.
    settle: Mutex<Option<Box<dyn Settle>>>,
}

impl Delivery {
    /// A delivery that ends through `settle`.
    pub fn new(message: ShardMessage, deliveries: u32, settle: Box<dyn Settle>) -> Self {
        Self { message, deliveries, settle: Mutex::new(Some(settle)) }
    }

    /// Ends the delivery.
    pub async fn settle(self, how: Settlement) -> Result<(), QueueError> {
        let settle = self.settle.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        match settle {
            Some(settle) => settle.settle(how).await,
            None => Err(QueueError::Stale(self.message.shard)),
        }
    }
}

/// How full a pool's queue is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueDepth {
    /// Messages that wait for a consumer.
    pub ready: u64,
    pub consumers: u64,
    /// Dead letters.
    pub dead: u64,
}

/// One queue a pool.
#[async_trait]
pub trait Queue: Send + Sync {
    /// Puts a message at the end of the pool's queue. After `Ok` the queue has it.
    async fn publish(&self, pool: &Pool, message: &ShardMessage) -> Result<(), QueueError>;

    /// Starts to consume: at most `prefetch` deliveries are unsettled at a time.
    async fn consume(&self, pool: &Pool, prefetch: u16) -> Result<Box<dyn Consumer>, QueueError>;

    /// Takes one dead letter, if there is one. It must be settled like any delivery.
    async fn dead_letter(&self, pool: &Pool) -> Result<Option<Delivery>, QueueError>;

    /// How full the pool's queue is.
    async fn depth(&self, pool: &Pool) -> Result<QueueDepth, QueueError>;

    /// Removes what is kept of the pool, where nothing is in its queue and nobody consumes from it; whether nothing is left. Whatever
    /// is published later makes it anew. A message that comes at the same moment may go with it, and is published again
    /// like any that is lost.
    async fn remove_if_idle(&self, pool: &Pool) -> Result<bool, QueueError>;
}

/// A consumer. Dropping it gives everything unsettled back to the queue.
#[async_trait]
pub trait Consumer: Send {
    /// Waits for the next delivery. Safe to cancel: a delivery is either returned or stays in the queue.
    async fn next(&mut self) -> Result<Delivery, QueueError>;
}
