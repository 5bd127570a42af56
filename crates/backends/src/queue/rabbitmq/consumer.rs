//! A consumer that outlives its connections.

use std::sync::Arc;

use async_trait::async_trait;
use diorama_core::id::Pool;
use futures::StreamExt;
use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use tokio_util::task::AbortOnDropHandle;
use tracing::error;

use super::delivery::{Generation, Origin, read, reject};
use super::link::{Endpoint, Link, Outage, pauses};
use super::problem::Problem;
use super::topology::{declare, queue_of};
use crate::queue::{Consumer, Delivery, QueueError};

const CONSUMING: &str = "consuming";

pub(super) struct RabbitMqConsumer {
    wanted: Wanted,
    state: State,
    outage: Outage,
}

#[derive(Clone)]
struct Wanted {
    endpoint: Arc<Endpoint>,
    pool: Pool,
    prefetch: u16,
}

enum State {
    Subscribed(Box<Subscription>),
    /// A task of its own, so that a caller who gives up waiting does not end the attempt.
    Lost(AbortOnDropHandle<Result<Subscription, Problem>>),
}

struct Subscription {
    deliveries: lapin::Consumer,
    generation: Generation,
    _link: Link,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.generation.end();
    }
}

impl RabbitMqConsumer {
    pub(super) async fn subscribe(endpoint: Arc<Endpoint>, pool: Pool, prefetch: u16) -> Result<Self, QueueError> {
        let wanted = Wanted { endpoint, pool, prefetch };
        let subscription = wanted.subscribe().await.map_err(|problem| problem.of(CONSUMING))?;
        Ok(Self { wanted, state: State::Subscribed(Box::new(subscription)), outage: Outage::none(CONSUMING) })
    }

    fn lose(&mut self, problem: &Problem) {
        self.outage.goes_on(problem);
        self.subscribe_again();
    }

    fn subscribe_again(&mut self) {
        self.state = State::Lost(AbortOnDropHandle::new(tokio::spawn(self.wanted.clone().subscribe_at_last())));
    }
}

#[async_trait]
impl Consumer for RabbitMqConsumer {
    async fn next(&mut self) -> Result<Delivery, QueueError> {
        loop {
            let subscription = match &mut self.state {
                State::Subscribed(subscription) => subscription,
                State::Lost(coming) => {
                    match coming.await {
                        Ok(Ok(subscription)) => {
                            self.outage.ends();
                            self.state = State::Subscribed(Box::new(subscription));
                        }
                        Ok(Err(refusal)) => {
                            self.outage.goes_on(&refusal);
                            // Whoever goes on in spite of it is not left without a consumer.
                            self.subscribe_again();
                            return Err(refusal.of(CONSUMING));
                        }
                        Err(error) => self.lose(&Problem::transient(error.to_string())),
                    }
                    continue;
                }
            };
            match subscription.deliveries.next().await {
                // What lapin had buffered when the channel died is somebody else's by now.
                Some(Ok(delivery)) if !delivery.acker.usable() => {}
                Some(Ok(delivery)) => match read(delivery, &subscription.generation, Origin::Pool) {
                    Ok(delivery) => return Ok(delivery),
                    Err(unreadable) => {
                        let (pool, problem) = (&self.wanted.pool, &unreadable.problem);
                        error!(%pool, problem, "a message is not Diorama's; it is dead-lettered");
                        // Where it fails, the message comes again.
                        let _ = reject(&unreadable.acker).await;
                    }
                },
                // Whatever it says, it says of this channel: a new one shows whether waiting helps.
                Some(Err(error)) => self.lose(&Problem::transient(error.to_string())),
                None => {
                    let problem = "the broker cancelled the consumer: the queue was deleted, or moved to another node";
                    self.lose(&Problem::transient(problem));
                }
            }
        }
    }
}

impl Wanted {
    async fn subscribe(&self) -> Result<Subscription, Problem> {
        let link = self.endpoint.open("consume").await?;
        declare(&self.endpoint, &link.channel, &self.pool).await?;
        let subscribing = async {
            link.channel.basic_qos(self.prefetch, BasicQosOptions { global: false }).await?;
            let options = BasicConsumeOptions::default();
            link.channel.basic_consume(queue_of(&self.pool), "".into(), options, FieldTable::default()).await
        };
        let deliveries = subscribing.await.map_err(|error| {
            Problem::from(error).while_doing(&format!("{}: pool {}", self.endpoint.address(), self.pool))
        })?;
        Ok(Subscription { deliveries, generation: Generation::of(&link.channel), _link: link })
    }

    /// Tries for as long as it may help.
    async fn subscribe_at_last(self) -> Result<Subscription, Problem> {
        let mut pauses = pauses();
        loop {
            tokio::time::sleep(pauses.next().unwrap_or_default()).await;
            match self.subscribe().await {
                Err(problem) if problem.kind.is_retryable() => {
                    tracing::debug!(problem = problem.text, "RabbitMQ is still away");
                }
                ended => return ended,
            }
        }
    }
}
