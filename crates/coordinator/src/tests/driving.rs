//! A run driven to its end: one outcome a task, rounds of retries, the final files.

use super::*;

#[tokio::test]
async fn every_task_ends_with_exactly_one_outcome_and_the_last_one_counts() {
    let (bench, spec) = (Bench::new(), spec(23, 4));
    bench.submit(&spec).await;
    // 0 mod 5: permanent. 1 mod 5: heals in round 1. 2 mod 5: heals in round 2. 3 mod 5: never heals. 4 mod 5: good.
    let decide: Decide = Arc::new(|task, round| match (task % 5, round) {
        (0, _) => failed(false),
        (1, 0) | (2, 0 | 1) | (3, _) => failed(true),
        _ => done(),
    });
    let RunEnd::Finished(summary) = bench.drive(&spec, decide).await else { panic!("finished") };

    let (results, errors) = (bench.lines("results.jsonl"), bench.lines("errors.jsonl"));
    let wanted = |residues: &[u64]| (0..23).filter(|task| residues.contains(&(task % 5))).collect::<Vec<_>>();
    assert_eq!(indices(&results), wanted(&[1, 2, 4]));
    assert_eq!(indices(&errors), wanted(&[0, 3]));
    assert_eq!((summary.done, summary.failed, summary.rounds), (14, 9, 2));
    assert_eq!(summary.failures["model_error"], 9);
    // 6 shards, then 14 tasks in 4, then 9 in 3.
    assert_eq!((summary.shards, summary.device_seconds), (6 + 4 + 3, 26.0));
    assert_eq!((summary.wall_seconds, summary.pictures_per_second), (10.0, 1.4));
    let counts = bench.counts(&spec).await;
    assert_eq!((counts.done, counts.failed), (summary.done, summary.failed), "counters agree with the files");
}

#[tokio::test]
async fn the_queue_never_holds_more_than_the_window() {
    let (bench, spec) = (Bench::new(), spec(100, 1));
    bench.submit(&spec).await;
    let _worker = bench.worker(&spec, Arc::new(|_, _| done()));
    let (coordinator, progress) = bench.coordinator(|config| config.shares = Shares::new(3));
    within(coordinator.drive(&spec, &CancellationToken::new())).await.unwrap();
    assert!((1..=3).contains(&bench.published_at_once.load(Ordering::SeqCst)));
    let last = progress.borrow().clone();
    assert_eq!((last.state, last.done, last.failed, last.total), (RunState::Finished, 100, 0, 100));
}

#[tokio::test]
async fn a_shard_that_cannot_be_read_ends_the_run_with_its_name() {
    let (bench, spec) = (Bench::new(), spec(4, 2));
    bench.submit(&spec).await;
    let shard = |index| ShardId { round: Round(0), index };
    let input = ObjectKey::Input(shard(1), bench.history().await.rounds()[0].inputs.clone());
    bench.store.objects().put(&bench.store.path(&input), Bytes::from_static(b"{\"index\":")).await.unwrap();
    let queue = bench.backends.queue.clone();
    let pool = spec.pool.clone();
    let dead = async {
        let mut consumer = queue.consume(&pool, 2).await.unwrap();
        for _ in 0..2 {
            consumer.next().await.unwrap().settle(Settlement::DeadLetter).await.unwrap();
        }
    };
    let (coordinator, _) = bench.coordinator(|_| ());
    let drain = CancellationToken::new();
    let (end, ()) = within(async { tokio::join!(coordinator.drive(&spec, &drain), dead) }).await;
    let error = end.unwrap_err().to_string();
    assert!(error.starts_with("shard r0-000001 cannot be used"), "{error}");
    // The other dead letter could be read: its tasks failed, and may be tried again.
    let marker = bench.store.marker(shard(0)).await.unwrap().unwrap();
    assert!(marker.outcomes.iter().all(|o| matches!(&o.outcome, Outcome::Failed(error) if error.retryable)));
}

#[tokio::test]
async fn rows_that_were_refused_end_in_the_errors_and_finalising_twice_gives_the_same() {
    let (bench, mut spec) = (Bench::new(), spec(2, 2));
    spec.invalid_rows = 1;
    let issue = ManifestIssue {
        line: 7,
        code: "wrong_type".to_owned(),
        message: "3 is not a string".to_owned(),
        param: Some("prompt".to_owned()),
        custom_id: None,
    };
    let with_issue = Submission { invalid: vec![issue], ..submission(&spec) };
    submit(&bench.backends, &bench.store, "test", with_issue).await.unwrap();
    bench.store.objects().put("shards/r0-000000.0a.tar", Bytes::from_static(b"orphan")).await.unwrap();
    let RunEnd::Finished(first) = bench.drive(&spec, Arc::new(|_, _| done())).await else { panic!("finished") };
    let errors = bench.lines("errors.jsonl");
    assert_eq!((errors.len(), &errors[0]["status"], &errors[0]["line"]), (1, &"invalid".into(), &7.into()));
    assert!(list_all(bench.store.objects(), "shards/").await.unwrap().is_empty(), "no marker names the orphan");
    let (history, name) = (bench.history().await, AttemptId::generate());
    let again = finalise(&bench.store, &spec, &history, bench.scratch(), &name).await.unwrap();
    assert_eq!((Some(&again), &again.summary), (history.ended(), &first));
    assert_eq!(bench.store.read_json(&ObjectKey::Summary).await.unwrap(), Some(first), "for whoever looks into it");
}

#[tokio::test]
async fn a_run_of_no_tasks_ends_at_once() {
    let (bench, spec) = (Bench::new(), spec(0, 4));
    bench.submit(&spec).await;
    let RunEnd::Finished(summary) = bench.drive(&spec, Arc::new(|_, _| done())).await else { panic!("finished") };
    assert_eq!((summary.tasks, summary.done, summary.pictures_per_second), (0, 0, 0.0));
}

#[tokio::test(start_paused = true)]
async fn the_wait_before_a_round_is_kept_across_a_restart() {
    let (bench, mut spec) = (Bench::new(), spec(1, 1));
    spec.retry.delay_seconds = 3600.0;
    bench.submit(&spec).await;
    let _worker = bench.worker(&spec, Arc::new(|_, round| if round == 0 { failed(true) } else { done() }));
    let half_an_hour = Duration::from_secs(1800);
    for _ in 0..2 {
        let (coordinator, _) = bench.coordinator(|config| config.poll = Duration::from_secs(1));
        let drain = CancellationToken::new();
        tokio::time::timeout(half_an_hour, coordinator.drive(&spec, &drain)).await.expect_err("the round waits");
        assert_eq!(bench.history().await.rounds().len(), 2);
        assert_eq!(bench.store.marker(ShardId { round: Round(1), index: 0 }).await.unwrap(), None);
    }
    let (coordinator, _) = bench.coordinator(|config| config.poll = Duration::from_secs(1));
    let end = tokio::time::timeout(half_an_hour * 3, coordinator.drive(&spec, &CancellationToken::new())).await;
    assert!(matches!(end.unwrap().unwrap(), RunEnd::Finished(_)));
}

#[tokio::test(start_paused = true)]
async fn a_clock_an_hour_ahead_delays_a_round_by_no_more_than_its_delay() {
    let (bench, mut spec) = (Bench::new(), spec(1, 1));
    spec.retry.delay_seconds = 5.0;
    bench.submit(&spec).await;
    let shard = ShardId { round: Round(0), index: 0 };
    bench.commit(&spec, shard, &(Arc::new(|_, _| failed(true)) as Decide)).await;
    let mut round = rounds::next(&bench.store, &spec, &bench.history().await).await.unwrap().unwrap();
    round.not_before += jiff::SignedDuration::from_hours(1);
    bench.decide(&spec, Act::RoundOpened { round }).await.unwrap();
    let begun = tokio::time::Instant::now();
    assert!(matches!(bench.drive(&spec, Arc::new(|_, _| done())).await, RunEnd::Finished(_)));
    assert!((5..8).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
}
