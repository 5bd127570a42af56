//! Somebody who stands still for longer than a lease and goes on when the run was retried and ended again: whatever he
//! was doing, he changes nothing that was decided meanwhile. And somebody who is told to stop: he does at once.

use diorama_core::round::FailedWhere;
use diorama_protocol::history::Ending;
use tokio::time::Instant;

use super::unkind::{Hook, Hooked, MemoryObjects};
use super::verify::{commit_round, pictures_spec, submit_pictures};
use super::*;
use crate::reopen::reopen;
use crate::{Grace, collect, verify};

/// More than anybody does in these tests before he stands still for the last time.
const ENOUGH: usize = 500;

/// The run goes on until it ends.
async fn end(bench: &Bench, spec: &RunSpec) -> RunEnd {
    let (coordinator, _) = bench.coordinator(|_| ());
    within(coordinator.drive(spec, &CancellationToken::new())).await.unwrap()
}

/// An ended run is retried, and ends again with a picture of every task.
async fn retry_to_the_end(bench: &Bench, spec: &RunSpec) {
    let mut history = bench.history().await;
    reopen(&bench.backends, &bench.store, spec, &mut history, "test", FailedWhere::default()).await.unwrap();
    let rounds = history.rounds().len();
    let work = async {
        while bench.history().await.rounds().len() == rounds {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        commit_round(bench, spec).await;
        for shard in bench.history().await.last_round().unwrap().shard_ids() {
            bench.count(spec, shard).await;
        }
    };
    let (end, ()) = tokio::join!(end(bench, spec), work);
    assert!(matches!(end, RunEnd::Finished(summary) if summary.done == 8));
}

/// Whatever the run ended with the last time is there, whole.
async fn is_whole(bench: &Bench, spec: &RunSpec, place: &str) {
    let found = verify(&bench.backends, &bench.store, spec, &bench.history().await, None).await.unwrap();
    assert_eq!((found.problems, found.done, found.ended), (vec![], 8, true), "{place}");
}

/// `late` stands still before each of its operations in turn; meanwhile the run is ended, retried and ended again.
async fn frozen_anywhere<F: Future<Output = ()> + Send + 'static>(
    ended_before: bool,
    cancelled: bool,
    late: impl Fn(Bench, RunSpec) -> F,
) {
    for format in [OutputFormat::Webdataset, OutputFormat::Files] {
        for number in 0..ENOUGH {
            let place = format!("{format:?}, cancelled: {cancelled}, standing still before operation {number}");
            let objects = Arc::new(MemoryObjects::default());
            let (bench, spec) = (Bench::shared(objects.clone()), pictures_spec(format));
            submit_pictures(&bench, &spec).await;
            match cancelled {
                true => drop(bench.decide(&spec, Act::Cancelled).await.unwrap()),
                false => commit_round(&bench, &spec).await,
            }
            if ended_before {
                end(&bench, &spec).await;
            }
            // What an attempt left behind, so that there is something to remove.
            let left = ObjectKey::Archive(ShardId { round: Round(0), index: 0 }, AttemptId::generate());
            bench.store.objects().put(&bench.store.path(&left), Bytes::new()).await.unwrap();
            objects.grow_old(48);

            let (frozen, gate) = Hooked::frozen_at(objects.clone(), number);
            let mut late = tokio::spawn(late(bench.through(Arc::new(frozen)), spec.clone()));
            let stands_still = tokio::select! {
                biased;
                () = gate.reached() => true,
                done = &mut late => { done.unwrap(); false }
            };
            if !ended_before {
                end(&bench, &spec).await;
            }
            retry_to_the_end(&bench, &spec).await;
            let (history, mut stored) = (bench.history().await, objects.all().clone());
            stored.remove(&bench.store.path(&left));
            if stands_still {
                gate.open();
                within(late).await.unwrap();
            }
            assert_eq!(bench.history().await, history, "{place}");
            for (key, bytes) in &stored {
                assert_eq!(objects.all().get(key), Some(bytes), "{place}: {key}");
            }
            is_whole(&bench, &spec, &place).await;
            if !stands_still {
                break;
            }
            assert!(number + 1 < ENOUGH, "it goes on for ever");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_that_stood_still_anywhere_rewrites_nothing_of_a_run_that_ended_again() {
    for cancelled in [false, true] {
        frozen_anywhere(false, cancelled, |bench, spec| async move {
            let (coordinator, _) = bench.coordinator(|_| ());
            coordinator.drive(&spec, &CancellationToken::new()).await.unwrap();
        })
        .await;
    }
}

/// Opens the round of a retry, and stops.
async fn reopen_and_stop(bench: &Bench, spec: &RunSpec) {
    let mut history = bench.history().await;
    reopen(&bench.backends, &bench.store, spec, &mut history, "test", FailedWhere::default()).await.unwrap();
    let (rounds, stop) = (history.rounds().len(), CancellationToken::new());
    let opened = async {
        while bench.history().await.rounds().len() == rounds {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        stop.cancel();
    };
    let (coordinator, _) = bench.coordinator(|_| ());
    let (end, ()) = tokio::join!(within(coordinator.drive(spec, &stop)), opened);
    assert_eq!(end.unwrap(), RunEnd::Drained);
}

/// What he was about to decide followed from the round before the retry: that it is committed, what is void, how the run
/// ended.
#[tokio::test(start_paused = true)]
async fn a_coordinator_that_stood_still_anywhere_decides_nothing_about_a_retry_that_is_under_way() {
    for (cancelled, ending) in [(false, false), (false, true), (true, false), (true, true)] {
        for number in 0..ENOUGH {
            let place = format!("cancelled: {cancelled}, ending: {ending}, operation {number}");
            let objects = Arc::new(MemoryObjects::default());
            let (bench, spec) = (Bench::shared(objects.clone()), pictures_spec(OutputFormat::Webdataset));
            submit_pictures(&bench, &spec).await;
            match cancelled {
                true => drop(bench.decide(&spec, Act::Cancelled).await.unwrap()),
                false => commit_round(&bench, &spec).await,
            }
            let (frozen, gate) = Hooked::frozen_at(objects.clone(), number);
            let (late, of) = (bench.through(Arc::new(frozen)), spec.clone());
            let mut late = tokio::spawn(async move { end(&late, &of).await });
            tokio::select! {
                biased;
                () = gate.reached() => {}
                _ = &mut late => break,
            }
            end(&bench, &spec).await;
            reopen_and_stop(&bench, &spec).await;
            let begun = Act::EndingBegun { state: RunState::Finished, void: None };
            if ending {
                commit_round(&bench, &spec).await;
                bench.decide(&spec, begun).await.unwrap();
                gate.open();
            } else {
                let history = bench.history().await;
                gate.open();
                tokio::time::sleep(Duration::from_secs(1)).await;
                assert_eq!(bench.history().await, history, "{place}");
                commit_round(&bench, &spec).await;
                for shard in history.last_round().unwrap().shard_ids() {
                    bench.count(&spec, shard).await;
                }
            }
            // He may have seen the first end, and gone home with it.
            within(late).await.unwrap();
            let RunEnd::Finished(summary) = end(&bench, &spec).await else { panic!("finished, {place}") };
            assert_eq!(summary.done, 8, "{place}");
            is_whole(&bench, &spec, &place).await;
            assert!(number + 1 < ENOUGH, "it goes on for ever");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_repair_that_stood_still_anywhere_removes_nothing_of_a_round_that_a_retry_made() {
    frozen_anywhere(true, false, |bench, spec| async move {
        let history = bench.history().await;
        verify(&bench.backends, &bench.store, &spec, &history, Some(Grace(Duration::ZERO))).await.unwrap();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_collection_of_garbage_that_stood_still_anywhere_removes_nothing_that_a_retry_made() {
    frozen_anywhere(true, false, |bench, spec| async move {
        let submitted = diorama_core::key::SharedKey::Submitted(spec.run.clone()).to_string();
        bench.backends.objects.put(&submitted, Bytes::new()).await.unwrap();
        collect(&bench.backends, "test", Grace(Duration::from_secs(3600)), false).await.unwrap();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_run_ends_as_cancelled_wherever_another_coordinator_takes_over() {
    for committed_meanwhile in [false, true] {
        for number in 0..ENOUGH {
            let place = format!("operation {number}, the rest committed meanwhile: {committed_meanwhile}");
            let (bench, spec) = (Bench::shared(Arc::new(MemoryObjects::default())), spec(8, 2));
            bench.submit(&spec).await;
            let commit = async |index| {
                bench.commit(&spec, ShardId { round: Round(0), index }, &(Arc::new(|_, _| done()) as Decide)).await;
            };
            commit(0).await;
            bench.decide(&spec, Act::Cancelled).await.unwrap();
            let (frozen, gate) = Hooked::frozen_at(bench.backends.objects.clone(), number);
            let (late, of) = (bench.through(Arc::new(frozen)), spec.clone());
            let mut late = tokio::spawn(async move { end(&late, &of).await });
            let first = tokio::select! {
                biased;
                () = gate.reached() => None,
                end = &mut late => Some(end.unwrap()),
            };
            if committed_meanwhile {
                for index in 1..4 {
                    commit(index).await;
                }
            }
            let RunEnd::Cancelled(summary) = end(&bench, &spec).await else { panic!("cancelled, {place}") };
            assert_eq!(summary.done + summary.failed, 8, "{place}");
            assert_eq!(bench.history().await.ending().map(|Ending { state, .. }| *state), Some(RunState::Cancelled));
            let found = verify(&bench.backends, &bench.store, &spec, &bench.history().await, None).await.unwrap();
            assert_eq!(found.problems, [] as [&str; 0], "{place}");
            if let Some(first) = first {
                assert_eq!(first, RunEnd::Cancelled(summary));
                break;
            }
            gate.open();
            assert_eq!(within(late).await.unwrap(), RunEnd::Cancelled(summary), "{place}");
            assert!(number + 1 < ENOUGH, "it goes on for ever");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_decision_whose_answer_was_lost_is_known_to_be_ours() {
    let (bench, spec) = (Bench::shared(Arc::new(MemoryObjects::default())), spec(4, 2));
    bench.submit(&spec).await;
    let denied = bench.through(Arc::new(Hooked::denying(bench.backends.objects.clone(), "/decisions/")));
    assert_eq!(denied.decide(&spec, Act::Paused { reason: None }).await.unwrap(), Need::Write);
    assert_eq!(denied.decide(&spec, Act::Resumed).await.unwrap(), Need::Write);
    let RunEnd::Finished(_) = denied.drive(&spec, Arc::new(|_, _| failed(false))).await else { panic!("finished") };
    // Submitted, paused, resumed, ending begun, ended.
    assert_eq!(bench.history().await.decisions(), 5);
    let mut history = denied.history().await;
    reopen(&denied.backends, &denied.store, &spec, &mut history, "test", FailedWhere::default()).await.unwrap();
    assert_eq!(bench.history().await.decisions(), 6);
}

/// Ten thousand shards at 50 ms a request: counting, the look for what is tried again, and the final files take seconds
/// each.
#[tokio::test(start_paused = true)]
async fn a_coordinator_that_is_told_to_stop_does_at_once_wherever_it_is() {
    let (bench, spec) = (Bench::shared(Arc::new(MemoryObjects::default())), spec(10_000, 1));
    bench.submit(&spec).await;
    let round = bench.history().await.rounds()[0].clone();
    let template = {
        let shard = ShardId { round: Round(0), index: 0 };
        bench.commit(&spec, shard, &(Arc::new(|_, _| done()) as Decide)).await;
        bench.store.marker(shard).await.unwrap().unwrap()
    };
    for shard in round.shard_ids().skip(1) {
        let mut marker = CommitMarker { shard, ..template.clone() };
        marker.outcomes[0].task = TaskIndex(u64::from(shard.index));
        bench.backends.commit(&bench.store, marker).await.unwrap();
    }
    let slow: Hook = Box::new(|_, _| Box::pin(tokio::time::sleep(Duration::from_millis(50))));
    let slow = bench.through(Arc::new(Hooked::before(bench.backends.objects.clone(), slow)));
    let (mut drained, mut after) = (0, Duration::from_millis(20));
    loop {
        let drain = CancellationToken::new();
        let (coordinator, _) = slow.coordinator(|config| config.poll = Duration::from_secs(1));
        let told = async {
            tokio::time::sleep(after).await;
            drain.cancel();
            Instant::now()
        };
        let (end, told) = tokio::join!(coordinator.drive(&spec, &drain), told);
        match end.unwrap() {
            RunEnd::Drained => assert!(told.elapsed() < Duration::from_secs(1), "{:?} after {after:?}", told.elapsed()),
            RunEnd::Finished(summary) => break assert_eq!(summary.done, 10_000),
            end => panic!("{end:?}"),
        }
        (drained, after) = (drained + 1, after + Duration::from_millis(800));
    }
    assert!(drained >= 4, "it ended after {drained} drains: nothing was in the middle of anything");
}
