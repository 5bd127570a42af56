//! A run after its end: its counters are those of its markers for as long as anybody remembers them.

use diorama_core::key::SharedKey;

use super::*;
use crate::{Service, ServiceConfig, verify};

/// A run of a shared store, all of whose shards have markers and whose final files are written.
async fn ended(bench: &Bench) -> (RunSpec, RunStore) {
    let spec = spec(8, 2);
    let store = RunStore::new(bench.backends.objects.clone(), RunRoot::Shared(spec.run.clone()));
    submit(&store, submission(&spec)).await.unwrap();
    for index in 0..4 {
        commit(&store, &spec, ShardId { round: Round(0), index }, &(Arc::new(|_, _| done()) as Decide)).await;
    }
    finalise(&store, &spec, RunState::Finished, bench.scratch()).await.unwrap();
    (spec, store)
}

#[tokio::test]
async fn what_was_forgotten_while_the_final_files_were_written_is_counted_before_the_run_is_left() {
    let bench = Bench::new();
    let (spec, store) = ended(&bench).await;
    let active = SharedKey::Active(spec.run.clone()).to_string();
    store.objects().put(&active, Bytes::new()).await.unwrap();
    let runs = CoordinatorConfig::new(bench.scratch().to_owned());
    let config = ServiceConfig { owner: "one".to_owned(), lease: Duration::from_secs(1), runs };
    let (service, _) = Service::new(bench.backends.clone(), config);
    let drain = CancellationToken::new();
    let until_it_is_left = async {
        while store.objects().head(&active).await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drain.cancel();
    };
    within(async { tokio::join!(service.run(drain.clone()), until_it_is_left) }).await;
    let counts = bench.backends.progress.counts(&spec.run).await.unwrap();
    assert_eq!((counts.shards, counts.done), (4, 8));
}

#[tokio::test]
async fn verify_holds_the_counters_of_an_ended_run_against_its_markers() {
    let bench = Bench::new();
    let (spec, store) = ended(&bench).await;
    let progress = &bench.backends.progress;
    let problems = async |repair| verify(&bench.backends, &store, &spec, repair).await.unwrap().problems;
    assert_eq!(problems(false).await, [] as [&str; 0], "a run that was forgotten after its end");

    reconcile(&store, &spec, &**progress).await.unwrap();
    assert_eq!(problems(false).await, [] as [&str; 0]);
    let surplus = Counts { shards: 1, done: 2, ..Counts::default() };
    progress.commit(&spec.run, ShardId { round: Round(0), index: 9 }, surplus, &[]).await.unwrap();
    assert!(problems(false).await[0].starts_with("the counters say"));
    assert_eq!(problems(true).await, [] as [&str; 0]);
    assert_eq!(progress.counts(&spec.run).await.unwrap().done, 8);
}
