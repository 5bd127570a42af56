//! The queue over a real RabbitMQ.

use std::io::Write;
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;

use diorama_backends::queue::rabbitmq::{RabbitMqConfig, RabbitMqQueue};
use diorama_backends::queue::{Consumer, Delivery, conformance};
use diorama_core::id::{Pool, Round, RunId, ShardId};
use diorama_core::message::ShardMessage;
use diorama_runtime::logging::{self, LogFormat};
use diorama_tests::services::rabbitmq::{PASSWORD, RabbitMq};

mod messages;
mod outages;
mod refusals;
mod transport;

const PATIENCE: Duration = Duration::from_secs(150);

/// One broker at a time: each takes a core while it starts.
static ONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn config(broker: &RabbitMq) -> RabbitMqConfig {
    RabbitMqConfig::new(broker.url().into())
}

async fn connect(broker: &RabbitMq) -> RabbitMqQueue {
    RabbitMqQueue::connect(config(broker)).await.unwrap()
}

/// A connection that is none of Diorama's.
async fn foreign_channel(broker: &RabbitMq) -> (lapin::Connection, lapin::Channel) {
    let properties = lapin::ConnectionProperties::default();
    let connection = lapin::Connection::connect(&broker.url(), properties).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

fn pool() -> Pool {
    Pool::new("default").unwrap()
}

fn message(index: u32) -> ShardMessage {
    ShardMessage { run: RunId::new("run").unwrap(), shard: ShardId { round: Round(0), index } }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

async fn next(consumer: &mut Box<dyn Consumer>) -> Delivery {
    within(consumer.next()).await.unwrap()
}

async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{what}: not in time"));
}

/// What this process logs, with the filter that lets most through of what speaks with the broker.
static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct IntoLog;

impl Write for IntoLog {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOG.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The log from here on.
struct Log {
    from: usize,
}

impl Log {
    fn begin() -> Self {
        static STARTED: Once = Once::new();
        let filter = "lapin=trace,amq_protocol_tcp=trace,diorama_backends=trace";
        STARTED.call_once(|| logging::init(LogFormat::Json, Some(filter), || IntoLog).unwrap());
        Self { from: LOG.lock().unwrap_or_else(PoisonError::into_inner).len() }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&LOG.lock().unwrap_or_else(PoisonError::into_inner)[self.from..]).into_owned()
    }

    async fn until_it_has(&self, part: &str) {
        until(part, async || self.text().contains(part)).await;
    }

    fn holds_no_secret(&self) {
        let text = self.text();
        assert!(text.contains("lapin"), "nothing was logged, so this proves nothing");
        for line in text.lines() {
            assert!(!line.contains(PASSWORD) && !line.contains("hunter2"), "{line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq_holds_what_every_queue_must_hold() {
    let _alone = ONE.lock().await;
    let broker = RabbitMq::start();
    let queue = connect(&broker).await;
    conformance::every_message_is_delivered_once_in_order_and_an_ack_ends_it(&queue).await;
    conformance::a_dropped_consumers_messages_are_delivered_again_and_counted(&queue).await;
    conformance::prefetch_bounds_what_a_consumer_holds(&queue).await;
    conformance::handed_back_goes_to_another_and_dead_letters_are_kept_apart(&queue).await;
    conformance::a_queue_goes_only_while_it_is_empty_and_comes_back(&queue).await;
    conformance::a_stale_settlement_is_noticed_and_changes_nothing(&queue).await;
    conformance::many_consumers_share_and_nothing_is_lost_or_doubled(Arc::new(queue)).await;
}
