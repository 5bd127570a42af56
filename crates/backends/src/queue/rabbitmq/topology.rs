//! What is declared in the broker: a pool's queue, the exchange for dead letters, and the queue behind it.
//!
//! Declaring again is harmless as long as the arguments are the same.

use std::collections::HashSet;

use diorama_core::id::{DEAD, Pool};
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, ExchangeKind};

const DEAD_EXCHANGE: &str = "diorama.dead";

/// "Never" for RabbitMQ 3.10, which knows no -1 here; RabbitMQ 4 would drop a dead letter at its 21st look otherwise.
const NEVER: i64 = 1_000_000_000;

/// The pools that a connection has declared.
#[derive(Default)]
pub(super) struct Declared(HashSet<Pool>);

impl Declared {
    /// Declares the pool's queues, unless this connection has done so.
    pub(super) async fn ensure(&mut self, channel: &Channel, pool: &Pool, delivery_limit: u32) -> Result<(), String> {
        if !self.0.contains(pool) {
            declare(channel, pool, delivery_limit).await?;
            self.0.insert(pool.clone());
        }
        Ok(())
    }

    /// Somebody deleted it.
    pub(super) fn forget(&mut self, pool: &Pool) {
        self.0.remove(pool);
    }
}

pub(super) fn queue_of(pool: &Pool) -> ShortString {
    format!("diorama.{pool}").into()
}

pub(super) fn dead_queue_of(pool: &Pool) -> ShortString {
    format!("diorama.{pool}{DEAD}").into()
}

/// Declares a pool's queues. The error says what to do where they exist with other arguments.
pub(super) async fn declare(channel: &Channel, pool: &Pool, delivery_limit: u32) -> Result<(), String> {
    let declaring = async {
        let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
        channel.exchange_declare(DEAD_EXCHANGE.into(), ExchangeKind::Direct, durable, FieldTable::default()).await?;
        let durable = QueueDeclareOptions { durable: true, ..Default::default() };
        let (queue, dead) = (queue_of(pool), dead_queue_of(pool));
        channel.queue_declare(dead.clone(), durable, dead_arguments()).await?;
        let route = (DEAD_EXCHANGE.into(), dead.clone(), QueueBindOptions::default(), FieldTable::default());
        channel.queue_bind(dead.clone(), route.0, route.1, route.2, route.3).await?;
        channel.queue_declare(queue, durable, arguments(dead, delivery_limit)).await?;
        Ok::<_, lapin::Error>(())
    };
    declaring.await.map_err(|error| {
        format!(
            "declaring the queues of pool {pool}: {error} (where a queue exists with other arguments, let its run end, \
             delete it with rabbitmqctl delete_queue, and start again; nothing is lost, what is missing is published again)"
        )
    })
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

fn arguments(dead: ShortString, delivery_limit: u32) -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("quorum"));
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(i64::from(delivery_limit)));
    arguments.insert("x-dead-letter-exchange".into(), text(DEAD_EXCHANGE));
    arguments.insert("x-dead-letter-routing-key".into(), text(dead.as_str()));
    // From 3.10: the message stays here until the dead letters have it. RabbitMQ asks for this overflow with it.
    arguments.insert("x-dead-letter-strategy".into(), text("at-least-once"));
    arguments.insert("x-overflow".into(), text("reject-publish"));
    arguments
}

fn dead_arguments() -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("quorum"));
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(NEVER));
    arguments
}
