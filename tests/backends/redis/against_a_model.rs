//! The scripts against the embedded progress as their model: whatever is done, both know the same.

use diorama_backends::progress::embedded::EmbeddedProgress;
use diorama_backends::progress::redis::RedisProgress;
use diorama_backends::progress::{Counts, Progress};
use diorama_core::id::{Round, RunId, ShardId};
use diorama_tests::services::redis::Redis;
use proptest::prelude::*;

use super::{LONG, attempt, connect, failure, holder, run, shard};

#[derive(Debug, Clone)]
enum Step {
    Commit(ShardId, Counts, Vec<u64>),
    Hold(ShardId, u8),
    Release(ShardId, u8),
    Claim(ShardId, u8),
    Lease(u8),
    ReleaseLease(u8),
    Forget,
    Expire,
}

/// Few shards and attempts, so that they meet; one index far away, so that the bits have a gap.
fn any_step() -> impl Strategy<Value = Step> {
    let shards = || (0..3u32, prop_oneof![0..12u32, Just(1000)]).prop_map(|(round, index)| shard(round, index));
    let counts =
        (0..70u64, 0..5u64, 0..5u64).prop_map(|(done, failed, retrying)| Counts { shards: 1, done, failed, retrying });
    let failed = prop::collection::vec(0..1000u64, 0..3);
    prop_oneof![
        8 => (shards(), counts, failed).prop_map(|(shard, counts, failed)| Step::Commit(shard, counts, failed)),
        6 => (shards(), 0..3u8).prop_map(|(shard, attempt)| Step::Hold(shard, attempt)),
        4 => (shards(), 0..3u8).prop_map(|(shard, attempt)| Step::Release(shard, attempt)),
        3 => (shards(), 0..3u8).prop_map(|(shard, attempt)| Step::Claim(shard, attempt)),
        2 => (0..3u8).prop_map(Step::Lease),
        1 => (0..3u8).prop_map(Step::ReleaseLease),
        1 => Just(Step::Forget),
        1 => Just(Step::Expire),
    ]
}

/// Takes the step; what the caller is told.
async fn take(progress: &dyn Progress, run: &RunId, step: &Step) -> String {
    let name = |number: &u8| format!("a{number}");
    match step {
        Step::Commit(shard, counts, failed) => {
            let failures: Vec<_> = failed.iter().map(|task| failure(*task)).collect();
            format!("{:?}", progress.commit(run, *shard, *counts, &failures).await.unwrap())
        }
        Step::Hold(shard, by) => format!("{:?}", progress.hold(run, *shard, &holder(&name(by)), LONG).await.unwrap()),
        Step::Release(shard, by) => {
            format!("{:?}", progress.release(run, *shard, &attempt(&name(by))).await.unwrap())
        }
        Step::Claim(shard, by) => {
            format!("{:?}", progress.claim(run, *shard, &attempt(&name(by)), LONG).await.unwrap())
        }
        Step::Lease(owner) => format!("{:?}", progress.lease(run.as_str(), &name(owner), LONG).await.unwrap()),
        Step::ReleaseLease(owner) => {
            format!("{:?}", progress.release_lease(run.as_str(), &name(owner)).await.unwrap())
        }
        Step::Forget => format!("{:?}", progress.forget(run).await.unwrap()),
        Step::Expire => format!("{:?}", progress.expire(run, LONG).await.unwrap()),
    }
}

/// Everything that can be seen of a run, as text. Throughput without its times, which are two clocks'.
async fn seen(progress: &dyn Progress, run: &RunId) -> String {
    let mut committed = Vec::new();
    for round in 0..4 {
        committed.push(progress.committed(run, Round(round)).await.unwrap());
    }
    let throughput = progress.throughput(run).await.unwrap();
    format!(
        "{:?} {committed:?} {:?} {:?} {}",
        progress.counts(run).await.unwrap(),
        progress.holders(run).await.unwrap(),
        progress.recent_failures(run).await.unwrap(),
        throughput.iter().map(|interval| interval.done).sum::<u64>(),
    )
}

async fn check(redis: &RedisProgress, run: &RunId, steps: &[Step]) -> Result<(), TestCaseError> {
    let model = EmbeddedProgress::default();
    for (number, step) in steps.iter().enumerate() {
        prop_assert_eq!(take(redis, run, step).await, take(&model, run, step).await, "told by step {}", number);
        prop_assert_eq!(seen(redis, run).await, seen(&model, run).await, "seen after step {}", number);
    }
    Ok(())
}

#[test]
fn whatever_is_done_redis_and_the_embedded_progress_know_the_same() {
    let redis = Redis::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let progress = runtime.block_on(connect(&redis));
    let mut config = ProptestConfig::with_cases(96);
    config.failure_persistence = None;
    let case = std::cell::Cell::new(0);
    proptest!(config, |(steps in prop::collection::vec(any_step(), 1..40))| {
        case.set(case.get() + 1);
        runtime.block_on(check(&progress, &run(&format!("case-{}", case.get())), &steps))?;
    });
}
