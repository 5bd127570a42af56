//! What the runs of one pool owe each other.

use diorama_backends::objects::ObjectErrorKind;
use diorama_backends::objects::faulty::{Fault, FaultyObjects};
use diorama_core::id::RunId;
use diorama_core::message::ShardMessage;
use tokio::time::Instant;

use super::unkind::MemoryObjects;
use super::*;
use crate::share::Standing;

#[tokio::test(start_paused = true)]
async fn a_run_gives_way_until_its_turn_comes_whoever_announces_its_state_anew() {
    let (bench, spec) = (Bench::shared(Arc::new(MemoryObjects::default())), spec(64, 4));
    bench.submit(&spec).await;
    let shares = Shares::new(8);
    let (coordinator, _) = bench.coordinator(|config| config.shares = shares.clone());
    let (progress, queue) = (&bench.backends.progress, &bench.backends.queue);
    let gives_way = async || {
        while !progress.head(&spec.run).await.unwrap().is_some_and(|head| head.gives_way) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let drain = CancellationToken::new();
    let story = async {
        while queue.depth(&spec.pool).await.unwrap().ready < 8 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let rival = shares.join(&RunId::new("rival").unwrap(), &spec.pool, 10, 1);
        rival.turn(Standing { wants: true, ..Standing::default() }, Instant::now());
        gives_way().await;
        // As the API does it where somebody resumes a run that is running.
        bench.backends.announce(&spec.run, &bench.history().await).await;
        gives_way().await;
        drain.cancel();
    };
    let (end, ()) = within(async { tokio::join!(coordinator.drive(&spec, &drain), story) }).await;
    assert_eq!(end.unwrap(), RunEnd::Drained);
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_that_cannot_be_dealt_with_stops_its_own_run_and_no_other_one() {
    let refuse = |operation, key: &str| match operation == "get" && key.starts_with("runs/other/") {
        true => Fault::Fail(ObjectErrorKind::Permission),
        false => Fault::None,
    };
    let objects = FaultyObjects::new(MemoryObjects::default(), Box::new(refuse));
    let (bench, spec) = (Bench::shared(Arc::new(objects)), spec(4, 2));
    bench.submit(&spec).await;
    let queue = bench.backends.queue.clone();
    let shard = |index| ShardId { round: Round(0), index };
    let other = ShardMessage { run: RunId::new("other").unwrap(), shard: shard(0) };
    let ours = ShardMessage { run: spec.run.clone(), shard: shard(1) };
    let mut consumer = queue.consume(&spec.pool, 2).await.unwrap();
    for message in [&other, &ours] {
        queue.publish(&spec.pool, message).await.unwrap();
        consumer.next().await.unwrap().settle(Settlement::DeadLetter).await.unwrap();
    }
    drop(consumer);
    let end = bench.drive(&spec, Arc::new(|_, _| done())).await;
    assert!(matches!(end, RunEnd::Finished(summary) if summary.done == 4));
    let marker = bench.store.marker(shard(1)).await.unwrap().unwrap();
    assert_eq!(marker.worker.as_str(), "coordinator", "ours was dealt with, behind the other one");
    assert_eq!(queue.depth(&spec.pool).await.unwrap().dead, 1, "the other one is kept");
}
