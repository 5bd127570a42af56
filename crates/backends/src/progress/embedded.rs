//! Progress inside one process. Lost with it, and rebuilt from the markers by the next one.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use diorama_core::id::{AttemptId, Round, RunId, ShardId, WorkerId};
use diorama_core::outcome::TaskOutcome;
use diorama_core::shards::ShardSet;
use tokio::time::Instant;

use super::{
    Counted, Counts, Generation, Head, Heartbeat, Holder, Interval, Progress, ProgressError, RECENT_FAILURES,
    THROUGHPUT_INTERVALS, THROUGHPUT_SECONDS, Throughput,
};

/// In-process progress. Clones share it.
#[derive(Clone, Default)]
pub struct EmbeddedProgress {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    runs: HashMap<RunId, Run>,
    workers: BTreeMap<WorkerId, (Heartbeat, Instant)>,
    leases: HashMap<String, (String, Instant)>,
    rung: u64,
}

#[derive(Default)]
struct Run {
    committed: HashMap<Round, ShardSet>,
    counted: Counted,
    generation: Option<Generation>,
    head: Option<Head>,
    holders: BTreeMap<ShardId, (Holder, Instant)>,
    failures: VecDeque<TaskOutcome>,
    throughput: BTreeMap<i64, u64>,
    claims: HashMap<String, (AttemptId, Instant)>,
    forget_at: Option<Instant>,
}

impl Run {
    /// All but the claims, which end by themselves.
    fn forget(&mut self) {
        *self = Self { claims: std::mem::take(&mut self.claims), ..Self::default() };
    }

    fn commit(&mut self, shard: ShardId, counts: Counts, failures: &[TaskOutcome]) -> bool {
        let new = self.committed.entry(shard.round).or_default().insert(shard.index);
        if new {
            self.counted.counts = self.counted.counts.plus(counts);
            self.count_throughput(counts.done);
            self.list_failures(failures);
            self.holders.remove(&shard);
        }
        new
    }

    fn list_failures(&mut self, failures: &[TaskOutcome]) {
        for failure in failures {
            self.failures.push_front(failure.clone());
        }
        self.failures.truncate(RECENT_FAILURES);
    }

    fn count_throughput(&mut self, done: u64) {
        if done == 0 {
            return;
        }
        let now = diorama_core::clock::now().as_second();
        *self.throughput.entry(now - now.rem_euclid(THROUGHPUT_SECONDS)).or_default() += done;
        while self.throughput.len() > THROUGHPUT_INTERVALS {
            self.throughput.pop_first();
        }
    }
}

impl EmbeddedProgress {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_run<T>(&self, run: &RunId, step: impl FnOnce(&mut Run) -> T) -> T {
        let mut state = self.state();
        let known = state.runs.entry(run.clone()).or_default();
        if known.forget_at.is_some_and(|at| at <= Instant::now()) {
            known.forget();
        }
        step(known)
    }
}

/// What of a run a progress service can lose alone: a key of its own there.
#[cfg(any(test, feature = "testing"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Bits and counts.
    State,
    /// How far the log is.
    Head,
    /// Pictures by interval.
    Throughput,
    /// Recent failures.
    Failures,
    /// Who works on what.
    Holders,
    /// Claims.
    Claims,
    /// The bits without the counts: of a service that keeps them apart, as none should.
    Bits,
}

#[cfg(any(test, feature = "testing"))]
impl Part {
    /// Those that there are.
    pub const ALL: [Self; 6] = [Self::State, Self::Head, Self::Throughput, Self::Failures, Self::Holders, Self::Claims];
}

#[cfg(any(test, feature = "testing"))]
impl EmbeddedProgress {
    /// Forgets a part of what is known of the run, as an eviction does.
    pub fn lose(&self, run: &RunId, part: Part) {
        self.with_run(run, |run| match part {
            Part::State => (run.committed, run.counted, run.generation) = Default::default(),
            Part::Head => run.head = None,
            Part::Throughput => run.throughput.clear(),
            Part::Failures => run.failures.clear(),
            Part::Holders => run.holders.clear(),
            Part::Claims => run.claims.clear(),
            Part::Bits => run.committed.clear(),
        });
    }
}

#[async_trait]
impl Progress for EmbeddedProgress {
    async fn commit(
        &self,
        run: &RunId,
        shard: ShardId,
        counts: Counts,
        failures: &[TaskOutcome],
    ) -> Result<bool, ProgressError> {
        Ok(self.with_run(run, |run| run.commit(shard, counts, failures)))
    }

    async fn commit_many(&self, run: &RunId, shards: &[(ShardId, Counts)]) -> Result<(), ProgressError> {
        self.with_run(run, |run| {
            for (shard, counts) in shards {
                run.commit(*shard, *counts, &[]);
            }
        });
        Ok(())
    }

    async fn committed(&self, run: &RunId, round: Round) -> Result<ShardSet, ProgressError> {
        Ok(self.with_run(run, |run| run.committed.get(&round).cloned().unwrap_or_default()))
    }

    async fn counted(&self, run: &RunId) -> Result<Counted, ProgressError> {
        Ok(self.with_run(run, |run| run.counted))
    }

    async fn generation(&self, run: &RunId) -> Result<Generation, ProgressError> {
        Ok(self.with_run(run, |run| run.generation.get_or_insert_with(|| Generation(AttemptId::generate())).clone()))
    }

    async fn complete(&self, run: &RunId, generation: &Generation, shards: u64) -> Result<(), ProgressError> {
        self.with_run(run, |run| {
            let is_this_one = run.generation.as_ref() == Some(generation);
            run.counted.complete |= is_this_one && run.counted.counts.shards >= shards;
        });
        Ok(())
    }

    async fn hold(&self, run: &RunId, shard: ShardId, holder: &Holder, ttl: Duration) -> Result<(), ProgressError> {
        self.with_run(run, |run| {
            if !run.committed.get(&shard.round).is_some_and(|set| set.contains(shard.index)) {
                run.holders.insert(shard, (holder.clone(), Instant::now() + ttl));
            }
        });
        Ok(())
    }

    async fn release(&self, run: &RunId, shard: ShardId, attempt: &AttemptId) -> Result<(), ProgressError> {
        self.with_run(run, |run| {
            if run.holders.get(&shard).is_some_and(|(holder, _)| holder.attempt == *attempt) {
                run.holders.remove(&shard);
            }
        });
        Ok(())
    }

    async fn holder(&self, run: &RunId, shard: ShardId) -> Result<Option<Holder>, ProgressError> {
        let now = Instant::now();
        let living = |run: &mut Run| run.holders.get(&shard).filter(|(_, until)| *until > now).cloned();
        Ok(self.with_run(run, living).map(|(holder, _)| holder))
    }

    async fn holders(&self, run: &RunId) -> Result<Vec<(ShardId, Holder)>, ProgressError> {
        let now = Instant::now();
        Ok(self.with_run(run, |run| {
            run.holders.retain(|_, (_, until)| *until > now);
            run.holders.iter().map(|(shard, (holder, _))| (*shard, holder.clone())).collect()
        }))
    }

    async fn heartbeat(&self, heartbeat: &Heartbeat, ttl: Duration) -> Result<(), ProgressError> {
        let until = Instant::now() + ttl;
        self.state().workers.insert(heartbeat.worker.clone(), (heartbeat.clone(), until));
        Ok(())
    }

    async fn workers(&self) -> Result<Vec<Heartbeat>, ProgressError> {
        let now = Instant::now();
        let mut state = self.state();
        state.workers.retain(|_, (_, until)| *until > now);
        Ok(state.workers.values().map(|(heartbeat, _)| heartbeat.clone()).collect())
    }

    async fn recent_failures(&self, run: &RunId) -> Result<Vec<TaskOutcome>, ProgressError> {
        Ok(self.with_run(run, |run| run.failures.iter().cloned().collect()))
    }

    async fn throughput(&self, run: &RunId) -> Result<Throughput, ProgressError> {
        let interval = |(at, done): (&i64, &u64)| Interval { at: *at, done: *done };
        let intervals = self.with_run(run, |run| run.throughput.iter().map(interval).collect());
        Ok(Throughput { now: diorama_core::clock::now().as_second(), intervals })
    }

    async fn announce(&self, run: &RunId, head: &Head) -> Result<(), ProgressError> {
        self.with_run(run, |run| {
            if run.head.is_none_or(|known| known.decisions <= head.decisions) {
                run.head = Some(*head);
            }
        });
        Ok(())
    }

    async fn head(&self, run: &RunId) -> Result<Option<Head>, ProgressError> {
        Ok(self.with_run(run, |run| run.head))
    }

    async fn claim(
        &self,
        run: &RunId,
        what: &str,
        attempt: &AttemptId,
        ttl: Duration,
    ) -> Result<AttemptId, ProgressError> {
        let now = Instant::now();
        Ok(self.with_run(run, |run| match run.claims.get(what) {
            Some((other, until)) if other != attempt && *until > now => other.clone(),
            _ => {
                run.claims.insert(what.to_owned(), (attempt.clone(), now + ttl));
                attempt.clone()
            }
        }))
    }

    async fn lease(&self, name: &str, owner: &str, ttl: Duration) -> Result<bool, ProgressError> {
        let now = Instant::now();
        let mut state = self.state();
        let free = state.leases.get(name).is_none_or(|(holder, until)| holder == owner || *until <= now);
        if free {
            state.leases.insert(name.to_owned(), (owner.to_owned(), now + ttl));
        }
        Ok(free)
    }

    async fn release_lease(&self, name: &str, owner: &str) -> Result<(), ProgressError> {
        let mut state = self.state();
        if state.leases.get(name).is_some_and(|(holder, _)| holder == owner) {
            state.leases.remove(name);
        }
        Ok(())
    }

    async fn ring(&self) -> Result<(), ProgressError> {
        self.state().rung += 1;
        Ok(())
    }

    async fn rung(&self) -> Result<u64, ProgressError> {
        Ok(self.state().rung)
    }

    async fn expire(&self, run: &RunId, after: Duration) -> Result<(), ProgressError> {
        self.with_run(run, |run| run.forget_at = Some(Instant::now() + after));
        Ok(())
    }

    async fn forget(&self, run: &RunId) -> Result<(), ProgressError> {
        let mut state = self.state();
        if let Some(known) = state.runs.get_mut(run) {
            known.forget();
            if known.claims.is_empty() {
                state.runs.remove(run);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::conformance;

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_shard_committed_many_times_at_once_counts_once() {
        conformance::a_shard_committed_many_times_at_once_counts_once(Arc::new(EmbeddedProgress::default())).await;
    }

    #[tokio::test]
    async fn runs_and_rounds_do_not_mix_and_forget_forgets_one() {
        conformance::runs_and_rounds_do_not_mix_and_forget_forgets_one(&EmbeddedProgress::default()).await;
    }

    #[tokio::test]
    async fn a_holder_is_seen_until_it_releases_commits_or_falls_silent() {
        conformance::a_holder_is_seen_until_it_releases_commits_or_falls_silent(&EmbeddedProgress::default()).await;
    }

    #[tokio::test]
    async fn a_silent_worker_is_forgotten() {
        conformance::a_silent_worker_is_forgotten(&EmbeddedProgress::default()).await;
    }

    #[tokio::test]
    async fn of_many_owners_one_has_the_lease_until_it_gives_it_up_or_falls_silent() {
        conformance::of_many_owners_one_has_the_lease(&EmbeddedProgress::default()).await;
    }

    #[tokio::test]
    async fn of_many_attempts_one_may_commit_until_its_claim_ends() {
        conformance::of_many_attempts_one_may_commit_until_its_claim_ends(&EmbeddedProgress::default()).await;
    }

    #[tokio::test]
    async fn how_far_a_log_is_never_goes_back() {
        conformance::how_far_a_log_is_never_goes_back(&EmbeddedProgress::default()).await;
    }

    #[tokio::test]
    async fn many_shards_at_once_count_like_each_by_itself() {
        conformance::many_shards_at_once_count_like_each_by_itself(&EmbeddedProgress::default()).await;
    }

    #[tokio::test]
    async fn counts_are_complete_in_one_generation() {
        conformance::counts_are_complete_in_one_generation(&EmbeddedProgress::default()).await;
    }

    #[tokio::test]
    async fn the_throughput_adds_up_to_what_was_counted() {
        conformance::the_throughput_adds_up_to_what_was_counted(&EmbeddedProgress::default()).await;
    }

    #[tokio::test]
    async fn an_expired_run_is_forgotten_in_time() {
        conformance::an_expired_run_is_forgotten_in_time(&EmbeddedProgress::default()).await;
    }

    #[tokio::test]
    async fn the_newest_failures_are_kept_and_no_more_than_the_cap() {
        conformance::the_newest_failures_are_kept_and_no_more_than_the_cap(&EmbeddedProgress::default()).await;
    }

    #[tokio::test]
    async fn the_throughput_keeps_the_newest_intervals_and_no_more_than_the_cap() {
        let (progress, run) = (EmbeddedProgress::default(), RunId::new("long").unwrap());
        progress.with_run(&run, |run| run.throughput = (1..=400).map(|interval| (interval * 10, 5)).collect());
        let counts = Counts { shards: 1, done: 60, ..Counts::default() };
        progress.commit(&run, ShardId { round: Round(0), index: 0 }, counts, &[]).await.unwrap();
        let throughput = progress.throughput(&run).await.unwrap().intervals;
        assert_eq!(throughput.len(), THROUGHPUT_INTERVALS);
        assert_eq!((throughput[0].at, throughput[359].done), (420, 60), "the oldest 41 are gone");
    }
}
