//! The progress service, call by call.

use std::time::Duration;

use async_trait::async_trait;
use diorama_core::id::{AttemptId, Round, RunId, ShardId};
use diorama_core::outcome::TaskOutcome;
use diorama_core::shards::ShardSet;

use super::Metered;
use crate::progress::{Counted, Counts, Generation, Head, Heartbeat, Holder, Progress, ProgressError, Throughput};

#[async_trait]
impl<S: Progress> Progress for Metered<S> {
    async fn commit(
        &self,
        run: &RunId,
        shard: ShardId,
        counts: Counts,
        failures: &[TaskOutcome],
    ) -> Result<bool, ProgressError> {
        self.time("commit", self.inner.commit(run, shard, counts, failures)).await
    }

    async fn commit_many(&self, run: &RunId, shards: &[(ShardId, Counts)]) -> Result<(), ProgressError> {
        self.time("commit_many", self.inner.commit_many(run, shards)).await
    }

    async fn committed(&self, run: &RunId, round: Round) -> Result<ShardSet, ProgressError> {
        self.time("committed", self.inner.committed(run, round)).await
    }

    async fn counted(&self, run: &RunId) -> Result<Counted, ProgressError> {
        self.time("counted", self.inner.counted(run)).await
    }

    async fn generation(&self, run: &RunId) -> Result<Generation, ProgressError> {
        self.time("generation", self.inner.generation(run)).await
    }

    async fn complete(&self, run: &RunId, generation: &Generation, shards: u64) -> Result<(), ProgressError> {
        self.time("complete", self.inner.complete(run, generation, shards)).await
    }

    async fn hold(&self, run: &RunId, shard: ShardId, holder: &Holder, ttl: Duration) -> Result<(), ProgressError> {
        self.time("hold", self.inner.hold(run, shard, holder, ttl)).await
    }

    async fn release(&self, run: &RunId, shard: ShardId, attempt: &AttemptId) -> Result<(), ProgressError> {
        self.time("release", self.inner.release(run, shard, attempt)).await
    }

    async fn holder(&self, run: &RunId, shard: ShardId) -> Result<Option<Holder>, ProgressError> {
        self.time("holder", self.inner.holder(run, shard)).await
    }

    async fn holders(&self, run: &RunId) -> Result<Vec<(ShardId, Holder)>, ProgressError> {
        self.time("holders", self.inner.holders(run)).await
    }

    async fn heartbeat(&self, heartbeat: &Heartbeat, ttl: Duration) -> Result<(), ProgressError> {
        self.time("heartbeat", self.inner.heartbeat(heartbeat, ttl)).await
    }

    async fn workers(&self) -> Result<Vec<Heartbeat>, ProgressError> {
        self.time("workers", self.inner.workers()).await
    }

    async fn recent_failures(&self, run: &RunId) -> Result<Vec<TaskOutcome>, ProgressError> {
        self.time("recent_failures", self.inner.recent_failures(run)).await
    }

    async fn throughput(&self, run: &RunId) -> Result<Throughput, ProgressError> {
        self.time("throughput", self.inner.throughput(run)).await
    }

    async fn announce(&self, run: &RunId, head: &Head) -> Result<(), ProgressError> {
        self.time("announce", self.inner.announce(run, head)).await
    }

    async fn head(&self, run: &RunId) -> Result<Option<Head>, ProgressError> {
        self.time("head", self.inner.head(run)).await
    }

    async fn claim(
        &self,
        run: &RunId,
        what: &str,
        attempt: &AttemptId,
        ttl: Duration,
    ) -> Result<AttemptId, ProgressError> {
        self.time("claim", self.inner.claim(run, what, attempt, ttl)).await
    }

    async fn lease(&self, name: &str, owner: &str, ttl: Duration) -> Result<bool, ProgressError> {
        self.time("lease", self.inner.lease(name, owner, ttl)).await
    }

    async fn release_lease(&self, name: &str, owner: &str) -> Result<(), ProgressError> {
        self.time("release_lease", self.inner.release_lease(name, owner)).await
    }

    async fn ring(&self) -> Result<(), ProgressError> {
        self.time("ring", self.inner.ring()).await
    }

    async fn rung(&self) -> Result<u64, ProgressError> {
        self.time("rung", self.inner.rung()).await
    }

    async fn forget(&self, run: &RunId) -> Result<(), ProgressError> {
        self.time("forget", self.inner.forget(run)).await
    }

    async fn expire(&self, run: &RunId, after: Duration) -> Result<(), ProgressError> {
        self.time("expire", self.inner.expire(run, after)).await
    }
}
