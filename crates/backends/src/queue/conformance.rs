//! What every queue must hold. Each function takes a queue whose pools are empty and panics where a guarantee is broken.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use diorama_core::id::{Pool, Round, RunId, ShardId};
use diorama_core::message::ShardMessage;
use tokio::sync::mpsc;

use super::{Consumer, Delivery, Queue, QueueError, Settlement};

fn pool(name: &str) -> Pool {
    Pool::new(name).unwrap()
}

fn message(index: u32) -> ShardMessage {
    ShardMessage { run: RunId::new("conformance").unwrap(), shard: ShardId { round: Round(0), index } }
}

/// A queue that should deliver does so within this time; nothing here waits for it in the good case.
async fn next(consumer: &mut Box<dyn Consumer>) -> Delivery {
    tokio::time::timeout(Duration::from_secs(30), consumer.next()).await.expect("a delivery").unwrap()
}

async fn expect_nothing(consumer: &mut Box<dyn Consumer>) {
    let none = tokio::time::timeout(Duration::from_millis(100), consumer.next()).await;
    assert!(none.is_err(), "nothing should be delivered here");
}

async fn publish(queue: &dyn Queue, pool: &Pool, indices: impl IntoIterator<Item = u32>) {
    for index in indices {
        queue.publish(pool, &message(index)).await.unwrap();
    }
}

/// First in, first out, one delivery each, and pools do not mix.
pub async fn every_message_is_delivered_once_in_order_and_an_ack_ends_it(queue: &dyn Queue) {
    let (here, there) = (pool("here"), pool("there"));
    publish(queue, &here, 0..5).await;
    publish(queue, &there, 9..10).await;
    let mut consumer = queue.consume(&here, 10).await.unwrap();
    for index in 0..5 {
        let delivery = next(&mut consumer).await;
        assert_eq!((delivery.message.shard.index, delivery.deliveries), (index, 1));
        delivery.settle(Settlement::Ack).await.unwrap();
    }
    expect_nothing(&mut consumer).await;
    drop(consumer);
    let mut consumer = queue.consume(&here, 10).await.unwrap();
    expect_nothing(&mut consumer).await;
    let mut consumer = queue.consume(&there, 10).await.unwrap();
    assert_eq!(next(&mut consumer).await.message.shard.index, 9);
}

/// A consumer that goes away unsettled (a dead worker) gives its messages to the next one, which sees the count.
pub async fn a_dropped_consumers_messages_are_delivered_again_and_counted(queue: &dyn Queue) {
    let pool = pool("dropped");
    publish(queue, &pool, 0..2).await;
    for deliveries in 1..=3 {
        let mut consumer = queue.consume(&pool, 2).await.unwrap();
        let mut seen: Vec<_> = Vec::new();
        for _ in 0..2 {
            let delivery = next(&mut consumer).await;
            assert_eq!(delivery.deliveries, deliveries);
            seen.push(delivery.message.shard.index);
        }
        seen.sort_unstable();
        assert_eq!(seen, [0, 1]);
    }
    let mut consumer = queue.consume(&pool, 2).await.unwrap();
    next(&mut consumer).await.settle(Settlement::Ack).await.unwrap();
    next(&mut consumer).await.settle(Settlement::Ack).await.unwrap();
}

/// No consumer holds more than its prefetch, and settling makes room.
pub async fn prefetch_bounds_what_a_consumer_holds(queue: &dyn Queue) {
    let pool = pool("prefetch");
    publish(queue, &pool, 0..3).await;
    let mut consumer = queue.consume(&pool, 2).await.unwrap();
    let first = next(&mut consumer).await;
    let _second = next(&mut consumer).await;
    expect_nothing(&mut consumer).await;
    first.settle(Settlement::Ack).await.unwrap();
    assert_eq!(next(&mut consumer).await.message.shard.index, 2);
}

/// A hand-back is delivered again, to whoever asks; a dead letter only to who asks for dead letters.
pub async fn handed_back_goes_to_another_and_dead_letters_are_kept_apart(queue: &dyn Queue) {
    let pool = pool("handed-back");
    publish(queue, &pool, 0..1).await;
    let mut one = queue.consume(&pool, 1).await.unwrap();
    next(&mut one).await.settle(Settlement::HandBack).await.unwrap();
    drop(one);
    let mut other = queue.consume(&pool, 1).await.unwrap();
    let delivery = next(&mut other).await;
    assert_eq!(delivery.message.shard.index, 0);
    assert!(queue.dead_letter(&pool).await.unwrap().is_none());
    delivery.settle(Settlement::DeadLetter).await.unwrap();
    expect_nothing(&mut other).await;

    let depth = queue.depth(&pool).await.unwrap();
    assert_eq!((depth.ready, depth.consumers, depth.dead), (0, 1, 1));
    let dead = queue.dead_letter(&pool).await.unwrap().expect("the dead letter");
    assert_eq!(dead.message.shard.index, 0);
    dead.settle(Settlement::Ack).await.unwrap();
    assert!(queue.dead_letter(&pool).await.unwrap().is_none());
}

/// What holds messages or is consumed from stays; what was removed is made anew by whoever needs it.
pub async fn a_queue_goes_only_while_it_is_empty_and_comes_back(queue: &dyn Queue) {
    let pool = pool("idle");
    publish(queue, &pool, 0..1).await;
    until_ready(queue, &pool, 1).await;
    assert!(!queue.remove_if_idle(&pool).await.unwrap(), "a message waits");
    let mut consumer = queue.consume(&pool, 1).await.unwrap();
    next(&mut consumer).await.settle(Settlement::DeadLetter).await.unwrap();
    assert!(!queue.remove_if_idle(&pool).await.unwrap(), "somebody consumes");
    drop(consumer);
    let dead = async {
        loop {
            match queue.dead_letter(&pool).await.unwrap() {
                Some(dead) => return dead,
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    let dead = tokio::time::timeout(Duration::from_secs(30), dead).await.expect("the dead letter");
    dead.settle(Settlement::Ack).await.unwrap();
    let removed = async {
        // A consumer is gone when the broker says so.
        while !queue.remove_if_idle(&pool).await.unwrap() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), removed).await.expect("an idle queue goes");
    publish(queue, &pool, 1..2).await;
    let mut consumer = queue.consume(&pool, 1).await.unwrap();
    let delivery = next(&mut consumer).await;
    assert_eq!((delivery.message.shard.index, delivery.deliveries), (1, 1));
    delivery.settle(Settlement::Ack).await.unwrap();
}

/// A broker counts what it has confirmed a moment later.
async fn until_ready(queue: &dyn Queue, pool: &Pool, ready: u64) {
    let counted = async {
        while queue.depth(pool).await.unwrap().ready != ready {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), counted).await.expect("the message is counted");
}

/// Settling for a consumer that is gone is an error, and the message stays with its new holder.
pub async fn a_stale_settlement_is_noticed_and_changes_nothing(queue: &dyn Queue) {
    let pool = pool("stale");
    publish(queue, &pool, 0..1).await;
    let mut gone = queue.consume(&pool, 1).await.unwrap();
    let stale = next(&mut gone).await;
    drop(gone);
    let mut consumer = queue.consume(&pool, 1).await.unwrap();
    let delivery = next(&mut consumer).await;
    assert!(matches!(stale.settle(Settlement::Ack).await, Err(QueueError::Stale(_))));
    delivery.settle(Settlement::HandBack).await.unwrap();
    assert_eq!(next(&mut consumer).await.message.shard.index, 0, "the stale ack took nothing away");
}

/// Consumers on several threads: each message is acknowledged by exactly one.
pub async fn many_consumers_share_and_nothing_is_lost_or_doubled(queue: Arc<dyn Queue>) {
    let pool = pool("many");
    let (sender, mut received) = mpsc::unbounded_channel();
    let mut consumers = Vec::new();
    for _ in 0..4 {
        let (queue, pool, sender) = (queue.clone(), pool.clone(), sender.clone());
        consumers.push(tokio::spawn(async move {
            let mut consumer = queue.consume(&pool, 2).await.unwrap();
            loop {
                let delivery = consumer.next().await.unwrap();
                let index = delivery.message.shard.index;
                delivery.settle(Settlement::Ack).await.unwrap();
                if sender.send(index).is_err() {
                    return;
                }
            }
        }));
    }
    publish(&*queue, &pool, 0..200).await;
    let mut seen = BTreeMap::<u32, u32>::new();
    while seen.len() < 200 {
        let index = tokio::time::timeout(Duration::from_secs(30), received.recv()).await.expect("all").unwrap();
        *seen.entry(index).or_default() += 1;
    }
    assert!(seen.values().all(|count| *count == 1), "{seen:?}");
    for consumer in consumers {
        consumer.abort();
    }
}
