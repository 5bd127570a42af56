//! The queue in RabbitMQ: one quorum queue a pool, and one more for its dead letters.
//!
//! Works with RabbitMQ 3.10 and later and uses nothing that 4.x deprecates. Whatever breaks is built anew by this module
//! and never by lapin's own recovery: connection, channel, prefetch and consumer, because lapin cannot say which
//! deliveries went with the old channel. Publishing, consuming and looking have a connection each, so that a broker in
//! alarm, which stops those who publish, lets workers go on acknowledging.
//!
//! **Consumer timeout.** RabbitMQ closes the channel of a delivery that is unsettled for 30 minutes (`consumer_timeout`
//! of the broker); the shard is then delivered to another worker, and the first one's acknowledgement is stale. A shard
//! is meant to take 1 to 5 minutes. Where shards are longer, raise the broker's `consumer_timeout`: the queue argument
//! `x-consumer-timeout` is not used, because RabbitMQ knows it from 3.12 on only, and ignores it before.
//!
//! **Logs.** lapin logs whole frames at its level `trace`, the login among them: whoever sets logging up leaves that out,
//! as `diorama_runtime::logging` does.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use diorama_core::id::Pool;
use diorama_core::message::ShardMessage;
use secrecy::SecretString;

use super::{Consumer, Delivery, Queue, QueueDepth, QueueError};

mod consumer;
mod delivery;
mod diagnose;
mod inspector;
mod link;
mod problem;
mod publisher;
mod topology;

use consumer::RabbitMqConsumer;
pub use diagnose::diagnose;
use inspector::Inspector;
use link::Endpoint;
use publisher::Publisher;

/// Where the broker is, and how to use it.
#[derive(Debug, Clone)]
pub struct RabbitMqConfig {
    /// `amqp://user:password@host:5672/vhost`, or `amqps://` for TLS. A `/` in the vhost's name is written `%2f`; no
    /// vhost means the default one, `/`.
    pub url: SecretString,
    /// The certificates that sign the broker's, in PEM, for `amqps://`. Without it, the ones this system trusts.
    pub ca_file: Option<PathBuf>,
    /// A broker that says nothing for twice this time is gone. From 1 s.
    pub heartbeat: Duration,
    /// What the broker's own listings call this process.
    pub connection_name: String,
    /// How long a publish is tried again while the broker is away, before it is an error.
    pub publish_patience: Duration,
    /// How long a broker that let us in before, and refuses now, is asked again before the refusal counts: brokers that
    /// start, fail over or are set up anew may know no user and no vhost for a moment.
    pub refusal_patience: Duration,
    /// A message delivered more often than this ends as a dead letter. The same in every process that uses a pool:
    /// RabbitMQ refuses to declare a queue again with another value.
    pub delivery_limit: u32,
}

impl RabbitMqConfig {
    /// The defaults, for the broker at `url`.
    pub fn new(url: SecretString) -> Self {
        Self {
            url,
            ca_file: None,
            heartbeat: Duration::from_secs(20),
            connection_name: "diorama".to_owned(),
            publish_patience: Duration::from_secs(30),
            refusal_patience: Duration::from_secs(30),
            // Hand-backs count as deliveries in a quorum queue: a shard that meets a rolling restart of a fleet, or an
            // object store that is down for a while, is handed back many times without being at fault. RabbitMQ 4
            // would stop at 20 by default. Shards that kill their worker are found by its journal, long before.
            delivery_limit: 100,
        }
    }
}

/// The queues of a fleet, in RabbitMQ. Its connections end with it.
pub struct RabbitMqQueue {
    endpoint: Arc<Endpoint>,
    publisher: Publisher,
    inspector: Inspector,
}

impl RabbitMqQueue {
    /// Connects, to find out now whether the settings are right. Later outages are waited out.
    ///
    /// # Errors
    /// The URL is no URL, the CA file cannot be read, the broker refuses: permanent. It cannot be reached: transient.
    /// Says what to check, and never the password.
    pub async fn connect(config: RabbitMqConfig) -> Result<Self, QueueError> {
        let endpoint = Arc::new(Endpoint::new(&config)?);
        let link = endpoint.open("publish").await.map_err(|problem| problem.of("connecting to RabbitMQ"))?;
        Ok(Self {
            publisher: Publisher::start(endpoint.clone(), link, config.publish_patience),
            inspector: Inspector::start(endpoint.clone()),
            endpoint,
        })
    }
}

#[async_trait]
impl Queue for RabbitMqQueue {
    async fn publish(&self, pool: &Pool, message: &ShardMessage) -> Result<(), QueueError> {
        self.publisher.publish(pool, message).await
    }

    async fn consume(&self, pool: &Pool, prefetch: u16) -> Result<Box<dyn Consumer>, QueueError> {
        Ok(Box::new(RabbitMqConsumer::subscribe(self.endpoint.clone(), pool.clone(), prefetch.max(1)).await?))
    }

    async fn dead_letter(&self, pool: &Pool) -> Result<Option<Delivery>, QueueError> {
        self.inspector.dead_letter(pool).await
    }

    async fn depth(&self, pool: &Pool) -> Result<QueueDepth, QueueError> {
        self.inspector.depth(pool).await
    }

    async fn remove_if_idle(&self, pool: &Pool) -> Result<bool, QueueError> {
        self.inspector.remove_if_idle(pool).await
    }
}
