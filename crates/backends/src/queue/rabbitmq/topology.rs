//! What is declared in the broker: a pool's queue, the exchange for dead letters, and the queue behind it.
//!
//! Declaring again is harmless as long as the arguments are the same.

use std::collections::HashSet;

use diorama_core::id::{DEAD, Pool};
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, ErrorKind, ExchangeKind};

use super::link::Endpoint;
use super::problem::Problem;

const DEAD_EXCHANGE: &str = "diorama.dead";

/// "Never" for RabbitMQ 3.10, which knows no -1 here; RabbitMQ 4 would drop a dead letter at its 21st look otherwise.
const NEVER: i64 = 1_000_000_000;

/// The pools that a connection has declared.
#[derive(Default)]
pub(super) struct Declared(HashSet<Pool>);

impl Declared {
    /// Declares the pool's queues, unless this connection has done so.
    pub(super) async fn ensure(&mut self, endpoint: &Endpoint, channel: &Channel, pool: &Pool) -> Result<(), Problem> {
        if !self.0.contains(pool) {
            declare(endpoint, channel, pool).await?;
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
pub(super) async fn declare(endpoint: &Endpoint, channel: &Channel, pool: &Pool) -> Result<(), Problem> {
    let declaring = async {
        let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
        channel.exchange_declare(DEAD_EXCHANGE.into(), ExchangeKind::Direct, durable, FieldTable::default()).await?;
        let durable = QueueDeclareOptions { durable: true, ..Default::default() };
        let (queue, dead) = (queue_of(pool), dead_queue_of(pool));
        channel.queue_declare(dead.clone(), durable, dead_arguments()).await?;
        let route = (DEAD_EXCHANGE.into(), dead.clone(), QueueBindOptions::default(), FieldTable::default());
        channel.queue_bind(dead.clone(), route.0, route.1, route.2, route.3).await?;
        channel.queue_declare(queue, durable, arguments(dead, endpoint.delivery_limit)).await?;
        Ok::<_, lapin::Error>(())
    };
    let doing = format!("{}: declaring the queues of pool {pool}", endpoint.address());
    match declaring.await {
        Err(error) if is_declared_otherwise(&error) => {
            let text = format!(
                "{doing}: {error}; one exists with other arguments: let its run end, delete it with rabbitmqctl \
                 delete_queue, and start again (nothing is lost: missing shards are republished)"
            );
            Err(Problem::permanent(text).caused_by(error))
        }
        declared => endpoint.rights.judge(declared.map_err(|error| Problem::from(error).while_doing(&doing))),
    }
}

/// Only while declaring: a broker says `PRECONDITION_FAILED` of a late acknowledgement too.
fn is_declared_otherwise(error: &lapin::Error) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(refusal)
        if matches!(refusal.kind(), AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED)))
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
