//! Messages that are too many, too late, in another order, delivered too often, or none of ours.

use std::time::Duration;

use diorama_backends::queue::rabbitmq::{RabbitMqConfig, RabbitMqQueue};
use diorama_backends::queue::{Queue, Settlement};
use diorama_tests::services::rabbitmq::RabbitMq;

use super::{ONE, config, connect, foreign_channel, message, next, pool, until, within};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_message_of_ours_and_what_is_delivered_too_often_become_dead_letters() {
    let _alone = ONE.lock().await;
    let broker = RabbitMq::start();
    let queue = RabbitMqQueue::connect(RabbitMqConfig { delivery_limit: 2, ..config(&broker) }).await.unwrap();
    queue.publish(&pool(), &message(0)).await.unwrap();
    let (_foreign, channel) = foreign_channel(&broker).await;
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
        let delivery = next(&mut consumer).await;
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
async fn messages_that_come_twice_late_or_in_another_order_are_settled_one_by_one() {
    let _alone = ONE.lock().await;
    let broker = RabbitMq::start();
    let queue = connect(&broker).await;
    for index in [2, 0, 1, 0] {
        queue.publish(&pool(), &message(index)).await.unwrap();
    }
    let (mut one, mut other) = (queue.consume(&pool(), 3).await.unwrap(), queue.consume(&pool(), 3).await.unwrap());
    // Both copies of shard 0 are out at the same time, wherever they went.
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(tokio::select! {
            delivery = within(one.next()) => delivery.unwrap(),
            delivery = within(other.next()) => delivery.unwrap(),
        });
    }
    held.sort_by_key(|delivery| delivery.message.shard.index);
    assert_eq!(held.iter().map(|delivery| delivery.message.shard.index).collect::<Vec<_>>(), [0, 0, 1, 2]);
    // The last first. One copy goes back and comes late, the other one is done before it.
    held.pop().unwrap().settle(Settlement::Ack).await.unwrap();
    held.pop().unwrap().settle(Settlement::Ack).await.unwrap();
    held.pop().unwrap().settle(Settlement::HandBack).await.unwrap();
    held.pop().unwrap().settle(Settlement::Ack).await.unwrap();
    let late = tokio::select! {
        delivery = within(one.next()) => delivery.unwrap(),
        delivery = within(other.next()) => delivery.unwrap(),
    };
    assert_eq!((late.message.shard.index, late.deliveries), (0, 2));
    late.settle(Settlement::Ack).await.unwrap();
    drop((one, other));
    until("the queue is empty", async || {
        let depth = queue.depth(&pool()).await.unwrap();
        (depth.ready, depth.consumers, depth.dead) == (0, 0, 0)
    })
    .await;
}
