//! The progress service, as a node sees it.

use std::time::Duration;

use async_trait::async_trait;
use diorama_backends::kind::ErrorKind;
use diorama_backends::progress::embedded::{EmbeddedProgress, Part};
use diorama_backends::progress::{
    Counted, Counts, Generation, Head, Heartbeat, Holder, Progress, ProgressError, Throughput,
};
use diorama_core::id::{AttemptId, Round, RunId, ShardId};
use diorama_core::outcome::TaskOutcome;
use diorama_core::shards::ShardSet;
use diorama_protocol::mutant::{Mutant, is_back};

use crate::node::{Node, Service};
use crate::world::{Fate, World};

fn away() -> ProgressError {
    ProgressError::new(ErrorKind::Transient, "asking", "simulated")
}

impl Node {
    async fn begins(&self) -> Fate {
        let fate = self.call(Service::Progress).await;
        if self.world.chaos().progress_away { Fate::Refused } else { fate }
    }

    /// A call that changes nothing. Nobody asks a service that takes nothing.
    async fn reads<T>(&self, read: impl Future<Output = Result<T, ProgressError>> + Send) -> Result<T, ProgressError> {
        if self.world.chaos().progress_away && is_back(Mutant::DeafIsBelieved) {
            return read.await;
        }
        self.asks(read).await
    }

    /// A call that changes nothing that matters when it comes late.
    async fn asks<T>(&self, ask: impl Future<Output = Result<T, ProgressError>> + Send) -> Result<T, ProgressError> {
        let answer = match self.begins().await {
            Fate::Refused => Err(away()),
            Fate::Done | Fate::Late(_) => ask.await,
            Fate::AnswerLost => {
                ask.await?;
                Err(away())
            }
        };
        self.gate().await;
        answer
    }

    /// A call that changes something, of which the service may hear after it failed.
    async fn tells<T, F>(&self, tell: impl FnOnce(EmbeddedProgress) -> F + Send + 'static) -> Result<T, ProgressError>
    where
        F: Future<Output = Result<T, ProgressError>> + Send + 'static,
        T: Send + 'static,
    {
        let answer = match self.begins().await {
            Fate::Refused => Err(away()),
            Fate::Done => tell(self.world.progress()).await,
            Fate::AnswerLost => {
                tell(self.world.progress()).await?;
                Err(away())
            }
            Fate::Late(after) => {
                let world = self.world.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(after).await;
                    let _ = tell(world.progress()).await;
                });
                Err(away())
            }
        };
        self.gate().await;
        answer
    }
}

/// Says that `shards` were added to this generation. Counts that are complete by that are of as many.
async fn complete(
    world: &World,
    run: &RunId,
    mut generation: Generation,
    mut shards: u64,
) -> Result<(), ProgressError> {
    let (progress, added) = (world.progress(), shards);
    if is_back(Mutant::CompleteIsTimeless) {
        (generation, shards) = (progress.generation(run).await?, 0);
    }
    let before = progress.counted(run).await?;
    progress.complete(run, &generation, shards).await?;
    let counted = progress.counted(run).await?;
    if counted.complete && !before.complete && counted.counts.shards < added {
        world.breaks(format!("{run}: {} of {added} shards are counted, and said to be all", counted.counts.shards));
    }
    Ok(())
}

#[async_trait]
impl Progress for Node {
    async fn commit(
        &self,
        run: &RunId,
        shard: ShardId,
        counts: Counts,
        failures: &[TaskOutcome],
    ) -> Result<bool, ProgressError> {
        let (run, failures) = (run.clone(), failures.to_vec());
        self.tells(move |progress| async move { progress.commit(&run, shard, counts, &failures).await }).await
    }

    async fn commit_many(&self, run: &RunId, shards: &[(ShardId, Counts)]) -> Result<(), ProgressError> {
        let (run, shards) = (run.clone(), shards.to_vec());
        self.tells(move |progress| async move { progress.commit_many(&run, &shards).await }).await
    }

    async fn committed(&self, run: &RunId, round: Round) -> Result<ShardSet, ProgressError> {
        self.reads(async { self.world.progress().committed(run, round).await }).await
    }

    async fn counted(&self, run: &RunId) -> Result<Counted, ProgressError> {
        self.reads(async { self.world.progress().counted(run).await }).await
    }

    async fn generation(&self, run: &RunId) -> Result<Generation, ProgressError> {
        self.asks(async { self.world.progress().generation(run).await }).await
    }

    /// Where it comes late, the counts of which it was said may be lost by then.
    async fn complete(&self, run: &RunId, generation: &Generation, shards: u64) -> Result<(), ProgressError> {
        let (world, run, generation) = (self.world.clone(), run.clone(), generation.clone());
        let completed = match self.begins().await {
            Fate::Refused => Err(away()),
            Fate::Done => complete(&world, &run, generation, shards).await,
            Fate::AnswerLost => complete(&world, &run, generation, shards).await.and(Err(away())),
            Fate::Late(after) => {
                tokio::spawn(async move {
                    tokio::time::sleep(after).await;
                    if world.roll(2) == 0 {
                        world.progress().lose(&run, Part::State);
                    }
                    let _ = complete(&world, &run, generation, shards).await;
                });
                Err(away())
            }
        };
        self.gate().await;
        completed
    }

    async fn hold(&self, run: &RunId, shard: ShardId, holder: &Holder, ttl: Duration) -> Result<(), ProgressError> {
        self.world.touch(run, shard);
        let (run, holder) = (run.clone(), holder.clone());
        self.tells(move |progress| async move { progress.hold(&run, shard, &holder, ttl).await }).await
    }

    async fn release(&self, run: &RunId, shard: ShardId, attempt: &AttemptId) -> Result<(), ProgressError> {
        let (run, attempt) = (run.clone(), attempt.clone());
        self.tells(move |progress| async move { progress.release(&run, shard, &attempt).await }).await
    }

    async fn holder(&self, run: &RunId, shard: ShardId) -> Result<Option<Holder>, ProgressError> {
        self.reads(async { self.world.progress().holder(run, shard).await }).await
    }

    async fn holders(&self, run: &RunId) -> Result<Vec<(ShardId, Holder)>, ProgressError> {
        self.reads(async { self.world.progress().holders(run).await }).await
    }

    async fn heartbeat(&self, heartbeat: &Heartbeat, ttl: Duration) -> Result<(), ProgressError> {
        self.asks(async { self.world.progress().heartbeat(heartbeat, ttl).await }).await
    }

    async fn workers(&self) -> Result<Vec<Heartbeat>, ProgressError> {
        self.reads(async { self.world.progress().workers().await }).await
    }

    async fn recent_failures(&self, run: &RunId) -> Result<Vec<TaskOutcome>, ProgressError> {
        self.reads(async { self.world.progress().recent_failures(run).await }).await
    }

    async fn throughput(&self, run: &RunId) -> Result<Throughput, ProgressError> {
        self.reads(async { self.world.progress().throughput(run).await }).await
    }

    async fn announce(&self, run: &RunId, head: &Head) -> Result<(), ProgressError> {
        let (run, head) = (run.clone(), *head);
        self.tells(move |progress| async move { progress.announce(&run, &head).await }).await
    }

    async fn head(&self, run: &RunId) -> Result<Option<Head>, ProgressError> {
        self.reads(async { self.world.progress().head(run).await }).await
    }

    async fn claim(
        &self,
        run: &RunId,
        what: &str,
        attempt: &AttemptId,
        ttl: Duration,
    ) -> Result<AttemptId, ProgressError> {
        self.asks(async { self.world.progress().claim(run, what, attempt, ttl).await }).await
    }

    async fn lease(&self, name: &str, owner: &str, ttl: Duration) -> Result<bool, ProgressError> {
        self.asks(async { self.world.progress().lease(name, owner, ttl).await }).await
    }

    async fn release_lease(&self, name: &str, owner: &str) -> Result<(), ProgressError> {
        self.asks(async { self.world.progress().release_lease(name, owner).await }).await
    }

    async fn ring(&self) -> Result<(), ProgressError> {
        self.asks(async { self.world.progress().ring().await }).await
    }

    async fn rung(&self) -> Result<u64, ProgressError> {
        self.reads(async { self.world.progress().rung().await }).await
    }

    async fn forget(&self, run: &RunId) -> Result<(), ProgressError> {
        let run = run.clone();
        self.tells(move |progress| async move { progress.forget(&run).await }).await
    }

    async fn expire(&self, run: &RunId, after: Duration) -> Result<(), ProgressError> {
        self.asks(async { self.world.progress().expire(run, after).await }).await
    }
}
