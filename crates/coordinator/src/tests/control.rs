//! Pause, resume, cancel and drain.

use super::*;

#[tokio::test]
async fn a_paused_run_publishes_nothing_until_it_is_resumed() {
    let (bench, spec) = (Bench::new(), spec(6, 2));
    bench.submit(&spec).await;
    bench.decide(&spec, Act::Paused { reason: None }).await.unwrap();
    let _worker = bench.worker(&spec, Arc::new(|_, _| done()));
    let (coordinator, mut progress) = bench.coordinator(|_| ());
    let drain = CancellationToken::new();
    let resume = async {
        progress.wait_for(|progress| progress.state == RunState::Paused).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(list_all(bench.store.objects(), "commits/").await.unwrap().is_empty());
        bench.decide(&spec, Act::Resumed).await.unwrap();
    };
    let (end, ()) = within(async { tokio::join!(coordinator.drive(&spec, &drain), resume) }).await;
    assert!(matches!(end.unwrap(), RunEnd::Finished(_)));
}

#[tokio::test]
async fn a_run_with_more_failures_than_its_owner_allows_is_paused_once_and_resumed_goes_on_to_its_end() {
    let (bench, mut spec) = (Bench::new(), spec(400, 2));
    spec.stop_if = Some("failed > 5%".parse().unwrap());
    bench.submit(&spec).await;
    // Half of them fail, in a way that may pass: those count, before they are tried again.
    let _worker = bench.worker(&spec, Arc::new(|task, _| if task % 2 == 0 { failed(true) } else { done() }));
    let (coordinator, mut progress) = bench.coordinator(|config| config.shares = Shares::new(4));
    let drain = CancellationToken::new();
    let owner = async {
        progress.wait_for(|progress| progress.state == RunState::Paused).await.unwrap();
        let history = bench.history().await;
        assert!(history.reason().unwrap().contains("--stop-if"), "{:?}", history.reason());
        let (known, bound) = (bench.counts(&spec).await.shards, 100);
        assert!(
            (20..bound).contains(&known),
            "a tenth of the tasks has outcomes, and not half of them: {known} shards"
        );
        bench.decide(&spec, Act::Resumed).await.unwrap();
    };
    let (end, ()) = within(async { tokio::join!(coordinator.drive(&spec, &drain), owner) }).await;
    let RunEnd::Finished(summary) = end.unwrap() else { panic!("finished") };
    assert_eq!((summary.done, summary.failed), (200, 200));
}

#[tokio::test]
async fn a_cancelled_run_keeps_what_is_committed_and_the_rest_is_cancelled() {
    let (bench, spec) = (Bench::new(), spec(10, 3));
    bench.submit(&spec).await;
    bench.commit(&spec, ShardId { round: Round(0), index: 1 }, &(Arc::new(|_, _| done()) as Decide)).await;
    bench.decide(&spec, Act::Cancelled).await.unwrap();
    let (coordinator, _) = bench.coordinator(|_| ());
    let end = within(coordinator.drive(&spec, &CancellationToken::new())).await.unwrap();
    let RunEnd::Cancelled(summary) = end else { panic!("cancelled") };
    assert_eq!((summary.done, summary.failed, summary.failures["cancelled"]), (3, 7, 7));
    assert_eq!(indices(&bench.lines("results.jsonl")), [3, 4, 5]);
    assert_eq!(indices(&bench.lines("errors.jsonl")), [0, 1, 2, 6, 7, 8, 9]);
}

#[tokio::test]
async fn neither_a_pause_nor_a_resume_at_the_same_moment_undoes_a_cancel() {
    let (bench, spec) = (Bench::new(), spec(4, 2));
    bench.submit(&spec).await;
    let before = bench.history().await;
    bench.decide(&spec, Act::Cancelled).await.unwrap();
    // Both had looked at the run before it was cancelled, and write what they decided after.
    for act in [Act::Resumed, Act::Paused { reason: Some("a fault of its own".to_owned()) }] {
        let mut late = before.clone();
        let refused = bench.backends.decide(&bench.store, &spec.run, &mut late, "late", act).await.unwrap_err();
        assert!(matches!(refused, DecideError::Refused(Refused::Illegal { .. })), "{refused}");
        assert_eq!(late, bench.history().await, "whoever is late learns what was decided");
    }
    let (coordinator, _) = bench.coordinator(|_| ());
    let end = within(coordinator.drive(&spec, &CancellationToken::new())).await.unwrap();
    assert!(matches!(end, RunEnd::Cancelled(_)), "{end:?}");
}

#[tokio::test]
async fn a_drained_coordinator_stops_and_the_next_one_goes_on() {
    let (bench, spec) = (Bench::new(), spec(4, 2));
    bench.submit(&spec).await;
    let (coordinator, _) = bench.coordinator(|_| ());
    let drain = CancellationToken::new();
    drain.cancel();
    assert_eq!(within(coordinator.drive(&spec, &drain)).await.unwrap(), RunEnd::Drained);
    assert!(matches!(bench.drive(&spec, Arc::new(|_, _| done())).await, RunEnd::Finished(_)));
}
