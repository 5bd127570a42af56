//! The queue over a real RabbitMQ.

use std::sync::Arc;
use std::time::Duration;

use diorama_backends::queue::rabbitmq::{RabbitMqConfig, RabbitMqQueue};
use diorama_backends::queue::{Queue, Settlement, conformance};
use diorama_core::id::{Pool, Round, RunId, ShardId};
use diorama_core::message::ShardMessage;
use diorama_tests::services::rabbitmq::RabbitMq;

const PATIENCE: Duration = Duration::from_secs(150);

/// One broker at a time: each takes a core while it starts.
static ONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn config(broker: &RabbitMq) -> RabbitMqConfig {
    RabbitMqConfig::new(broker.url().into())
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

#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq_holds_what_every_queue_must_hold() {
    let _alone = ONE.lock().await;
    let broker = RabbitMq::start();
    let queue = RabbitMqQueue::connect(config(&broker)).await.unwrap();
    conformance::every_message_is_delivered_once_in_order_and_an_ack_ends_it(&queue).await;
    conformance::a_dropped_consumers_messages_are_delivered_again_and_counted(&queue).await;
    conformance::prefetch_bounds_what_a_consumer_holds(&queue).await;
    conformance::handed_back_goes_to_another_and_dead_letters_are_kept_apart(&queue).await;
    conformance::a_stale_settlement_is_noticed_and_changes_nothing(&queue).await;
    conformance::many_consumers_share_and_nothing_is_lost_or_doubled(Arc::new(queue)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_message_of_ours_and_what_is_delivered_too_often_become_dead_letters() {
    let _alone = ONE.lock().await;
    let broker = RabbitMq::start();
    let queue = RabbitMqQueue::connect(RabbitMqConfig { delivery_limit: 2, ..config(&broker) }).await.unwrap();
    queue.publish(&pool(), &message(0)).await.unwrap();
    let foreign = lapin::Connection::connect(&broker.url(), lapin::ConnectionProperties::default()).await.unwrap();
    let channel = foreign.create_channel().await.unwrap();
    let publish = channel.basic_publish(
        "".into(),
        "diorama.default".into(),
        lapin::options::BasicPublishOptions::default(),
        b"{\"run\": 7}",
        lapin::BasicProperties::default(),
    );
    publish.await.unwrap().await.unwrap();
    for expected in 1..=3 {
        let mut consumer = queue.consume(&pool(), 1).await.unwrap();
        let delivery = within(consumer.next()).await.unwrap();
        assert_eq!((delivery.message.shard.index, delivery.deliveries), (0, expected));
    }
    let mut consumer = queue.consume(&pool(), 1).await.unwrap();
    let dead = async {
        loop {
            if let Some(dead) = queue.dead_letter(&pool()).await.unwrap() {
                return dead;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let dead = tokio::select! {
        dead = within(dead) => dead,
        delivery = consumer.next() => panic!("{} was delivered", delivery.unwrap().message.shard),
    };
    assert_eq!(dead.message, message(0));
    dead.settle(Settlement::Ack).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_was_deleted_is_declared_again_and_consuming_goes_on() {
    let _alone = ONE.lock().await;
    let broker = RabbitMq::start();
    let queue = RabbitMqQueue::connect(config(&broker)).await.unwrap();
    let mut consumer = queue.consume(&pool(), 2).await.unwrap();
    queue.publish(&pool(), &message(0)).await.unwrap();
    within(consumer.next()).await.unwrap().settle(Settlement::Ack).await.unwrap();

    let foreign = lapin::Connection::connect(&broker.url(), lapin::ConnectionProperties::default()).await.unwrap();
    let channel = foreign.create_channel().await.unwrap();
    channel.queue_delete("diorama.default".into(), lapin::options::QueueDeleteOptions::default()).await.unwrap();
    let publish = async {
        queue.publish(&pool(), &message(1)).await.unwrap();
        std::future::pending::<()>().await
    };
    let delivery = tokio::select! {
        delivery = within(consumer.next()) => delivery.unwrap(),
        () = publish => unreachable!(),
    };
    assert_eq!(delivery.message, message(1));
    delivery.settle(Settlement::Ack).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_the_address_is_said_without_the_password() {
    let _alone = ONE.lock().await;
    let broker = RabbitMq::start();
    let port = broker.port();
    let nobody = diorama_tests::services::free_port();
    for (url, part) in [
        (format!("amqp://guest:hunter2@127.0.0.1:{port}/%2f"), "check user and password"),
        (format!("amqp://guest:guest@127.0.0.1:{port}/hunter2"), "refuses the vhost"),
        (format!("amqp://guest:hunter2@127.0.0.1:{nobody}/%2f"), "that the broker runs"),
        ("http://guest:hunter2@127.0.0.1".to_owned(), "amqp://user:password@host"),
    ] {
        let error = RabbitMqQueue::connect(RabbitMqConfig::new(url.into())).await.err().expect(part).to_string();
        assert!(error.contains(part), "{error}");
        assert!(!error.contains(":hunter2"), "{error}");
    }
}
