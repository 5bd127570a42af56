//! A progress service that is away, or forgets everything, when a test says so.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use diorama_backends::kind::ErrorKind;
use diorama_backends::progress::embedded::EmbeddedProgress;
use diorama_backends::progress::{
    Counted, Counts, Generation, Head, Heartbeat, Holder, Progress, ProgressError, Throughput,
};
use diorama_core::id::{AttemptId, Round, RunId, ShardId};
use diorama_core::outcome::TaskOutcome;
use diorama_core::shards::ShardSet;
use futures::FutureExt;

use crate::tests::spec;

/// Progress in memory, with its moods.
#[derive(Default)]
pub(crate) struct MoodyProgress {
    inner: EmbeddedProgress,
    away: AtomicBool,
    /// Operations that were asked for.
    asked: AtomicUsize,
    /// Before the operation with this number, from 1, it forgets the run of [`spec`].
    forgets_at: usize,
}

impl MoodyProgress {
    /// One that does not answer.
    pub(crate) fn away() -> Self {
        Self { away: AtomicBool::new(true), ..Self::default() }
    }

    /// One that forgets the run of [`spec`] before it does its operation with this number, from 1.
    pub(crate) fn forgetting(forgets_at: usize) -> Self {
        Self { forgets_at, ..Self::default() }
    }

    /// Whether it is away from now on.
    pub(crate) fn be_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    /// Operations that it was asked for.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn asks(&self) -> Result<(), ProgressError> {
        if self.asked.fetch_add(1, Ordering::SeqCst) + 1 == self.forgets_at {
            self.inner.forget(&spec(1, 1).run).now_or_never().expect("memory forgets at once")?;
        }
        if self.away.load(Ordering::SeqCst) {
            return Err(ProgressError::new(ErrorKind::Transient, "asking", "the service is away"));
        }
        Ok(())
    }
}

#[async_trait]
impl Progress for MoodyProgress {
    async fn commit(
        &self,
        run: &RunId,
        shard: ShardId,
        counts: Counts,
        failures: &[TaskOutcome],
    ) -> Result<bool, ProgressError> {
        self.asks()?;
        self.inner.commit(run, shard, counts, failures).await
    }

    async fn commit_many(&self, run: &RunId, shards: &[(ShardId, Counts)]) -> Result<(), ProgressError> {
        self.asks()?;
        self.inner.commit_many(run, shards).await
    }

    async fn committed(&self, run: &RunId, round: Round) -> Result<ShardSet, ProgressError> {
        self.asks()?;
        self.inner.committed(run, round).await
    }

    async fn counted(&self, run: &RunId) -> Result<Counted, ProgressError> {
        self.asks()?;
        self.inner.counted(run).await
    }

    async fn generation(&self, run: &RunId) -> Result<Generation, ProgressError> {
        self.asks()?;
        self.inner.generation(run).await
    }

    async fn complete(&self, run: &RunId, generation: &Generation, shards: u64) -> Result<(), ProgressError> {
        self.asks()?;
        self.inner.complete(run, generation, shards).await
    }

    async fn hold(&self, run: &RunId, shard: ShardId, holder: &Holder, ttl: Duration) -> Result<(), ProgressError> {
        self.asks()?;
        self.inner.hold(run, shard, holder, ttl).await
    }

    async fn release(&self, run: &RunId, shard: ShardId, attempt: &AttemptId) -> Result<(), ProgressError> {
        self.asks()?;
        self.inner.release(run, shard, attempt).await
    }

    async fn holder(&self, run: &RunId, shard: ShardId) -> Result<Option<Holder>, ProgressError> {
        self.asks()?;
        self.inner.holder(run, shard).await
    }

    async fn holders(&self, run: &RunId) -> Result<Vec<(ShardId, Holder)>, ProgressError> {
        self.asks()?;
        self.inner.holders(run).await
    }

    async fn heartbeat(&self, heartbeat: &Heartbeat, ttl: Duration) -> Result<(), ProgressError> {
        self.asks()?;
        self.inner.heartbeat(heartbeat, ttl).await
    }

    async fn workers(&self) -> Result<Vec<Heartbeat>, ProgressError> {
        self.asks()?;
        self.inner.workers().await
    }

    async fn recent_failures(&self, run: &RunId) -> Result<Vec<TaskOutcome>, ProgressError> {
        self.asks()?;
        self.inner.recent_failures(run).await
    }

    async fn throughput(&self, run: &RunId) -> Result<Throughput, ProgressError> {
        self.asks()?;
        self.inner.throughput(run).await
    }

    async fn announce(&self, run: &RunId, head: &Head) -> Result<(), ProgressError> {
        self.asks()?;
        self.inner.announce(run, head).await
    }

    async fn head(&self, run: &RunId) -> Result<Option<Head>, ProgressError> {
        self.asks()?;
        self.inner.head(run).await
    }

    async fn claim(
        &self,
        run: &RunId,
        what: &str,
        attempt: &AttemptId,
        ttl: Duration,
    ) -> Result<AttemptId, ProgressError> {
        self.asks()?;
        self.inner.claim(run, what, attempt, ttl).await
    }

    async fn lease(&self, name: &str, owner: &str, ttl: Duration) -> Result<bool, ProgressError> {
        self.asks()?;
        self.inner.lease(name, owner, ttl).await
    }

    async fn release_lease(&self, name: &str, owner: &str) -> Result<(), ProgressError> {
        self.asks()?;
        self.inner.release_lease(name, owner).await
    }

    async fn ring(&self) -> Result<(), ProgressError> {
        self.asks()?;
        self.inner.ring().await
    }

    async fn rung(&self) -> Result<u64, ProgressError> {
        self.asks()?;
        self.inner.rung().await
    }

    async fn forget(&self, run: &RunId) -> Result<(), ProgressError> {
        self.asks()?;
        self.inner.forget(run).await
    }

    async fn expire(&self, run: &RunId, after: Duration) -> Result<(), ProgressError> {
        self.asks()?;
        self.inner.expire(run, after).await
    }
}
