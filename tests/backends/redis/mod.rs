//! Progress over a real Redis.

mod outages;
mod refusals;
mod transport;

use std::sync::Arc;
use std::time::Duration;

use diorama_backends::progress::redis::{RedisConfig, RedisProgress};
use diorama_backends::progress::{Counts, Head, Holder, Progress, conformance};
use diorama_core::id::{AttemptId, CustomId, Round, RunId, Seed, ShardId, TaskIndex, WorkerId};
use diorama_core::outcome::{ErrorCode, Outcome, TaskError, TaskOutcome};
use diorama_core::run::RunState;
use diorama_tests::services::redis::Redis;

pub(crate) const LONG: Duration = Duration::from_secs(600);

const HEAD: Head = Head { decisions: 3, state: RunState::Running, gives_way: false };

const ONE: Counts = Counts { shards: 1, done: 60, failed: 3, retrying: 1, accepted: 50, kept: 10, tries: 70 };

fn config(redis: &Redis) -> RedisConfig {
    RedisConfig::new(redis.url().into())
}

pub(crate) async fn connect(redis: &Redis) -> RedisProgress {
    RedisProgress::connect(&config(redis)).await.unwrap()
}

pub(crate) fn run(name: &str) -> RunId {
    RunId::new(name).unwrap()
}

pub(crate) fn shard(round: u32, index: u32) -> ShardId {
    ShardId { round: Round(round), index }
}

pub(crate) fn attempt(name: &str) -> AttemptId {
    AttemptId::new(name).unwrap()
}

pub(crate) fn holder(name: &str) -> Holder {
    Holder { worker: WorkerId::new("w").unwrap(), attempt: attempt(name), done: 3, failed: 1 }
}

pub(crate) fn failure(index: u64) -> TaskOutcome {
    TaskOutcome {
        task: TaskIndex(index),
        custom_id: CustomId::new(format!("t{index}")).unwrap(),
        seed: Seed::new(index).unwrap(),
        outcome: Outcome::Failed(TaskError::permanent(ErrorCode::NoSubject, "no noun")),
        extra: Default::default(),
    }
}

/// Writes something of every kind that is kept of a run.
async fn write_everything(progress: &dyn Progress, run: &RunId) {
    for round in 0..3 {
        progress.commit(run, shard(round, 7), ONE, &[failure(1)]).await.unwrap();
    }
    progress.hold(run, shard(0, 1), &holder("a"), LONG).await.unwrap();
    progress.claim(run, "commits/r0-000001.json", &attempt("a"), LONG).await.unwrap();
    progress.announce(run, &HEAD).await.unwrap();
    let generation = progress.generation(run).await.unwrap();
    progress.complete(run, &generation, 3).await.unwrap();
}

/// Whether the key fences a write; whatever is forgotten of the run, it stays until it ends by itself.
fn is_claim(key: &str) -> bool {
    key.contains("}:claim:")
}

/// The keys of a run, by a search that the program itself never makes.
fn keys_of(redis: &Redis, run: &RunId) -> Vec<String> {
    redis.ask(&["KEYS", &format!("*{run}*")]).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_shard_committed_many_times_at_once_counts_once() {
    let redis = Redis::start();
    conformance::a_shard_committed_many_times_at_once_counts_once(Arc::new(connect(&redis).await)).await;
}

#[tokio::test]
async fn runs_and_rounds_do_not_mix_and_forget_forgets_one() {
    let redis = Redis::start();
    conformance::runs_and_rounds_do_not_mix_and_forget_forgets_one(&connect(&redis).await).await;
}

#[tokio::test]
async fn a_holder_is_seen_until_it_releases_commits_or_falls_silent() {
    let redis = Redis::start();
    conformance::a_holder_is_seen_until_it_releases_commits_or_falls_silent(&connect(&redis).await).await;
}

#[tokio::test]
async fn a_silent_worker_is_forgotten() {
    let redis = Redis::start();
    conformance::a_silent_worker_is_forgotten(&connect(&redis).await).await;
}

#[tokio::test]
async fn of_many_owners_one_has_the_lease_until_it_gives_it_up_or_falls_silent() {
    let redis = Redis::start();
    conformance::of_many_owners_one_has_the_lease(&connect(&redis).await).await;
}

#[tokio::test]
async fn of_many_attempts_one_may_commit_until_its_claim_ends() {
    let redis = Redis::start();
    conformance::of_many_attempts_one_may_commit_until_its_claim_ends(&connect(&redis).await).await;
}

#[tokio::test]
async fn the_throughput_adds_up_to_what_was_counted() {
    let redis = Redis::start();
    conformance::the_throughput_adds_up_to_what_was_counted(&connect(&redis).await).await;
}

#[tokio::test]
async fn an_expired_run_is_forgotten_in_time() {
    let redis = Redis::start();
    conformance::an_expired_run_is_forgotten_in_time(&connect(&redis).await).await;
}

#[tokio::test]
async fn the_newest_failures_are_kept_and_no_more_than_the_cap() {
    let redis = Redis::start();
    conformance::the_newest_failures_are_kept_and_no_more_than_the_cap(&connect(&redis).await).await;
}

#[tokio::test]
async fn the_throughput_keeps_the_newest_intervals_and_no_more_than_the_cap() {
    let redis = Redis::start();
    let progress = connect(&redis).await;
    let run = run("long");
    let mut old = vec!["HSET".to_owned(), format!("diorama:{{{run}}}:throughput")];
    old.extend((1..=400).flat_map(|interval| [(interval * 10).to_string(), "5".to_owned()]));
    redis.ask(&old.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    progress.commit(&run, shard(0, 0), ONE, &[]).await.unwrap();

    let throughput = progress.throughput(&run).await.unwrap().intervals;
    assert_eq!(throughput.len(), 360);
    assert_eq!(throughput[0].at, 420, "the oldest 41 are gone");
    assert_eq!(throughput[359].done, 60);
}

#[tokio::test]
async fn all_keys_of_a_run_share_one_slot_and_none_lives_for_ever() {
    let redis = Redis::start();
    let progress = connect(&redis).await;
    let run = run("slots");
    write_everything(&progress, &run).await;
    let keys = keys_of(&redis, &run);
    assert_eq!(keys.len(), 7, "{keys:?}");
    let slot = redis.ask(&["CLUSTER", "KEYSLOT", &format!("{{{run}}}")]).unwrap();
    for key in &keys {
        assert_eq!(redis.ask(&["CLUSTER", "KEYSLOT", key]).unwrap(), slot, "{key}");
        let left: i64 = redis.ask(&["TTL", key]).unwrap()[0].parse().unwrap();
        let lives = if is_claim(key) { 1..=600 } else { 29 * 24 * 3600..=30 * 24 * 3600 };
        assert!(lives.contains(&left), "{key} lives for {left} s");
    }
}

#[tokio::test]
async fn what_is_written_after_the_end_was_set_does_not_outlive_it() {
    let redis = Redis::start();
    let progress = connect(&redis).await;
    let run = run("ended");
    write_everything(&progress, &run).await;
    progress.expire(&run, LONG).await.unwrap();
    for round in 0..4 {
        progress.commit(&run, shard(round, 8), ONE, &[]).await.unwrap();
    }
    write_everything(&progress, &run).await;
    for key in keys_of(&redis, &run) {
        let left: i64 = redis.ask(&["TTL", &key]).unwrap()[0].parse().unwrap();
        assert!((1..=600).contains(&left), "{key} lives for {left} s");
    }
}

#[tokio::test]
async fn a_forgotten_run_leaves_no_key_but_claims() {
    let redis = Redis::start();
    let progress = connect(&redis).await;
    let (gone, stays) = (run("gone"), run("stays"));
    write_everything(&progress, &gone).await;
    write_everything(&progress, &stays).await;
    progress.expire(&gone, LONG).await.unwrap();
    progress.forget(&gone).await.unwrap();
    let left = keys_of(&redis, &gone);
    assert!(left.len() == 1 && is_claim(&left[0]), "{left:?}");
    assert_eq!(keys_of(&redis, &stays).len(), 7);
}

#[tokio::test]
async fn how_far_a_log_is_never_goes_back() {
    let redis = Redis::start();
    conformance::how_far_a_log_is_never_goes_back(&connect(&redis).await).await;
}

#[tokio::test]
async fn many_shards_at_once_count_like_each_by_itself() {
    let redis = Redis::start();
    conformance::many_shards_at_once_count_like_each_by_itself(&connect(&redis).await).await;
}

#[tokio::test]
async fn counts_are_complete_in_one_generation() {
    let redis = Redis::start();
    conformance::counts_are_complete_in_one_generation(&connect(&redis).await).await;
}

/// What is evicted takes everything with it that has to agree with it: what is left claims no more than it holds.
#[tokio::test]
async fn whichever_key_or_two_are_lost_what_is_left_agrees_with_itself() {
    let redis = Redis::start();
    let progress = connect(&redis).await;
    let name = run("evicted");
    write_everything(&progress, &name).await;
    let keys = keys_of(&redis, &name);
    for (at, first) in keys.iter().enumerate() {
        for second in &keys[at..] {
            progress.forget(&name).await.unwrap();
            write_everything(&progress, &name).await;
            redis.ask(&["DEL", first, second]).unwrap();
            for told in [0, 1] {
                let counted = progress.counted(&name).await.unwrap();
                let mut bits = 0;
                for round in 0..3 {
                    bits += progress.committed(&name, Round(round)).await.unwrap().len();
                }
                assert_eq!(counted.counts.shards, bits, "{first} and {second}, told {told} times");
                assert_eq!(counted.counts.done, bits * ONE.done, "{first} and {second}, told {told} times");
                assert!(!counted.complete || bits == 3, "{first} and {second}: it says that this is all");
                // Who tells of a shard that was told before adds it once, where it was lost.
                progress.commit(&name, shard(1, 7), ONE, &[]).await.unwrap();
            }
        }
    }
}
