//! Tasks that kill their workers, and tasks that only stood beside.

use super::*;
use crate::journal::{Journal, Note, note_death};

/// An attempt that began, went task by task up to `last`, and was never heard of again.
async fn silence(bench: &Bench, run: &RunId, name: &str, last: Option<u64>) -> Journal {
    let (store, worker) = (bench.store(run), WorkerId::new("gone").unwrap());
    let mut journal =
        Journal::begin(&store, shard(0), &attempt(name), &worker, Exclusive::ConditionalPut).await.unwrap();
    if let Some(task) = last {
        journal.note(&store, Note::Running(TaskIndex(task))).await.unwrap();
    }
    journal
}

async fn poisoned(bench: &Bench, run: &RunId) -> Vec<u64> {
    let worker = bench.worker("w").await;
    let marker = bench.marker(run).await;
    assert_eq!(worker.end().await.committed, 1);
    let is_poison = |outcome: &Outcome| matches!(outcome, Outcome::Failed(error) if error.code == ErrorCode::Poison);
    marker.outcomes.iter().filter(|outcome| is_poison(&outcome.outcome)).map(|outcome| outcome.task.0).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_blamed_after_two_proven_deaths_and_its_mates_are_made() {
    let bench = Bench::new();
    let run = bench.submit("r", OutputFormat::Webdataset, 4).await;
    for name in ["a", "b"] {
        silence(&bench, &run, name, Some(2)).await;
        note_death(&bench.store(&run), shard(0), &attempt(name)).await.unwrap();
    }
    assert_eq!(poisoned(&bench, &run).await, [2]);
    assert_eq!(bench.made.lock().unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn three_workers_that_stood_still_blame_nobody_and_the_suspected_task_runs_first() {
    let bench = Bench::new();
    let run = bench.submit("r", OutputFormat::Webdataset, 4).await;
    for name in ["a", "b", "c"] {
        silence(&bench, &run, name, Some(2)).await;
    }
    assert!(poisoned(&bench, &run).await.is_empty());
    assert_eq!(*bench.made.lock().unwrap(), ["t2", "t0", "t1", "t3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fourth_silence_blames_the_task_unless_one_of_them_shows_life() {
    for shows_life in [false, true] {
        let bench = Bench::new();
        let run = bench.submit("r", OutputFormat::Webdataset, 4).await;
        for name in ["a", "b", "c"] {
            silence(&bench, &run, name, Some(2)).await;
        }
        let mut fourth = silence(&bench, &run, "d", Some(2)).await;
        if shows_life {
            fourth.note(&bench.store(&run), Note::HandedBack { part: false }).await.unwrap();
        }
        let blamed: &[u64] = if shows_life { &[] } else { &[2] };
        assert_eq!(poisoned(&bench, &run).await, blamed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_attempt_of_a_shard_notes_that_it_begins_in_one_request_and_reads_nothing() {
    let requests: Arc<Mutex<Vec<(&str, String)>>> = Arc::default();
    let noted = requests.clone();
    let bench = Bench::with_rule(Box::new(move |operation, key| {
        noted.lock().unwrap().push((operation, key.to_owned()));
        Fault::None
    }));
    let run = bench.submit("r", OutputFormat::Webdataset, 8).await;
    requests.lock().unwrap().clear();
    let worker = bench.worker("w").await;
    bench.marker(&run).await;
    worker.end().await;
    let requests = requests.lock().unwrap();
    let of = |what: &str| requests.iter().filter(|(_, key)| key.contains(what)).map(|(op, _)| *op).collect::<Vec<_>>();
    assert_eq!(of("/journal/"), ["put_if_absent"]);
    assert_eq!(of("/input/"), ["get"]);
    assert_eq!(of("/shards/"), ["put"]);
    assert!(of("/parts/").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn that_an_attempt_begins_is_noted_before_anything_of_the_shard_is_read() {
    let requests: Arc<Mutex<Vec<String>>> = Arc::default();
    let noted = requests.clone();
    let bench = Bench::with_rule(Box::new(move |_, key| {
        noted.lock().unwrap().push(key.to_owned());
        Fault::None
    }));
    let run = bench.submit("r", OutputFormat::Webdataset, 4).await;
    requests.lock().unwrap().clear();
    let worker = bench.worker("w").await;
    bench.marker(&run).await;
    worker.end().await;
    let requests = requests.lock().unwrap();
    let at = |what: &str| requests.iter().position(|key| key.contains(what)).unwrap();
    assert!(at("/journal/") < at("/input/"), "{requests:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_nobody_lives_to_begin_is_given_up_and_a_healthy_one_is_not() {
    for (deaths, committed, dead) in [(5, 1, 0), (6, 0, 1)] {
        let bench = Bench::new();
        let run = bench.submit("r", OutputFormat::Webdataset, 4).await;
        for name in &["a", "b", "c", "d", "e", "f"][..deaths] {
            silence(&bench, &run, name, None).await;
        }
        let worker = bench.worker("w").await;
        worker.has_ended(1, if dead == 1 { "dead_lettered" } else { "committed" }).await;
        let report = worker.end().await;
        assert_eq!((report.committed, report.dead_lettered), (committed, dead), "{deaths} deaths");
        assert_eq!(bench.depth().await.dead, dead);
    }
}
