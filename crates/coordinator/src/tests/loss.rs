//! What the queue or the progress service loses is made good.

use super::*;

#[tokio::test]
async fn progress_is_rebuilt_from_the_markers_and_committed_shards_are_not_published_again() {
    let (bench, spec) = (Bench::new(), spec(20, 2));
    bench.submit(&spec).await;
    let earlier: Decide = Arc::new(|_, _| done());
    for index in [0, 3, 4, 9] {
        bench.commit(&spec, ShardId { round: Round(0), index }, &earlier).await;
    }
    bench
        .backends
        .progress
        .commit(&spec.run, ShardId { round: Round(0), index: 7 }, Counts::default(), &[])
        .await
        .unwrap();
    let history = bench.history().await;
    let counts = reconcile(&bench.backends, &bench.store, &spec, &history).await.unwrap();
    assert_eq!((counts.shards, counts.done), (4, 8), "what has no marker is forgotten");

    let seen: Arc<std::sync::Mutex<Vec<u64>>> = Arc::default();
    let log = seen.clone();
    let decide: Decide = Arc::new(move |task, _| {
        log.lock().unwrap().push(task);
        done()
    });
    assert!(matches!(bench.drive(&spec, decide).await, RunEnd::Finished(_)));
    let mut seen = seen.lock().unwrap().clone();
    seen.sort_unstable();
    assert_eq!(seen, [2, 3, 4, 5, 10, 11, 12, 13, 14, 15, 16, 17]);
}

#[tokio::test]
async fn a_lost_message_is_published_again() {
    let (bench, spec) = (Bench::new(), spec(4, 2));
    bench.submit(&spec).await;
    let queue = bench.backends.queue.clone();
    let pool = spec.pool.clone();
    // Takes the first message and loses it.
    let thief = tokio::spawn(async move {
        let mut consumer = queue.consume(&pool, 1).await.unwrap();
        consumer.next().await.unwrap().settle(Settlement::Ack).await.unwrap();
    });
    let (coordinator, _) = bench.coordinator(|config| config.publish_again_after = Duration::from_millis(50));
    let work_after_the_theft = async {
        thief.await.unwrap();
        let _worker = bench.worker(&spec, Arc::new(|_, _| done()));
        while bench.history().await.ended().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let drain = CancellationToken::new();
    let (end, ()) = within(async { tokio::join!(coordinator.drive(&spec, &drain), work_after_the_theft) }).await;
    assert!(matches!(end.unwrap(), RunEnd::Finished(_)));
}

#[tokio::test]
async fn a_forgetful_progress_service_does_not_stop_the_run() {
    let (bench, spec) = (Bench::new(), spec(40, 1));
    bench.submit(&spec).await;
    let progress = bench.backends.progress.clone();
    let run = spec.run.clone();
    let runtime = tokio::runtime::Handle::current();
    let forgotten = AtomicU32::new(0);
    let decide: Decide = Arc::new(move |task, _| {
        if task == 30 && forgotten.fetch_add(1, Ordering::SeqCst) == 0 {
            let (progress, run) = (progress.clone(), run.clone());
            runtime.spawn(async move { progress.forget(&run).await });
        }
        done()
    });
    let _worker = bench.worker(&spec, decide);
    // What was committed but not yet seen when it was forgotten looks lost until then.
    let (coordinator, _) = bench.coordinator(|config| config.publish_again_after = Duration::from_millis(50));
    let end = within(coordinator.drive(&spec, &CancellationToken::new())).await.unwrap();
    let RunEnd::Finished(summary) = end else { panic!("finished") };
    assert_eq!(summary.done, 40);
}
