//! A run after its end: its counters are those of its markers for as long as anybody remembers them.

use super::*;
use crate::{Grace, verify};

/// A run all of whose shards have markers, ended.
async fn ended() -> (Bench, RunSpec) {
    let (bench, spec) = (Bench::new(), spec(8, 2));
    bench.submit(&spec).await;
    for index in 0..4 {
        bench.commit(&spec, ShardId { round: Round(0), index }, &(Arc::new(|_, _| done()) as Decide)).await;
    }
    let (coordinator, _) = bench.coordinator(|_| ());
    within(coordinator.drive(&spec, &CancellationToken::new())).await.unwrap();
    (bench, spec)
}

#[tokio::test]
async fn what_nobody_counted_while_the_run_went_on_is_counted_before_it_is_left() {
    let (bench, spec) = ended().await;
    let counts = bench.counts(&spec).await;
    assert_eq!((counts.shards, counts.done), (4, 8));
}

#[tokio::test]
async fn verify_holds_the_counters_of_an_ended_run_against_its_markers() {
    let (bench, spec) = ended().await;
    let (progress, history) = (&bench.backends.progress, bench.history().await);
    let problems = async |repair: bool| {
        let repair = repair.then(Grace::default);
        verify(&bench.backends, &bench.store, &spec, &history, repair).await.unwrap().problems
    };
    assert_eq!(problems(false).await, [] as [&str; 0]);
    progress.forget(&spec.run).await.unwrap();
    assert_eq!(problems(false).await, [] as [&str; 0], "a run that was forgotten after its end");

    reconcile(&bench.backends, &bench.store, &spec, &history).await.unwrap();
    assert_eq!(problems(false).await, [] as [&str; 0]);
    let surplus = Counts { shards: 1, done: 2, ..Counts::default() };
    progress.commit(&spec.run, ShardId { round: Round(0), index: 9 }, surplus, &[]).await.unwrap();
    assert!(problems(false).await[0].starts_with("the counters say"));
    assert_eq!(problems(true).await, [] as [&str; 0]);
    assert_eq!(bench.counts(&spec).await.done, 8);
}
