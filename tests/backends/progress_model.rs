//! Progress against a model that is a few sets and sums: whatever is done, in Redis' scripts and in one process the same
//! is told and the same is seen.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::time::Duration;

use diorama_backends::progress::embedded::EmbeddedProgress;
use diorama_backends::progress::{Counts, Holder, Progress, RECENT_FAILURES};
use diorama_core::id::{Round, RunId, ShardId};
use diorama_core::outcome::TaskOutcome;
use diorama_core::shards::ShardSet;
use diorama_tests::services::redis::Redis;
use proptest::prelude::*;

use crate::redis::{LONG, attempt, connect, failure, holder, run, shard};

/// Rounds that are looked at; in the last one nothing is ever committed.
const ROUNDS: u32 = 4;

#[derive(Debug, Clone)]
enum Step {
    /// A worker tells of a shard, with so many failed tasks; of one that has a marker already, what the marker says.
    Commit(ShardId, Counts, u64),
    Hold(ShardId, u8),
    Release(ShardId, u8),
    Claim(ShardId, u8),
    Lease(u8),
    ReleaseLease(u8),
    Forget,
    /// What `reconcile` does: all is forgotten, and every marker added; this worker tells of its shard in between.
    Reconcile(ShardId, Counts, u64),
    /// The run's end is far away.
    Expire,
    /// The run's end is now.
    End,
}

/// Few shards and attempts, so that they meet; one index far away, so that the bits have a gap.
fn any_step() -> impl Strategy<Value = Step> {
    let shards = || (0..ROUNDS - 1, prop_oneof![0..12u32, Just(1000)]).prop_map(|(round, index)| shard(round, index));
    let counts = || {
        (0..70u64, 0..5u64, 0..5u64)
            .prop_map(|(done, failed, retrying)| Counts::of([1, done, failed, retrying, done / 2, done / 3, done * 2]))
    };
    let failed = || prop_oneof![3 => Just(0), 2 => 0..4u64, 1 => 40..130u64];
    prop_oneof![
        8 => (shards(), counts(), failed()).prop_map(|(shard, counts, failed)| Step::Commit(shard, counts, failed)),
        6 => (shards(), 0..3u8).prop_map(|(shard, attempt)| Step::Hold(shard, attempt)),
        4 => (shards(), 0..3u8).prop_map(|(shard, attempt)| Step::Release(shard, attempt)),
        3 => (shards(), 0..3u8).prop_map(|(shard, attempt)| Step::Claim(shard, attempt)),
        2 => (0..3u8).prop_map(Step::Lease),
        1 => (0..3u8).prop_map(Step::ReleaseLease),
        1 => Just(Step::Forget),
        2 => (shards(), counts(), failed()).prop_map(|(shard, counts, failed)| Step::Reconcile(shard, counts, failed)),
        1 => Just(Step::Expire),
        1 => Just(Step::End),
    ]
}

fn name(number: u8) -> String {
    format!("a{number}")
}

/// What a marker says: the counts, and which tasks failed.
#[derive(Clone)]
struct Marker {
    counts: Counts,
    failed: Range<u64>,
}

impl Marker {
    fn failures(&self) -> Vec<TaskOutcome> {
        self.failed.clone().map(failure).collect()
    }
}

/// What is known of one run.
#[derive(Default)]
struct Known {
    bits: BTreeMap<ShardId, Counts>,
    /// Of every commit that was told, reconciliations included.
    made: u64,
    holders: BTreeMap<ShardId, Holder>,
    failures: VecDeque<u64>,
    claims: BTreeMap<ShardId, u8>,
}

impl Known {
    /// All but the claims.
    fn forget(&mut self) {
        *self = Self { claims: std::mem::take(&mut self.claims), ..Self::default() };
    }

    fn commit(&mut self, shard: ShardId, marker: &Marker) -> bool {
        let new = self.bits.insert(shard, marker.counts).is_none();
        if new {
            self.made += marker.counts.done;
            self.holders.remove(&shard);
            marker.failed.clone().for_each(|task| self.failures.push_front(task));
            self.failures.truncate(RECENT_FAILURES);
        }
        new
    }
}

#[derive(Default)]
struct Model {
    known: Known,
    /// The truth, that nothing is lost of: what was first said of each shard.
    markers: BTreeMap<ShardId, Marker>,
    lease: Option<u8>,
    failed: u64,
}

impl Model {
    /// What the shard's marker says, which is written now where there is none.
    fn marker(&mut self, shard: ShardId, counts: Counts, failed: u64) -> Marker {
        let all = &mut self.failed;
        let new = || {
            *all += failed;
            Marker { counts, failed: *all - failed..*all }
        };
        self.markers.entry(shard).or_insert_with(new).clone()
    }

    /// Takes the step; what the caller is told.
    fn take(&mut self, step: &Step) -> String {
        let known = &mut self.known;
        match step {
            Step::Commit(shard, counts, failed) => {
                let marker = self.marker(*shard, *counts, *failed);
                return self.known.commit(*shard, &marker).to_string();
            }
            Step::Hold(shard, by) => {
                if !known.bits.contains_key(shard) {
                    known.holders.insert(*shard, holder(&name(*by)));
                }
            }
            Step::Release(shard, by) => {
                known.holders.retain(|held, holder| held != shard || holder.attempt != attempt(&name(*by)));
            }
            Step::Claim(shard, by) => return name(*known.claims.entry(*shard).or_insert(*by)),
            Step::Lease(owner) => return (*self.lease.get_or_insert(*owner) == *owner).to_string(),
            Step::ReleaseLease(owner) => self.lease = self.lease.filter(|holder| holder != owner),
            Step::Forget | Step::End => known.forget(),
            Step::Reconcile(shard, counts, failed) => {
                let marker = self.marker(*shard, *counts, *failed);
                self.known.forget();
                self.known.commit(*shard, &marker);
                for (shard, marker) in &self.markers {
                    self.known.commit(*shard, marker);
                }
            }
            Step::Expire => {}
        }
        String::new()
    }

    /// Everything that can be seen, as text.
    fn seen(&self) -> String {
        let committed: Vec<_> = (0..ROUNDS)
            .map(|round| {
                let mut set = ShardSet::default();
                for shard in self.known.bits.keys().filter(|shard| shard.round == Round(round)) {
                    set.insert(shard.index);
                }
                set
            })
            .collect();
        let counts = self.known.bits.values().fold(Counts::default(), |sum, counts| sum.plus(*counts));
        let holders: Vec<_> = self.known.holders.iter().collect();
        let failures: Vec<_> = self.known.failures.iter().map(|task| failure(*task)).collect();
        format!("{counts:?} {committed:?} {holders:?} {failures:?} {}", self.known.made)
    }
}

/// Takes the step that the model has taken; what the caller is told.
async fn take(progress: &dyn Progress, run: &RunId, step: &Step, model: &Model) -> String {
    match step {
        Step::Commit(shard, ..) => {
            let marker = &model.markers[shard];
            return progress.commit(run, *shard, marker.counts, &marker.failures()).await.unwrap().to_string();
        }
        Step::Hold(shard, by) => progress.hold(run, *shard, &holder(&name(*by)), LONG).await.unwrap(),
        Step::Release(shard, by) => progress.release(run, *shard, &attempt(&name(*by))).await.unwrap(),
        Step::Claim(shard, by) => {
            return progress.claim(run, &shard.to_string(), &attempt(&name(*by)), LONG).await.unwrap().to_string();
        }
        Step::Lease(owner) => return progress.lease(run.as_str(), &name(*owner), LONG).await.unwrap().to_string(),
        Step::ReleaseLease(owner) => progress.release_lease(run.as_str(), &name(*owner)).await.unwrap(),
        Step::Forget => progress.forget(run).await.unwrap(),
        Step::Reconcile(shard, ..) => {
            progress.forget(run).await.unwrap();
            let own = &model.markers[shard];
            progress.commit(run, *shard, own.counts, &own.failures()).await.unwrap();
            for (shard, marker) in &model.markers {
                progress.commit(run, *shard, marker.counts, &marker.failures()).await.unwrap();
            }
        }
        Step::Expire => progress.expire(run, LONG).await.unwrap(),
        Step::End => progress.expire(run, Duration::ZERO).await.unwrap(),
    }
    String::new()
}

/// What can be seen, as the model says it. Throughput without its times, which the model does not have.
async fn seen(progress: &dyn Progress, run: &RunId) -> String {
    let mut committed = Vec::new();
    for round in 0..ROUNDS {
        committed.push(progress.committed(run, Round(round)).await.unwrap());
    }
    let counts = progress.counted(run).await.unwrap().counts;
    let holders = progress.holders(run).await.unwrap();
    let holders: Vec<_> = holders.iter().map(|(shard, holder)| (shard, holder)).collect();
    let failures = progress.recent_failures(run).await.unwrap();
    let made: u64 = progress.throughput(run).await.unwrap().intervals.iter().map(|interval| interval.done).sum();
    format!("{counts:?} {committed:?} {holders:?} {failures:?} {made}")
}

async fn check(progress: &dyn Progress, run: &RunId, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut model = Model::default();
    for (number, step) in steps.iter().enumerate() {
        let told = model.take(step);
        prop_assert_eq!(take(progress, run, step, &model).await, told, "told by step {}", number);
        prop_assert_eq!(seen(progress, run).await, model.seen(), "seen after step {}", number);
    }
    Ok(())
}

fn with_cases(cases: u32) -> ProptestConfig {
    let mut config = ProptestConfig::with_cases(cases);
    config.failure_persistence = None;
    config
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn whatever_is_done_the_embedded_progress_knows_what_the_model_knows() {
    let runtime = runtime();
    proptest!(with_cases(512), |(steps in prop::collection::vec(any_step(), 1..60))| {
        runtime.block_on(check(&EmbeddedProgress::default(), &run("case"), &steps))?;
    });
}

#[test]
fn whatever_is_done_redis_knows_what_the_model_knows() {
    let redis = Redis::start();
    let runtime = runtime();
    let progress = runtime.block_on(connect(&redis));
    let case = std::cell::Cell::new(0);
    proptest!(with_cases(96), |(steps in prop::collection::vec(any_step(), 1..40))| {
        case.set(case.get() + 1);
        runtime.block_on(check(&progress, &run(&format!("case-{}", case.get())), &steps))?;
    });
}
