//! What every progress service must hold. Each function takes an empty one and panics where a guarantee is broken.

use std::sync::Arc;
use std::time::Duration;

use diorama_core::id::{AttemptId, CustomId, Pool, Round, RunId, Seed, ShardId, TaskIndex, WorkerId};
use diorama_core::outcome::{ErrorCode, Outcome, TaskError, TaskOutcome};
use diorama_core::run::{ModelIdentity, RunState};

use super::{
    Counted, Counts, Head, Heartbeat, Holder, Progress, RECENT_FAILURES, THROUGHPUT_SECONDS, Vitals, WorkerState,
};

const LONG: Duration = Duration::from_secs(600);

fn run(name: &str) -> RunId {
    RunId::new(name).unwrap()
}

fn shard(round: u32, index: u32) -> ShardId {
    ShardId { round: Round(round), index }
}

fn holder(attempt: &str) -> Holder {
    Holder { worker: WorkerId::new("w").unwrap(), attempt: AttemptId::new(attempt).unwrap(), done: 3, failed: 1 }
}

/// The 0→1 rule under contention: of many commits of one shard exactly one is told that it was the first.
pub async fn a_shard_committed_many_times_at_once_counts_once(progress: Arc<dyn Progress>) {
    let run = run("once");
    let counts = Counts { shards: 1, done: 60, failed: 3, retrying: 1, accepted: 40, kept: 20, tries: 70 };
    for index in 0..20 {
        let commits: Vec<_> = (0..8)
            .map(|_| {
                let (progress, run) = (progress.clone(), run.clone());
                tokio::spawn(async move { progress.commit(&run, shard(0, index), counts, &[]).await.unwrap() })
            })
            .collect();
        let mut first = 0;
        for commit in commits {
            first += u32::from(commit.await.unwrap());
        }
        assert_eq!(first, 1);
    }
    let total = counts_of(&*progress, &run).await;
    assert_eq!(total, Counts::of([20, 1200, 60, 20, 800, 400, 1400]));
    let committed = progress.committed(&run, Round(0)).await.unwrap();
    assert_eq!(committed.len(), 20);
    assert!((0..20).all(|index| committed.contains(index)) && !committed.contains(20));
}

/// Bits and counts are kept by run, bits by round as well.
pub async fn runs_and_rounds_do_not_mix_and_forget_forgets_one(progress: &dyn Progress) {
    let (a, b) = (run("a"), run("b"));
    let counts = Counts { shards: 1, done: 1, ..Counts::default() };
    assert!(progress.commit(&a, shard(0, 9), counts, &[]).await.unwrap());
    assert!(progress.commit(&a, shard(1, 9), counts, &[]).await.unwrap());
    assert!(progress.commit(&b, shard(0, 9), counts, &[]).await.unwrap());
    assert!(!progress.commit(&b, shard(0, 9), counts, &[]).await.unwrap());
    assert_eq!(counts_of(progress, &a).await.done, 2);
    assert!(progress.committed(&a, Round(2)).await.unwrap().is_empty());
    progress.forget(&a).await.unwrap();
    assert_eq!(counts_of(progress, &a).await, Counts::default());
    assert!(progress.committed(&a, Round(0)).await.unwrap().is_empty());
    assert_eq!(counts_of(progress, &b).await.done, 1);
}

/// Holders: renewed by holding again, gone after release, commit or their time to live; a late hold of a committed
/// shard and a release by another attempt change nothing.
pub async fn a_holder_is_seen_until_it_releases_commits_or_falls_silent(progress: &dyn Progress) {
    let run = run("held");
    progress.hold(&run, shard(0, 1), &holder("one"), LONG).await.unwrap();
    progress.hold(&run, shard(0, 1), &Holder { done: 4, ..holder("one") }, LONG).await.unwrap();
    progress.hold(&run, shard(0, 2), &holder("two"), LONG).await.unwrap();
    progress.hold(&run, shard(0, 3), &holder("three"), Duration::from_millis(20)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let holders = progress.holders(&run).await.unwrap();
    assert_eq!(holders, [(shard(0, 1), Holder { done: 4, ..holder("one") }), (shard(0, 2), holder("two"))]);

    assert_eq!(progress.holder(&run, shard(0, 2)).await.unwrap(), Some(holder("two")));
    assert_eq!(progress.holder(&run, shard(0, 3)).await.unwrap(), None, "it fell silent");
    assert_eq!(progress.holder(&run, shard(0, 4)).await.unwrap(), None);

    progress.release(&run, shard(0, 1), &holder("other").attempt).await.unwrap();
    assert_eq!(progress.holders(&run).await.unwrap().len(), 2);
    progress.release(&run, shard(0, 1), &holder("one").attempt).await.unwrap();
    progress.commit(&run, shard(0, 2), Counts::default(), &[]).await.unwrap();
    progress.hold(&run, shard(0, 2), &holder("two"), LONG).await.unwrap();
    assert_eq!(progress.holders(&run).await.unwrap(), []);
}

/// Workers appear with their heartbeat and disappear without it.
pub async fn a_silent_worker_is_forgotten(progress: &dyn Progress) {
    let heartbeat = |worker: &str, state: WorkerState| Heartbeat {
        vitals: Vitals { device_share: Some(0.5), memory_bytes: Some(1 << 30), ..Vitals::default() },
        worker: WorkerId::new(worker).unwrap(),
        pool: Pool::new("default").unwrap(),
        state,
        model: "demo".to_owned(),
        identity: ModelIdentity { sha256: "0123".to_owned(), dtype: "f32".to_owned(), networks: Default::default() },
        device: "cpu".to_owned(),
        done: 12,
    };
    progress.heartbeat(&heartbeat("silent", WorkerState::Idle), Duration::from_millis(20)).await.unwrap();
    progress.heartbeat(&heartbeat("b", WorkerState::Idle), LONG).await.unwrap();
    progress.heartbeat(&heartbeat("a", WorkerState::Idle), LONG).await.unwrap();
    progress.heartbeat(&heartbeat("a", WorkerState::Working), LONG).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(
        progress.workers().await.unwrap(),
        [heartbeat("a", WorkerState::Working), heartbeat("b", WorkerState::Idle)]
    );
}

/// Recent failures come with their shard, once however often it is committed; they are capped and the newest stay.
pub async fn the_newest_failures_are_kept_and_no_more_than_the_cap(progress: &dyn Progress) {
    let run = run("failures");
    let failure = |index: u64| TaskOutcome {
        task: TaskIndex(index),
        custom_id: CustomId::new(format!("t{index}")).unwrap(),
        seed: Seed::new(index).unwrap(),
        outcome: Outcome::Failed(TaskError::permanent(ErrorCode::NoSubject, "no noun")),
        extra: Default::default(),
    };
    let counts = Counts { shards: 1, failed: 10, ..Counts::default() };
    for index in 0..15 {
        let start = u64::from(index) * 10;
        let failures: Vec<_> = (start..start + 10).map(failure).collect();
        for _ in 0..2 {
            progress.commit(&run, shard(0, index), counts, &failures).await.unwrap();
        }
    }
    let recent = progress.recent_failures(&run).await.unwrap();
    assert_eq!(recent, (150 - RECENT_FAILURES as u64..150).rev().map(failure).collect::<Vec<_>>());
}

/// A lease has one owner, who may renew it; it is free after it was given up or not renewed, and names do not mix.
pub async fn of_many_owners_one_has_the_lease(progress: &dyn Progress) {
    assert!(progress.lease("pump", "a", LONG).await.unwrap());
    assert!(progress.lease("pump", "a", LONG).await.unwrap(), "an owner may renew");
    assert!(!progress.lease("pump", "b", LONG).await.unwrap());
    assert!(progress.lease("other", "b", LONG).await.unwrap());
    progress.release_lease("pump", "b").await.unwrap();
    assert!(!progress.lease("pump", "b", LONG).await.unwrap(), "only its owner gives it up");
    progress.release_lease("pump", "a").await.unwrap();
    assert!(progress.lease("pump", "b", Duration::from_millis(20)).await.unwrap());
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(progress.lease("pump", "a", LONG).await.unwrap(), "a silent owner loses it");
}

/// A claim has one attempt, which may renew it, until it is not renewed in time; whatever else is forgotten of the run.
pub async fn of_many_attempts_one_may_commit_until_its_claim_ends(progress: &dyn Progress) {
    let (run, a, b) = (run("claims"), AttemptId::new("a").unwrap(), AttemptId::new("b").unwrap());
    let (marker, other) = ("commits/r0-000001.json", "commits/r0-000002.json");
    assert_eq!(progress.claim(&run, marker, &a, LONG).await.unwrap(), a);
    assert_eq!(progress.claim(&run, marker, &b, LONG).await.unwrap(), a);
    progress.forget(&run).await.unwrap();
    progress.expire(&run, Duration::ZERO).await.unwrap();
    assert_eq!(progress.claim(&run, marker, &b, LONG).await.unwrap(), a);
    assert_eq!(progress.claim(&run, other, &b, LONG).await.unwrap(), b, "objects do not mix");
    assert_eq!(progress.claim(&run, marker, &a, Duration::from_millis(20)).await.unwrap(), a);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(progress.claim(&run, marker, &b, LONG).await.unwrap(), b);
}

/// How far a log is never goes back, and what is said of the same length anew counts.
pub async fn how_far_a_log_is_never_goes_back(progress: &dyn Progress) {
    let run = run("head");
    let head = |decisions, state, gives_way| Head { decisions, state, gives_way };
    assert_eq!(progress.head(&run).await.unwrap(), None);
    progress.announce(&run, &head(2, RunState::Paused, false)).await.unwrap();
    progress.announce(&run, &head(1, RunState::Running, false)).await.unwrap();
    assert_eq!(progress.head(&run).await.unwrap(), Some(head(2, RunState::Paused, false)));
    progress.announce(&run, &head(10, RunState::Running, false)).await.unwrap();
    progress.announce(&run, &head(10, RunState::Running, true)).await.unwrap();
    assert_eq!(progress.head(&run).await.unwrap(), Some(head(10, RunState::Running, true)));
    progress.forget(&run).await.unwrap();
    assert_eq!(progress.head(&run).await.unwrap(), None);
}

/// Many shards at once count like each by itself, across the borders of whatever they are kept in.
pub async fn many_shards_at_once_count_like_each_by_itself(progress: &dyn Progress) {
    let run = run("many");
    let one = Counts { shards: 1, done: 1, failed: 2, retrying: 3, accepted: 1, kept: 0, tries: 4 };
    let indices = [0, 7, 8, 8191, 8192, 20_000];
    let shards: Vec<_> = indices.iter().map(|index| (shard(1, *index), one)).collect();
    progress.commit(&run, shard(1, 8192), one, &[]).await.unwrap();
    for _ in 0..2 {
        progress.commit_many(&run, &shards).await.unwrap();
    }
    assert!(!progress.commit(&run, shard(1, 8191), one, &[]).await.unwrap());
    let counted = progress.counted(&run).await.unwrap();
    assert_eq!(counted.counts, Counts::of([6, 6, 12, 18, 6, 0, 24]));
    assert!(!counted.complete);
    assert_eq!(progress.committed(&run, Round(1)).await.unwrap().iter().collect::<Vec<_>>(), indices);
    assert!(progress.committed(&run, Round(0)).await.unwrap().is_empty());
}

/// That the counts are complete is known of their generation: it is not said of one that began with another, or lost
/// some, and is lost with them.
pub async fn counts_are_complete_in_one_generation(progress: &dyn Progress) {
    let (run, other) = (run("complete"), run("another"));
    let one = Counts { shards: 1, done: 1, ..Counts::default() };
    let is_complete = || async { progress.counted(&run).await.unwrap().complete };
    let first = progress.generation(&run).await.unwrap();
    progress.commit_many(&run, &[(shard(0, 0), one), (shard(0, 1), one)]).await.unwrap();
    assert_eq!(progress.generation(&run).await.unwrap(), first, "counting begins no other");
    assert_ne!(progress.generation(&other).await.unwrap(), first);
    progress.complete(&run, &first, 3).await.unwrap();
    assert!(!is_complete().await, "one of three was lost meanwhile");
    progress.complete(&run, &first, 2).await.unwrap();
    assert!(is_complete().await);

    progress.forget(&run).await.unwrap();
    assert_eq!(progress.counted(&run).await.unwrap(), Counted::default());
    progress.commit_many(&run, &[(shard(0, 0), one), (shard(0, 2), one)]).await.unwrap();
    progress.complete(&run, &first, 2).await.unwrap();
    assert!(!is_complete().await, "none has begun since");
    let second = progress.generation(&run).await.unwrap();
    progress.complete(&run, &first, 2).await.unwrap();
    assert!(!is_complete().await, "it was said of the generation before");
    progress.complete(&run, &second, 2).await.unwrap();
    assert!(is_complete().await);
}

async fn counts_of(progress: &dyn Progress, run: &RunId) -> Counts {
    progress.counted(run).await.unwrap().counts
}

/// The intervals begin at multiples of their length, rise, and hold what was counted, once.
pub async fn the_throughput_adds_up_to_what_was_counted(progress: &dyn Progress) {
    let run = run("throughput");
    let counts = Counts { shards: 1, done: 7, failed: 1, ..Counts::default() };
    for index in [0, 1, 1, 2, 0] {
        progress.commit(&run, shard(0, index), counts, &[]).await.unwrap();
    }
    let throughput = progress.throughput(&run).await.unwrap();
    let (now, throughput) = (throughput.now, throughput.intervals);
    assert!(throughput.iter().all(|interval| interval.at <= now));
    assert_eq!(throughput.iter().map(|interval| interval.done).sum::<u64>(), 21);
    assert!(throughput.iter().all(|interval| interval.at % THROUGHPUT_SECONDS == 0));
    assert!(throughput.is_sorted_by(|a, b| a.at < b.at));
}

/// A run that expires is as it was before anything was known of it; others stay.
pub async fn an_expired_run_is_forgotten_in_time(progress: &dyn Progress) {
    let (ended, other) = (run("ended"), run("other"));
    let counts = Counts { shards: 1, done: 7, ..Counts::default() };
    for run in [&ended, &other] {
        progress.commit(run, shard(0, 0), counts, &[]).await.unwrap();
    }
    progress.expire(&ended, LONG).await.unwrap();
    assert_eq!(counts_of(progress, &ended).await, counts);
    progress.expire(&ended, Duration::from_millis(20)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(counts_of(progress, &ended).await, Counts::default());
    assert!(progress.committed(&ended, Round(0)).await.unwrap().is_empty());
    assert_eq!(progress.throughput(&ended).await.unwrap().intervals, []);
    assert_eq!(counts_of(progress, &other).await, counts);
}
