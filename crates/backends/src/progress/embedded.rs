//! Progress inside one process. Lost with it, and rebuilt from the markers by the next one.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use diorama_core::id::{AttemptId, Round, RunId, ShardId, WorkerId};
use diorama_core::outcome::TaskOutcome;
use tokio::time::Instant;

use super::{Counts, Heartbeat, Holder, Progress, ProgressError, RECENT_FAILURES, ShardSet};

/// In-process progress. Clones share it.
#[derive(Clone, Default)]
pub struct EmbeddedProgress {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    runs: HashMap<RunId, Run>,
    workers: BTreeMap<WorkerId, (Heartbeat, Instant)>,
}

#[derive(Default)]
struct Run {
    committed: HashMap<Round, ShardSet>,
    counts: Counts,
    holders: BTreeMap<ShardId, (Holder, Instant)>,
    failures: VecDeque<TaskOutcome>,
}

impl EmbeddedProgress {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_run<T>(&self, run: &RunId, step: impl FnOnce(&mut Run) -> T) -> T {
        step(self.state().runs.entry(run.clone()).or_default())
    }
}

#[async_trait]
impl Progress for EmbeddedProgress {
    async fn commit(&self, run: &RunId, shard: ShardId, counts: Counts) -> Result<bool, ProgressError> {
        Ok(self.with_run(run, |run| {
            let new = run.committed.entry(shard.round).or_default().insert(shard.index);
            if new {
                run.counts = run.counts.plus(counts);
                run.holders.remove(&shard);
            }
            new
        }))
    }

    async fn committed(&self, run: &RunId, round: Round) -> Result<ShardSet, ProgressError> {
        Ok(self.with_run(run, |run| run.committed.get(&round).cloned().unwrap_or_default()))
    }

    async fn counts(&self, run: &RunId) -> Result<Counts, ProgressError> {
        Ok(self.with_run(run, |run| run.counts))
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

    async fn report_failures(&self, run: &RunId, failures: &[TaskOutcome]) -> Result<(), ProgressError> {
        self.with_run(run, |run| {
            for failure in failures {
                run.failures.push_front(failure.clone());
            }
            run.failures.truncate(RECENT_FAILURES);
        });
        Ok(())
    }

    async fn recent_failures(&self, run: &RunId) -> Result<Vec<TaskOutcome>, ProgressError> {
        Ok(self.with_run(run, |run| run.failures.iter().cloned().collect()))
    }

    async fn forget(&self, run: &RunId) -> Result<(), ProgressError> {
        self.state().runs.remove(run);
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
    async fn the_newest_failures_are_kept_and_no_more_than_the_cap() {
        conformance::the_newest_failures_are_kept_and_no_more_than_the_cap(&EmbeddedProgress::default()).await;
    }
}
