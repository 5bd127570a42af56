//! A progress service that forgets, or is away: what it says is derived from the markers, and nothing waits for it.

use super::unkind::{MemoryObjects, MoodyProgress};
use super::*;
use crate::status;

fn bench(progress: MoodyProgress) -> (Bench, Arc<MoodyProgress>) {
    let (mut bench, progress) = (Bench::shared(Arc::new(MemoryObjects::default())), Arc::new(progress));
    bench.backends.progress = progress.clone();
    (bench, progress)
}

/// Of nine tasks, task 3 fails in round 0 and heals, task 5 fails for good.
fn outcomes() -> Decide {
    Arc::new(|task, round| match (task, round) {
        (3, 0) => failed(true),
        (5, _) => failed(false),
        _ => done(),
    })
}

#[tokio::test(start_paused = true)]
async fn whenever_everything_is_forgotten_the_counts_are_right_at_the_end_and_never_too_high() {
    for forgets_at in 1.. {
        let ((bench, progress), spec) = (bench(MoodyProgress::forgetting(forgets_at)), spec(9, 2));
        bench.submit(&spec).await;
        let _worker = bench.worker(&spec, outcomes());
        let (coordinator, seen) = bench.coordinator(|_| ());
        let watch = async {
            loop {
                let now = seen.borrow().clone();
                assert!(now.done + now.failed <= 9, "{now:?}, forgotten before operation {forgets_at}");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let drain = CancellationToken::new();
        let end = tokio::select! {
            end = within(coordinator.drive(&spec, &drain)) => end.unwrap(),
            () = watch => unreachable!(),
        };
        let (asked, place) = (progress.asked(), format!("forgotten before operation {forgets_at}"));
        let RunEnd::Finished(summary) = end else { panic!("finished, {place}") };
        assert_eq!((summary.done, summary.failed, summary.shards), (8, 1, 6), "{place}");
        let counted = progress_counted(&bench, &spec).await;
        let right = Counts { shards: 6, done: 8, failed: 1, retrying: 1, device_ms: 12_000, ..Counts::default() };
        assert!(!counted.complete || counted.counts == right, "{counted:?}, {place}");
        let now = status(&bench.backends, &bench.store, &spec, &bench.history().await).await.unwrap();
        assert_eq!((now.done, now.failed, now.degraded), (8, 1, None), "{place}");
        // What is asked in between, by this test, may be what makes it forget.
        if asked + 8 < forgets_at {
            assert!(counted.complete, "nothing was forgotten");
            return;
        }
    }
}

async fn progress_counted(bench: &Bench, spec: &RunSpec) -> diorama_backends::progress::Counted {
    bench.backends.progress.counted(&spec.run).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn whenever_everything_is_forgotten_a_reconciliation_counts_what_the_markers_say() {
    for forgets_at in 1.. {
        let ((bench, progress), spec) = (bench(MoodyProgress::forgetting(forgets_at)), spec(9, 2));
        bench.submit(&spec).await;
        for index in 0..4 {
            bench.commit(&spec, ShardId { round: Round(0), index }, &outcomes()).await;
        }
        let history = bench.history().await;
        let before = progress.asked();
        let counts = reconcile(&bench.backends, &bench.store, &spec, &history).await.unwrap();
        let right = Counts { shards: 4, done: 6, failed: 1, retrying: 1, device_ms: 8_000, ..Counts::default() };
        assert_eq!(counts, right, "forgotten before operation {forgets_at}");
        if progress.asked() + 1 < forgets_at {
            assert!(before < forgets_at, "nothing of the reconciliation was struck");
            assert!(progress_counted(&bench, &spec).await.complete);
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_progress_service_a_run_is_driven_to_its_end_from_its_markers() {
    for comes_back in [false, true] {
        let ((bench, progress), spec) = (bench(MoodyProgress::away()), spec(9, 2));
        bench.submit(&spec).await;
        let gate = super::unkind::Gate::default();
        let (reached, outcomes) = (gate.clone(), outcomes());
        let _worker = bench.worker(
            &spec,
            Arc::new(move |task, round| {
                if task == 8 {
                    reached.open();
                }
                outcomes(task, round)
            }),
        );
        let (coordinator, _) = bench.coordinator(|_| ());
        let drain = CancellationToken::new();
        let look = async {
            gate.pass().await;
            while bench.store.marker(ShardId { round: Round(0), index: 4 }).await.unwrap().is_none() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let now = status(&bench.backends, &bench.store, &spec, &bench.history().await).await.unwrap();
            assert_eq!((now.state, now.done, now.failed, now.retrying), (RunState::Running, 7, 1, 1));
            assert!(now.degraded.as_ref().is_some_and(|why| why.starts_with("Redis is unreachable")), "{now:?}");
            progress.be_away(!comes_back);
        };
        let (end, ()) = within(async { tokio::join!(coordinator.drive(&spec, &drain), look) }).await;
        let RunEnd::Finished(summary) = end.unwrap() else { panic!("finished") };
        assert_eq!((summary.done, summary.failed, summary.rounds), (8, 1, 1));
        if comes_back {
            let counted = progress_counted(&bench, &spec).await;
            assert_eq!((counted.complete, counted.counts.done, counted.counts.shards), (true, 8, 6));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_progress_service_a_pause_and_a_cancel_are_heard_all_the_same() {
    let ((bench, _), spec) = (bench(MoodyProgress::away()), spec(9, 2));
    bench.submit(&spec).await;
    bench.decide(&spec, Act::Paused { reason: None }).await.unwrap();
    let (coordinator, _) = bench.coordinator(|_| ());
    let drain = CancellationToken::new();
    let cancel = async {
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(bench.backends.queue.depth(&spec.pool).await.unwrap().ready, 0, "it is paused");
        bench.decide(&spec, Act::Cancelled).await.unwrap();
        tokio::time::Instant::now()
    };
    let (end, at) = tokio::join!(coordinator.drive(&spec, &drain), cancel);
    assert!(matches!(end.unwrap(), RunEnd::Cancelled(summary) if summary.failed == 9));
    assert!(at.elapsed() < Duration::from_secs(2), "{:?}", at.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_is_forgotten_while_a_run_waits_for_its_next_round_is_counted_again_at_once() {
    let (bench, mut spec) = (Bench::shared(Arc::new(MemoryObjects::default())), spec(9, 2));
    spec.retry.delay_seconds = 3000.0;
    bench.submit(&spec).await;
    let _worker = bench.worker(&spec, outcomes());
    let (coordinator, _) = bench.coordinator(|_| ());
    let drain = CancellationToken::new();
    let look = async {
        while bench.history().await.rounds().len() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        bench.backends.progress.forget(&spec.run).await.unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
        let now = status(&bench.backends, &bench.store, &spec, &bench.history().await).await.unwrap();
        assert!(matches!(now.waiting, Some(crate::waiting::Waiting::Round { round: 1, .. })), "{now:?}");
        assert_eq!((now.done, now.failed, now.retrying, now.degraded), (7, 1, 1, None));
    };
    tokio::select! {
        () = within(look) => {}
        end = coordinator.drive(&spec, &drain) => panic!("the next round is nearly an hour off: {end:?}"),
    }
}
