//! From lapin's deliveries to ours, and the settlement that knows when it is too late.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use diorama_core::id::ShardId;
use lapin::options::{BasicAckOptions, BasicNackOptions};
use lapin::types::AMQPValue;
use lapin::{Acker, Channel, ChannelStatus};

use crate::queue::{Delivery, QueueError, Settle, Settlement};

/// One life of a channel: what it delivered can be settled as long as the channel lives, and never on another one.
#[derive(Clone)]
pub(super) struct Generation {
    // The status and not the channel itself, because lapin closes a channel with its last handle.
    channel: ChannelStatus,
    ended: Arc<AtomicBool>,
}

impl Generation {
    pub(super) fn of(channel: &Channel) -> Self {
        Self { channel: channel.status().clone(), ended: Arc::default() }
    }

    /// Its consumer is gone; the broker may not know it yet.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    fn is_over(&self) -> bool {
        self.ended.load(Ordering::Acquire) || !self.channel.connected()
    }
}

/// Which queue a delivery comes from.
#[derive(Clone, Copy)]
pub(super) enum Origin {
    Pool,
    DeadLetters,
}

/// Why a delivery is none of ours.
pub(super) struct Unreadable {
    pub(super) problem: String,
    pub(super) acker: Acker,
}

/// Reads a delivery.
pub(super) fn read(
    delivery: lapin::message::Delivery,
    generation: &Generation,
    origin: Origin,
) -> Result<Delivery, Unreadable> {
    let deliveries = deliveries(&delivery);
    match serde_json::from_slice::<diorama_core::message::ShardMessage>(&delivery.data) {
        Ok(message) => {
            let tag = Tag { shard: message.shard, acker: delivery.acker, generation: generation.clone(), origin };
            Ok(Delivery::new(message, deliveries, Box::new(tag)))
        }
        Err(error) => Err(Unreadable { problem: error.to_string(), acker: delivery.acker }),
    }
}

/// `x-delivery-count` counts the deliveries that came back; RabbitMQ leaves it out of the first one.
fn deliveries(delivery: &lapin::message::Delivery) -> u32 {
    let headers = delivery.properties.headers().as_ref();
    let count = headers.and_then(|headers| headers.inner().get("x-delivery-count")).and_then(|count| match count {
        AMQPValue::LongLongInt(count) => u32::try_from(*count).ok(),
        AMQPValue::LongInt(count) => u32::try_from(*count).ok(),
        AMQPValue::LongUInt(count) => Some(*count),
        AMQPValue::ShortInt(count) => u32::try_from(*count).ok(),
        AMQPValue::ShortUInt(count) => Some(u32::from(*count)),
        AMQPValue::ShortShortInt(count) => u32::try_from(*count).ok(),
        AMQPValue::ShortShortUInt(count) => Some(u32::from(*count)),
        _ => None,
    });
    count.unwrap_or(u32::from(delivery.redelivered)).saturating_add(1)
}

struct Tag {
    shard: ShardId,
    acker: Acker,
    generation: Generation,
    origin: Origin,
}

#[async_trait]
impl Settle for Tag {
    async fn settle(self: Box<Self>, how: Settlement) -> Result<(), QueueError> {
        if self.generation.is_over() {
            return Err(QueueError::Stale(self.shard));
        }
        let sent = match (how, self.origin) {
            (Settlement::Ack, _) => self.acker.ack(BasicAckOptions::default()).await,
            (Settlement::HandBack, _) | (Settlement::DeadLetter, Origin::DeadLetters) => back(&self.acker).await,
            (Settlement::DeadLetter, Origin::Pool) => reject(&self.acker).await,
        };
        // On a channel that has just died lapin may report success: what counts is that the channel lives still.
        match sent {
            Ok(true) if !self.generation.is_over() => Ok(()),
            _ => Err(QueueError::Stale(self.shard)),
        }
    }
}

async fn back(acker: &Acker) -> lapin::Result<bool> {
    acker.nack(BasicNackOptions { multiple: false, requeue: true }).await
}

/// To the dead letters; from the dead letters, away.
pub(super) async fn reject(acker: &Acker) -> lapin::Result<bool> {
    acker.nack(BasicNackOptions { multiple: false, requeue: false }).await
}
