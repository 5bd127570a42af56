//! What is made is kept.

use diorama_core::marker::Part;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_worker_keeps_what_it_made_and_the_next_one_makes_only_the_rest() {
    for format in [OutputFormat::Webdataset, OutputFormat::Files] {
        let bench = Bench::new();
        let (run, first) = bench.in_the_middle(format, "first").await;
        // Its second batch is on the device, and may finish.
        first.drain.cancel();
        bench.allow(usize::MAX);
        assert_eq!(first.end().await.handed_back, 1);
        let made = bench.made.lock().unwrap().len();
        assert!((4..12).contains(&made), "{made}");

        let second = bench.worker("second").await;
        let marker = bench.marker(&run).await;
        assert_eq!(second.end().await.committed, 1);
        let mut all = bench.made.lock().unwrap().clone();
        all.sort();
        all.dedup();
        assert_eq!((all.len(), bench.made.lock().unwrap().len()), (12, 12), "each picture was made once");
        assert_eq!(marker.archives.len(), if format == OutputFormat::Webdataset { 2 } else { 0 });
        assert_eq!(marker.version, 2);

        let whole = bench.submit("whole", format, 12).await;
        let third = bench.worker("third").await;
        bench.marker(&whole).await;
        third.end().await;
        assert_eq!(bench.files(&run).await, bench.files(&whole).await, "{format:?}: byte by byte");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_outlasts_the_grace_is_all_that_a_drain_loses() {
    let bench = Bench::new();
    let run = bench.submit("r", OutputFormat::Webdataset, 12).await;
    bench.allow(2);
    let config = WorkerConfig { drain_grace: Duration::from_millis(50), ..bench.config("first") };
    let first = bench.start(bench.generator("m"), config).await;
    bench.has_begun(3).await;
    assert_eq!(first.end().await.handed_back, 1);
    assert_eq!(bench.made.lock().unwrap().len(), 4);
    bench.allow(usize::MAX);
    let second = bench.worker("second").await;
    bench.marker(&run).await;
    second.end().await;
    assert_eq!(bench.made.lock().unwrap().len(), 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_keeps_what_is_made_and_lets_the_shard_go() {
    let bench = Bench::new();
    let (run, worker) = bench.in_the_middle(OutputFormat::Webdataset, "w").await;
    bench.decide(&run, Act::Paused { reason: None }).await;
    bench.allow(usize::MAX);
    until("a part is kept", async || bench.objects(&run, "parts/").await.len() == 1).await;
    worker.has_ended(1, "let_go").await;
    bench.decide(&run, Act::Resumed).await;
    bench.publish(&run).await;
    bench.marker(&run).await;
    let report = worker.end().await;
    assert_eq!((report.let_go, report.committed), (1, 1));
    assert_eq!(bench.made.lock().unwrap().len(), 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_another_model_or_of_other_settings_or_a_damaged_one_is_made_again() {
    type Change = fn(&mut Part);
    let changes: [Change; 2] =
        [|part| part.model.sha256 = "another".to_owned(), |part| part.settings = Sha256Hex::of(b"others")];
    for change in [Some(changes[0]), Some(changes[1]), None] {
        let bench = Bench::new();
        let (run, first) = bench.in_the_middle(OutputFormat::Webdataset, "first").await;
        first.drain.cancel();
        bench.allow(usize::MAX);
        first.end().await;
        let (store, parts) = (bench.store(&run), bench.objects(&run, "parts/").await);
        let by = parts[0].split('.').nth(1).unwrap();
        let key = ObjectKey::Part(shard(0), attempt(by));
        match change {
            Some(change) => {
                let mut part = store.part(shard(0), &attempt(by)).await.unwrap().unwrap();
                change(&mut part);
                store.write_json(&key, &part).await.unwrap();
            }
            None => damage(&*bench.backends.objects, &store, &key).await,
        }
        bench.made.lock().unwrap().clear();
        let second = bench.worker("second").await;
        assert_eq!(bench.marker(&run).await.archives.len(), 1);
        second.end().await;
        assert_eq!(bench.made.lock().unwrap().len(), 12);
    }
}

/// Workers of the same store and progress whose shards come from a queue of their own.
fn beside(bench: &Bench) -> Bench {
    Bench {
        made: Arc::default(),
        allowed: Arc::new(watch::Sender::new(usize::MAX)),
        begun: Arc::default(),
        folder: tempfile::tempdir().unwrap(),
        backends: Backends { queue: Arc::new(EmbeddedQueue::default()), ..bench.backends.clone() },
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_parts_with_the_same_pictures_the_larger_is_used_and_no_archive_holds_more_than_its_outcomes() {
    let bench = Bench::new();
    let (run, first) = bench.in_the_middle(OutputFormat::Webdataset, "first").await;
    // As if its connection had been lost: another worker gets the shard a second time, before there is a part.
    bench.backends.progress.forget(&run).await.unwrap();
    let other = beside(&bench);
    other.allowed.send_replace(2);
    other.publish(&run).await;
    let second = other.worker("second").await;
    other.has_begun(3).await;
    for (bench, worker) in [(&bench, first), (&other, second)] {
        worker.drain.cancel();
        bench.allow(usize::MAX);
        assert_eq!(worker.end().await.handed_back, 1);
    }
    assert_eq!(bench.objects(&run, "parts/").await.len(), 2);
    let third = bench.worker("third").await;
    let marker = bench.marker(&run).await;
    third.end().await;
    assert_eq!(marker.archives.len(), 2, "one part, and the rest");
    let from = |archive: &str| {
        let named = |outcome: &Outcome| matches!(outcome, Outcome::Done { archive: Some(key), .. } if key == archive);
        marker.outcomes.iter().filter(|outcome| named(&outcome.outcome)).count()
    };
    assert_eq!(from(&marker.archives[0].key), other.made.lock().unwrap().len(), "as many as were put in");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_loses_the_race_for_a_commit_removes_what_it_made_and_nothing_else() {
    for format in [OutputFormat::Webdataset, OutputFormat::Files] {
        let bench = Bench::new();
        let run = bench.submit("r", format, 4).await;
        bench.allow(1);
        let late = bench.worker("late").await;
        bench.has_begun(2).await;
        // As if its connection had been lost: another worker gets the shard a second time.
        bench.backends.progress.forget(&run).await.unwrap();
        let other = beside(&bench);
        other.publish(&run).await;
        let fast = other.worker("fast").await;
        let winner = bench.marker(&run).await;
        assert_eq!(fast.end().await.committed, 1);
        bench.allow(usize::MAX);
        late.has_ended(1, "already_committed").await;
        assert_eq!(late.end().await.already_committed, 1);
        let left = [bench.objects(&run, "shards/").await, bench.objects(&run, "files/").await].concat();
        assert!(!left.is_empty() && left.iter().all(|key| key.contains(winner.attempt.as_str())), "{left:?}");
        assert!(!bench.files(&run).await.is_empty());
    }
}
