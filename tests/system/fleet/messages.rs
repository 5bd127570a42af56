//! Messages that the queue of a pool has too often, too late or in another order than they were published.

use diorama_backends::queue::rabbitmq::{RabbitMqConfig, RabbitMqQueue};
use diorama_backends::queue::{Queue, Settlement};
use diorama_core::id::{Pool, Round, RunId, ShardId};
use diorama_core::message::ShardMessage;
use tokio::runtime::Runtime;

use super::Fleet;
use crate::case::until;

fn pool() -> Pool {
    Pool::new("default").unwrap()
}

/// The pool's queue, in the hands of somebody who means no good.
fn intruder(fleet: &Fleet) -> (Runtime, RabbitMqQueue) {
    let runtime = Runtime::new().unwrap();
    let config = RabbitMqConfig::new(fleet.rabbitmq.url().into());
    let queue = runtime.block_on(RabbitMqQueue::connect(config)).unwrap();
    (runtime, queue)
}

#[test]
fn a_shard_that_is_published_again_while_a_worker_has_it_is_made_once() {
    let fleet = Fleet::new();
    let _coordinator = fleet.serve();
    let one = fleet.start(fleet.working("one", "1000"));
    let run = fleet.submit(8);
    until("the worker has the only shard", || fleet.status(&run)["shards_running"] == 1);
    let other = fleet.start(fleet.working("other", "1000"));
    let (runtime, queue) = intruder(&fleet);
    until("the other worker takes messages", || {
        runtime.block_on(queue.depth(&pool())).is_ok_and(|depth| depth.consumers == 2)
    });
    let shard = ShardId { round: Round(0), index: 0 };
    let copy = ShardMessage { run: RunId::new(&run).unwrap(), shard };
    // Several, because the first worker takes its share of them; it knows that it has the shard.
    for _ in 0..4 {
        runtime.block_on(queue.publish(&pool(), &copy)).unwrap();
    }
    other.until_logged("published twice: another worker has it");
    fleet.proves_whole(&run, 8);
    let lost = "another worker committed this shard first";
    assert!(!one.logged().contains(lost) && !other.logged().contains(lost), "both made it");
}

#[test]
fn duplicate_delayed_and_reordered_messages_leave_every_task_one_outcome() {
    let fleet = Fleet::new();
    let (_coordinator, _one, _two) = (fleet.serve(), fleet.worker("one"), fleet.worker("two"));
    let (runtime, queue) = intruder(&fleet);
    let run = fleet.submit(800);
    fleet.until_done(&run, 40);
    // Takes a part of the messages away, and gives each back twice, the last one first, and then the first copy too.
    runtime.block_on(async {
        let mut thief = queue.consume(&pool(), 20).await.unwrap();
        let mut taken = Vec::new();
        while taken.len() < 20 {
            taken.push(thief.next().await.unwrap());
        }
        for delivery in taken.iter().rev() {
            queue.publish(&pool(), &delivery.message).await.unwrap();
            queue.publish(&pool(), &delivery.message).await.unwrap();
        }
        for (index, delivery) in taken.into_iter().enumerate() {
            let how = if index % 2 == 0 { Settlement::HandBack } else { Settlement::Ack };
            delivery.settle(how).await.unwrap();
        }
    });
    // A shard of a run that has ended long ago, from here on.
    fleet.proves_whole(&run, 800);
    let shard = ShardId { round: Round(0), index: 3 };
    let late = ShardMessage { run: RunId::new(&run).unwrap(), shard };
    runtime.block_on(queue.publish(&pool(), &late)).unwrap();
    until("somebody takes it", || {
        runtime.block_on(queue.depth(&pool())).is_ok_and(|depth| (depth.ready, depth.dead) == (0, 0))
    });
    fleet.proves_whole(&run, 800);
}
