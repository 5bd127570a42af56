//! The pump: keeps a bounded window of a round's shards in the queue until every one of them has its marker.
//!
//! Its memory of what it published is a hint. A shard published twice is harmless, so whenever in doubt it publishes
//! again: after a pause, when the progress service forgot, when a shard is neither waiting nor held by anybody.

use std::collections::BTreeMap;

use diorama_backends::fault;
use diorama_backends::objects::ObjectErrorKind;
use diorama_backends::progress::ShardSet;
use diorama_backends::queue::Settlement;
use diorama_core::id::{AttemptId, ShardId, WorkerId};
use diorama_core::marker::CommitMarker;
use diorama_core::message::ShardMessage;
use diorama_core::outcome::{ErrorCode, Outcome, TaskError, TaskOutcome};
use diorama_core::run::{RunSpec, RunState};
use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::coordinator::Coordinator;
use crate::error::CoordinatorError;
use crate::rounds::RoundInfo;
use crate::watch::Gauge;

/// How a round ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RoundEnd {
    /// Every shard has its marker.
    Committed,
    /// The run was cancelled.
    Cancelled,
    /// We are to stop; the round is as it is.
    Drained,
}

/// What was published of a round.
struct Window {
    /// The next shard to look at.
    cursor: u32,
    /// Published and not committed, with the time.
    published: BTreeMap<u32, Instant>,
}

impl Window {
    fn new() -> Self {
        Self { cursor: 0, published: BTreeMap::new() }
    }

    /// Takes out what is committed by now. Where fewer shards are committed than were, the progress service has
    /// forgotten, and everything is looked at again.
    fn settle(&mut self, committed: &ShardSet) {
        self.published.retain(|index, _| !committed.contains(*index));
        if committed.len() + (self.published.len() as u64) < u64::from(self.cursor) {
            self.cursor = 0;
        }
    }
}

impl Coordinator {
    /// Publishes the round's shards and waits for their markers.
    pub(crate) async fn pump(
        &self,
        spec: &RunSpec,
        round: &RoundInfo,
        gauge: &mut Gauge,
        drain: &CancellationToken,
    ) -> Result<RoundEnd, CoordinatorError> {
        let mut window = Window::new();
        loop {
            let wanted = self.store.control().await?;
            let committed = self.backends.progress.committed(&spec.run, round.round).await?;
            self.tell(spec, wanted, round, gauge).await?;
            if committed.len() >= u64::from(round.shards) {
                return Ok(RoundEnd::Committed);
            }
            match wanted {
                RunState::Cancelled => return Ok(RoundEnd::Cancelled),
                // Workers let go of what they hold; it is all published again on resume.
                RunState::Paused => window = Window::new(),
                RunState::Running | RunState::Finished => {
                    window.settle(&committed);
                    self.bury_dead_letters(spec).await?;
                    self.publish_lost(spec, round, &mut window).await?;
                    self.fill(spec, round, &committed, &mut window).await?;
                }
            }
            tokio::select! {
                biased;
                () = drain.cancelled() => return Ok(RoundEnd::Drained),
                () = tokio::time::sleep(self.config.poll) => {}
            }
        }
    }

    /// Publishes until the window is full.
    async fn fill(
        &self,
        spec: &RunSpec,
        round: &RoundInfo,
        committed: &ShardSet,
        window: &mut Window,
    ) -> Result<(), CoordinatorError> {
        while window.published.len() < self.config.window && window.cursor < round.shards {
            let index = window.cursor;
            window.cursor += 1;
            if !committed.contains(index) && !window.published.contains_key(&index) {
                self.publish(spec, ShardId { round: round.round, index }).await?;
                window.published.insert(index, Instant::now());
            }
        }
        Ok(())
    }

    async fn publish(&self, spec: &RunSpec, shard: ShardId) -> Result<(), CoordinatorError> {
        let message = ShardMessage { run: spec.run.clone(), shard };
        self.backends.queue.publish(&spec.pool, &message).await?;
        fault::point("pump.after-publish");
        Ok(())
    }

    /// Publishes again what was published long ago, waits nowhere and is held by nobody.
    async fn publish_lost(
        &self,
        spec: &RunSpec,
        round: &RoundInfo,
        window: &mut Window,
    ) -> Result<(), CoordinatorError> {
        let is_old = |at: &Instant| at.elapsed() > self.config.publish_again_after;
        if !window.published.values().any(is_old) || self.backends.queue.depth(&spec.pool).await?.ready > 0 {
            return Ok(());
        }
        let holders = self.backends.progress.holders(&spec.run).await?;
        for (index, at) in window.published.iter_mut().filter(|(_, at)| is_old(at)) {
            let shard = ShardId { round: round.round, index: *index };
            if holders.iter().all(|(held, _)| *held != shard) {
                tracing::warn!(%shard, "published long ago, and nobody has it: publishing it again");
                self.publish(spec, shard).await?;
            }
            *at = Instant::now();
        }
        Ok(())
    }

    /// Dead letters: a shard that cannot be read ends the run with the reason; one that was given up for another
    /// reason becomes failures that go into the next round.
    async fn bury_dead_letters(&self, spec: &RunSpec) -> Result<(), CoordinatorError> {
        while let Some(dead) = self.backends.queue.dead_letter(&spec.pool).await? {
            if dead.message.run == spec.run {
                self.give_up(spec, dead.message.shard).await?;
            }
            dead.settle(Settlement::Ack).await?;
        }
        Ok(())
    }

    async fn give_up(&self, spec: &RunSpec, shard: ShardId) -> Result<(), CoordinatorError> {
        let unusable = |problem: String| CoordinatorError::Unusable { shard, problem };
        let damaged = |error: diorama_backends::objects::ObjectError| match error.kind {
            ObjectErrorKind::Damaged => unusable(error.to_string()),
            _ => error.into(),
        };
        if self.store.marker(shard).await.map_err(damaged)?.is_some() {
            return Ok(());
        }
        let tasks = self.store.input(shard).await.map_err(damaged)?;
        let tasks = tasks.ok_or_else(|| unusable("its input is gone".to_owned()))?;
        let failed = || {
            let message = "the queue gave this shard up after too many deliveries";
            Outcome::Failed(TaskError::transient(ErrorCode::ModelError, message))
        };
        let outcome = |task: diorama_core::task::Task| TaskOutcome {
            task: task.index,
            custom_id: task.custom_id,
            seed: task.seed,
            outcome: failed(),
        };
        let now = Timestamp::now();
        let marker = CommitMarker {
            version: 1,
            run: spec.run.clone(),
            shard,
            attempt: AttemptId::generate(),
            worker: WorkerId::new("coordinator").map_err(|error| unusable(error.to_string()))?,
            archive: None,
            outcomes: tasks.into_iter().map(outcome).collect(),
            started_at: now,
            committed_at: now,
            device_seconds: 0.0,
        };
        let winner = self.store.commit(marker).await?;
        let counts = diorama_backends::progress::Counts::of(&winner, spec.retry.max_rounds);
        self.backends.progress.commit(&spec.run, shard, counts).await?;
        Ok(())
    }

    /// Sends how far the run is to whoever watches.
    pub(crate) async fn tell(
        &self,
        spec: &RunSpec,
        state: RunState,
        round: &RoundInfo,
        gauge: &mut Gauge,
    ) -> Result<(), CoordinatorError> {
        let counts = self.backends.progress.counts(&spec.run).await?;
        let holders = self.backends.progress.holders(&spec.run).await?;
        let now = gauge.read(Instant::now(), spec, state, round.round, counts, &holders);
        self.watchers.send_if_modified(|last| {
            let changed = *last != now;
            *last = now;
            changed
        });
        Ok(())
    }
}
