//! A broker that dies, that throws us out, that loses a queue, that is in alarm; and the same queue and consumer go on.

use std::sync::Arc;
use std::time::Duration;

use diorama_backends::queue::rabbitmq::{RabbitMqConfig, RabbitMqQueue};
use diorama_backends::queue::{Consumer, Delivery, Queue, QueueError, Settlement};
use diorama_tests::services::rabbitmq::RabbitMq;

use super::{Log, ONE, config, connect, foreign_channel, message, next, pool, until};

const QUEUE: &str = "diorama.default";

async fn publish(queue: &RabbitMqQueue, indices: std::ops::Range<u32>) {
    for index in indices {
        queue.publish(&pool(), &message(index)).await.unwrap();
    }
}

async fn take(consumer: &mut Box<dyn Consumer>, count: usize) -> Vec<Delivery> {
    let mut taken = Vec::new();
    for _ in 0..count {
        taken.push(next(consumer).await);
    }
    taken
}

fn indices(deliveries: &[Delivery]) -> Vec<u32> {
    let mut indices: Vec<_> = deliveries.iter().map(|delivery| delivery.message.shard.index).collect();
    indices.sort_unstable();
    indices
}

/// Of 20 messages two were delivered to `consumer`, which may hold two, before its connection was lost. They come again,
/// and no third one; the old deliveries are stale and take nothing away; all 20 are acknowledged in the end.
async fn goes_on(queue: &RabbitMqQueue, consumer: &mut Box<dyn Consumer>, lost: Vec<Delivery>) {
    let again = take(consumer, 2).await;
    assert_eq!(indices(&again), indices(&lost), "what was held did not come again first");
    assert!(again.iter().all(|delivery| delivery.deliveries > 1), "the first delivery was not counted");
    for stale in lost {
        assert!(matches!(stale.settle(Settlement::Ack).await, Err(QueueError::Stale(_))));
    }
    let third = tokio::time::timeout(Duration::from_millis(300), consumer.next()).await;
    assert!(third.is_err(), "more than the prefetch was delivered");
    assert_eq!(queue.depth(&pool()).await.unwrap().ready, 18);
    let mut all = indices(&again);
    for delivery in again {
        delivery.settle(Settlement::Ack).await.unwrap();
    }
    for _ in 2..20 {
        let delivery = next(consumer).await;
        all.push(delivery.message.shard.index);
        delivery.settle(Settlement::Ack).await.unwrap();
    }
    all.sort_unstable();
    assert_eq!(all, (0..20).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn confirmed_messages_survive_a_killed_broker_and_the_same_consumer_gets_them() {
    let _alone = ONE.lock().await;
    let log = Log::begin();
    let mut broker = RabbitMq::start();
    let queue = connect(&broker).await;
    publish(&queue, 0..20).await;
    broker.wait_until_kept(QUEUE);
    let mut consumer = queue.consume(&pool(), 2).await.unwrap();
    let held = take(&mut consumer, 2).await;
    broker.kill();
    broker.start_again();
    goes_on(&queue, &mut consumer, held).await;
    publish(&queue, 20..21).await;
    assert_eq!(next(&mut consumer).await.message, message(20));
    log.until_it_has("consuming through RabbitMQ continues").await;
    log.holds_no_secret();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_whose_connection_the_broker_closes_comes_back_by_itself_with_its_prefetch() {
    let _alone = ONE.lock().await;
    let log = Log::begin();
    let broker = RabbitMq::start();
    let queue = connect(&broker).await;
    publish(&queue, 0..20).await;
    let mut consumer = queue.consume(&pool(), 2).await.unwrap();
    let held = take(&mut consumer, 2).await;
    broker.control(&["close_all_connections", "--vhost", "diorama", "maintenance"]);
    goes_on(&queue, &mut consumer, held).await;
    log.until_it_has("consuming through RabbitMQ continues").await;
    log.holds_no_secret();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_whose_channel_alone_the_broker_closes_comes_back_by_itself_with_its_prefetch() {
    let _alone = ONE.lock().await;
    let log = Log::begin();
    let broker = RabbitMq::start();
    let queue = connect(&broker).await;
    let set = |name: &str, milliseconds: u32| {
        broker.control(&["eval", &format!("application:set_env(rabbit, {name}, {milliseconds}).")])
    };
    // What the broker does to a worker whose shard takes longer than it allows; it looks at every tick.
    set("channel_tick_interval", 1000);
    set("consumer_timeout", 2000);
    let mut consumer = queue.consume(&pool(), 2).await.unwrap();
    // A channel keeps the limit that it began with: the next one has all the time in the world.
    set("consumer_timeout", 3_600_000);
    publish(&queue, 0..20).await;
    let held = take(&mut consumer, 2).await;
    goes_on(&queue, &mut consumer, held).await;
    log.until_it_has("consuming through RabbitMQ continues").await;
    assert!(log.text().contains("PRECONDITION_FAILED"), "it was not the channel that was closed: {}", log.text());
    log.holds_no_secret();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_was_deleted_is_declared_again_and_consuming_goes_on_with_its_prefetch() {
    let _alone = ONE.lock().await;
    let broker = RabbitMq::start();
    let queue = Arc::new(connect(&broker).await);
    publish(&queue, 0..2).await;
    let mut consumer = queue.consume(&pool(), 2).await.unwrap();
    let held = take(&mut consumer, 2).await;

    let (_foreign, channel) = foreign_channel(&broker).await;
    channel.queue_delete(QUEUE.into(), lapin::options::QueueDeleteOptions::default()).await.unwrap();
    let publishing = {
        let queue = queue.clone();
        tokio::spawn(async move { publish(&queue, 2..5).await })
    };
    let again = take(&mut consumer, 2).await;
    assert_eq!(indices(&again), [2, 3]);
    publishing.await.unwrap();
    for stale in held {
        assert!(matches!(stale.settle(Settlement::Ack).await, Err(QueueError::Stale(_))));
    }
    let third = tokio::time::timeout(Duration::from_millis(300), consumer.next()).await;
    assert!(third.is_err(), "more than the prefetch was delivered");
    for delivery in again {
        delivery.settle(Settlement::Ack).await.unwrap();
    }
    assert_eq!(next(&mut consumer).await.message, message(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_in_alarm_takes_acknowledgements_and_what_waits_is_published_when_it_ends() {
    let _alone = ONE.lock().await;
    let log = Log::begin();
    let broker = RabbitMq::start();
    let queue = Arc::new(connect(&broker).await);
    let hasty = RabbitMqConfig { publish_patience: Duration::from_secs(2), ..config(&broker) };
    let hasty = RabbitMqQueue::connect(hasty).await.unwrap();
    publish(&queue, 0..2).await;
    let mut consumer = queue.consume(&pool(), 2).await.unwrap();
    let held = take(&mut consumer, 2).await;

    broker.control(&["set_vm_memory_high_watermark", "0.0000001"]);
    let publishing = {
        let queue = queue.clone();
        tokio::spawn(async move { publish(&queue, 2..3).await })
    };
    log.until_it_has("RabbitMQ is in alarm and accepts no messages").await;
    let error = hasty.publish(&pool(), &message(9)).await.unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("is in alarm"), "{error}");
    for delivery in held {
        delivery.settle(Settlement::Ack).await.unwrap();
    }
    until("the broker has the acknowledgements", async || {
        broker.control(&["list_queues", "-p", "diorama", "--silent", "name", "messages"]).contains("diorama.default\t0")
    })
    .await;
    assert!(!publishing.is_finished(), "a broker in alarm took a message");

    broker.control(&["set_vm_memory_high_watermark", "0.9"]);
    publishing.await.unwrap();
    log.until_it_has("RabbitMQ takes messages again").await;
    let mut delivered = next(&mut consumer).await;
    // What was given up on may have reached the broker all the same.
    if delivered.message == message(9) {
        delivered.settle(Settlement::Ack).await.unwrap();
        delivered = next(&mut consumer).await;
    }
    assert_eq!(delivered.message, message(2));
}
