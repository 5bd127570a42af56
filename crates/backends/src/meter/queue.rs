//! The queue: what is published, taken and settled. How long a consumer waits for its next delivery is not the broker's
//! doing, so it is not counted.

use async_trait::async_trait;
use diorama_core::id::Pool;
use diorama_core::message::ShardMessage;

use super::{Meter, Metered};
use crate::queue::{Consumer, Delivery, Queue, QueueDepth, QueueError, Settle, Settlement};

#[async_trait]
impl<S: Queue> Queue for Metered<S> {
    async fn publish(&self, pool: &Pool, message: &ShardMessage) -> Result<(), QueueError> {
        self.time("publish", self.inner.publish(pool, message)).await
    }

    async fn consume(&self, pool: &Pool, prefetch: u16) -> Result<Box<dyn Consumer>, QueueError> {
        let inner = self.time("consume", self.inner.consume(pool, prefetch)).await?;
        Ok(Box::new(MeteredConsumer { inner, meter: self.meter.clone(), service: self.service }))
    }

    async fn dead_letter(&self, pool: &Pool) -> Result<Option<Delivery>, QueueError> {
        let delivery = self.time("dead_letter", self.inner.dead_letter(pool)).await?;
        Ok(delivery.map(|delivery| timed(delivery, &self.meter, self.service)))
    }

    async fn depth(&self, pool: &Pool) -> Result<QueueDepth, QueueError> {
        self.time("depth", self.inner.depth(pool)).await
    }

    async fn remove_if_idle(&self, pool: &Pool) -> Result<bool, QueueError> {
        self.time("remove", self.inner.remove_if_idle(pool)).await
    }
}

struct MeteredConsumer {
    inner: Box<dyn Consumer>,
    meter: Meter,
    service: &'static str,
}

#[async_trait]
impl Consumer for MeteredConsumer {
    async fn next(&mut self) -> Result<Delivery, QueueError> {
        Ok(timed(self.inner.next().await?, &self.meter, self.service))
    }
}

struct MeteredSettle {
    delivery: Delivery,
    meter: Meter,
    service: &'static str,
}

#[async_trait]
impl Settle for MeteredSettle {
    async fn settle(self: Box<Self>, how: Settlement) -> Result<(), QueueError> {
        let Self { delivery, meter, service } = *self;
        meter.time(service, "settle", delivery.settle(how)).await
    }
}

fn timed(delivery: Delivery, meter: &Meter, service: &'static str) -> Delivery {
    let (message, deliveries) = (delivery.message.clone(), delivery.deliveries);
    Delivery::new(message, deliveries, Box::new(MeteredSettle { delivery, meter: meter.clone(), service }))
}
