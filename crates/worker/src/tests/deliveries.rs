//! A shard that is delivered more than once.

use diorama_backends::progress::Holder;
use diorama_backends::queue::{Delivery, QueueError, Settle, Settlement};

use super::*;
use crate::hold::Holding;

/// A delivery that notes how it ended; `dead`: its channel is.
struct Noted {
    name: &'static str,
    dead: bool,
    settled: Arc<Mutex<Vec<(&'static str, Settlement)>>>,
}

#[async_trait::async_trait]
impl Settle for Noted {
    async fn settle(self: Box<Self>, how: Settlement) -> Result<(), QueueError> {
        if self.dead {
            return Err(QueueError::Stale(shard(0)));
        }
        self.settled.lock().unwrap().push((self.name, how));
        Ok(())
    }
}

#[tokio::test]
async fn a_newer_delivery_of_a_held_shard_replaces_the_stale_one() {
    let settled = Arc::default();
    let delivery = |name, dead| {
        let message = ShardMessage { run: run_id("r"), shard: shard(0) };
        Delivery::new(message, 2, Box::new(Noted { name, dead, settled: Arc::clone(&settled) }))
    };
    let holding = Arc::new(Holding::new(Arc::new(EmbeddedProgress::default()), LONG, None));
    let worker = WorkerId::new("w").unwrap();
    let hold = holding.take(delivery("on a dead channel", true), &worker).await.unwrap();
    assert!(holding.take(delivery("published twice", false), &worker).await.is_none());
    assert!(holding.take(delivery("newest", false), &worker).await.is_none());
    assert_eq!(*settled.lock().unwrap(), [("published twice", Settlement::Ack)]);
    let delivery = hold.release(false).await.unwrap();
    delivery.settle(Settlement::HandBack).await.unwrap();
    assert_eq!(settled.lock().unwrap().last(), Some(&("newest", Settlement::HandBack)));
    assert!(holding.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_is_published_again_while_it_runs_is_made_once() {
    let bench = Bench::new();
    let run = bench.submit("r", OutputFormat::Files, 4).await;
    bench.allow(0);
    let worker = bench.worker("w").await;
    bench.has_begun(1).await;
    bench.publish(&run).await;
    until("it is taken", async || bench.depth().await.ready == 0).await;
    bench.allow(usize::MAX);
    bench.marker(&run).await;
    assert_eq!(worker.end().await.committed, 1);
    assert_eq!(bench.made.lock().unwrap().len(), 4);
    assert_eq!(bench.depth().await.ready, 0, "every delivery was settled");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_another_worker_holds_is_run_only_if_it_was_delivered_again() {
    let bench = Bench::new();
    let run = bench.submit("r", OutputFormat::Files, 2).await;
    let holder = Holder { worker: WorkerId::new("other").unwrap(), attempt: attempt("a"), done: 0, failed: 0 };
    bench.backends.progress.hold(&run, shard(0), &holder, LONG).await.unwrap();
    let report = {
        let worker = bench.worker("w").await;
        worker.has_ended(1, "held_elsewhere").await;
        worker.end().await
    };
    assert_eq!((report.held_elsewhere, bench.depth().await.ready), (1, 0));
    assert!(bench.objects(&run, "journal/").await.is_empty(), "it was not begun");

    bench.publish(&run).await;
    // A consumer that took it, and is gone.
    let mut consumer = bench.backends.queue.consume(&pool(), 1).await.unwrap();
    drop((consumer.next().await.unwrap(), consumer));
    let worker = bench.worker("w").await;
    bench.marker(&run).await;
    assert_eq!(worker.end().await.committed, 1);
}
