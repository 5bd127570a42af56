//! The pump: keeps a bounded window of a round's shards in the queue until every one of them has its marker.
//!
//! Its memory of what it published is a hint. A shard published twice is harmless, so whenever in doubt it publishes
//! again: after a pause, when the progress service forgot, when a shard is neither waiting nor held by anybody.

use std::collections::BTreeMap;

use diorama_backends::fault;
use diorama_backends::objects::ObjectErrorKind;
use diorama_backends::progress::{Counts, ShardSet, count_marker};
use diorama_backends::queue::Settlement;
use diorama_backends::run_store::RunStore;
use diorama_core::id::{AttemptId, RunId, ShardId, WorkerId};
use diorama_core::key::RunRoot;
use diorama_core::marker::CommitMarker;
use diorama_core::message::ShardMessage;
use diorama_core::outcome::{ErrorCode, Outcome, TaskError, TaskOutcome};
use diorama_core::round::RoundInfo;
use diorama_core::run::{RunSpec, RunState};
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::coordinator::Coordinator;
use crate::error::CoordinatorError;
use crate::reconcile::catch_up;
use crate::share::Share;
use crate::watch::Gauge;

/// Messages whose confirmation is awaited at a time.
const PUBLISHING: usize = 64;

/// Objects that are written or read at a time.
const AT_ONCE: usize = 16;

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

/// A round being pumped.
pub(crate) struct Pump {
    share: Share,
    window: Window,
    /// Shards of the rounds before, all of them committed.
    earlier: u64,
    /// What the run's owner wanted at the last look.
    control: Option<(Instant, RunState)>,
}

/// A shard that is out.
#[derive(Clone, Copy)]
struct Published {
    /// When, which is its place in the queue.
    at: Instant,
    /// When it was last known to be out: published, or held by a worker.
    known: Instant,
}

impl Published {
    fn now(now: Instant) -> Self {
        Self { at: now, known: now }
    }
}

/// What was published of a round.
struct Window {
    /// The next shard to look at.
    cursor: u32,
    /// Published and not committed.
    published: BTreeMap<u32, Published>,
    /// Shards that were committed at the last look.
    committed: u64,
}

impl Window {
    fn new() -> Self {
        Self { cursor: 0, published: BTreeMap::new(), committed: 0 }
    }

    /// Workers let go of what they hold: all of it is to be looked at again. What was committed stays known, so that a
    /// progress service that forgets meanwhile is noticed.
    fn pause(&mut self) {
        self.cursor = 0;
        self.published.clear();
    }

    /// Takes out what is committed by now. Whether the progress service has forgotten: fewer shards are committed than
    /// were, or than the cursor has passed; then everything is looked at again.
    fn settle(&mut self, committed: &ShardSet) -> bool {
        self.published.retain(|index, _| !committed.contains(*index));
        let now = committed.len();
        let forgotten = now < self.committed || now + (self.published.len() as u64) < u64::from(self.cursor);
        self.committed = now;
        if forgotten {
            self.cursor = 0;
        }
        forgotten
    }

    /// Up to `room` shards that are neither committed nor published; they count as published from now on.
    fn take(&mut self, room: usize, shards: u32, committed: &ShardSet, now: Instant) -> Vec<u32> {
        let mut taken = Vec::new();
        while self.published.len() < room && self.cursor < shards {
            let index = self.cursor;
            self.cursor += 1;
            if !committed.contains(index) && !self.published.contains_key(&index) {
                self.published.insert(index, Published::now(now));
                taken.push(index);
            }
        }
        taken
    }
}

impl Coordinator {
    /// Publishes the round's shards and waits for their markers; `earlier` is the number of shards of all rounds before.
    pub(crate) async fn pump(
        &self,
        spec: &RunSpec,
        round: &RoundInfo,
        earlier: u64,
        gauge: &mut Gauge,
        drain: &CancellationToken,
    ) -> Result<RoundEnd, CoordinatorError> {
        let mut pump = self.start_pump(spec, earlier);
        loop {
            if let Some(end) = self.turn(spec, round, gauge, &mut pump, Instant::now()).await? {
                return Ok(end);
            }
            tokio::select! {
                biased;
                () = drain.cancelled() => return Ok(RoundEnd::Drained),
                () = tokio::time::sleep(self.config.poll) => {}
            }
        }
    }

    /// A pump that has published nothing of a round before which there were `earlier` shards.
    pub(crate) fn start_pump(&self, spec: &RunSpec, earlier: u64) -> Pump {
        let share = self.config.shares.join(&spec.run, &spec.pool, spec.priority, spec.weight);
        Pump { share, window: Window::new(), earlier, control: None }
    }

    /// Looks at the round once and publishes what there is room for; how the round ended, where it has.
    pub(crate) async fn turn(
        &self,
        spec: &RunSpec,
        round: &RoundInfo,
        gauge: &mut Gauge,
        pump: &mut Pump,
        now: Instant,
    ) -> Result<Option<RoundEnd>, CoordinatorError> {
        let wanted = match pump.control {
            Some((at, wanted)) if now.duration_since(at) < self.config.control_poll => wanted,
            _ => {
                let wanted = self.store.control().await?.state;
                pump.control = Some((now, wanted));
                wanted
            }
        };
        let mut committed = self.backends.progress.committed(&spec.run, round.round).await?;
        let counts = self.tell(spec, wanted, round, gauge).await?;
        // Each counted shard has its bit, and what was committed since the bits were read only adds to the counts.
        if counts.shards < pump.earlier + committed.len() {
            self.tell_again(spec).await?;
        }
        if committed.len() >= u64::from(round.shards) {
            return Ok(Some(RoundEnd::Committed));
        }
        let window = &mut pump.window;
        match wanted {
            RunState::Cancelled => return Ok(Some(RoundEnd::Cancelled)),
            // Workers let go of what they hold; it is all published again on resume.
            RunState::Paused => {
                pump.share.window(false);
                window.pause();
            }
            RunState::Running | RunState::Finished => {
                if window.settle(&committed) {
                    self.tell_again(spec).await?;
                    committed = self.backends.progress.committed(&spec.run, round.round).await?;
                }
                self.bury_dead_letters(spec).await?;
                self.publish_lost(spec, round, window, now).await?;
                let room = pump.share.window(window.cursor < round.shards);
                let next = window.take(room, round.shards, &committed, now);
                self.publish_all(spec, round, &next).await?;
            }
        }
        Ok(None)
    }

    /// The progress service has forgotten something.
    async fn tell_again(&self, spec: &RunSpec) -> Result<(), CoordinatorError> {
        tracing::warn!(run = %spec.run, "the progress service has forgotten; it is told again");
        catch_up(&self.store, spec, &*self.backends.progress).await?;
        Ok(())
    }

    /// Publishes shards of the round, several at a time.
    async fn publish_all(&self, spec: &RunSpec, round: &RoundInfo, indices: &[u32]) -> Result<(), CoordinatorError> {
        let publish = |index: &u32| self.publish(spec, ShardId { round: round.round, index: *index });
        stream::iter(indices).map(publish).buffered(PUBLISHING).try_collect().await
    }

    async fn publish(&self, spec: &RunSpec, shard: ShardId) -> Result<(), CoordinatorError> {
        let message = ShardMessage { run: spec.run.clone(), shard };
        self.backends.queue.publish(&spec.pool, &message).await?;
        fault::point("pump.after-publish");
        Ok(())
    }

    /// Publishes again what was published long ago and is held by nobody, where nothing waits in the queue or something
    /// that was published later was taken up meanwhile: then it is not waiting for its turn.
    async fn publish_lost(
        &self,
        spec: &RunSpec,
        round: &RoundInfo,
        window: &mut Window,
        now: Instant,
    ) -> Result<(), CoordinatorError> {
        let is_old = |out: &Published| now.duration_since(out.known) > self.config.publish_again_after;
        if !window.published.values().any(is_old) {
            return Ok(());
        }
        let nothing_waits = self.backends.queue.depth(&spec.pool).await?.ready == 0;
        let holders = self.backends.progress.holders(&spec.run).await?;
        let held = |index: u32| {
            let shard = ShardId { round: round.round, index };
            holders.iter().any(|(held, _)| *held == shard)
        };
        let last_taken_up = window.published.iter().filter(|(index, _)| held(**index)).map(|(_, out)| out.at).max();
        let mut lost = Vec::new();
        for (index, out) in window.published.iter_mut().filter(|(_, out)| is_old(out)) {
            if held(*index) {
                out.known = now;
            } else if nothing_waits || last_taken_up.is_some_and(|later| later > out.at) {
                let shard = ShardId { round: round.round, index: *index };
                tracing::warn!(run = %spec.run, %shard, "published long ago, and nobody has it: publishing it again");
                lost.push(*index);
                *out = Published::now(now);
            }
        }
        self.publish_all(spec, round, &lost).await
    }

    /// Dead letters: a shard that cannot be read ends the run with the reason; one that was given up for another
    /// reason becomes failures that go into the next round.
    async fn bury_dead_letters(&self, spec: &RunSpec) -> Result<(), CoordinatorError> {
        while let Some(dead) = self.backends.queue.dead_letter(&spec.pool).await? {
            let (run, shard) = (dead.message.run.clone(), dead.message.shard);
            let given_up = if run == spec.run {
                self.give_up(&self.store, spec, shard).await
            } else {
                self.give_up_other(&run, shard).await
            };
            // What could not be given up is looked at again.
            dead.settle(if given_up.is_ok() { Settlement::Ack } else { Settlement::HandBack }).await?;
            given_up?;
        }
        Ok(())
    }

    async fn give_up(&self, store: &RunStore, spec: &RunSpec, shard: ShardId) -> Result<(), CoordinatorError> {
        let message = "the queue gave this shard up after too many deliveries";
        self.commit_failure(store, spec, shard, &TaskError::transient(ErrorCode::ModelError, message)).await
    }

    /// A dead letter of another run of the pool. What is wrong with that run must not stop this one: it is paused.
    async fn give_up_other(&self, run: &RunId, shard: ShardId) -> Result<(), CoordinatorError> {
        let store = RunStore::new(self.backends.objects.clone(), RunRoot::Shared(run.clone()));
        let Some(spec) = store.spec().await? else {
            tracing::error!(%run, %shard, "a dead letter of a run that does not exist was thrown away");
            return Ok(());
        };
        match self.give_up(&store, &spec, shard).await {
            Err(error @ CoordinatorError::Unusable { .. }) => {
                tracing::error!(%run, %error, "the run is paused");
                Ok(store.pause(Some(error.to_string())).await?)
            }
            result => result,
        }
    }

    /// Commits what is left of the round as cancelled, so that no worker that is late can add to it.
    pub(crate) async fn cancel_the_rest(&self, spec: &RunSpec, round: &RoundInfo) -> Result<(), CoordinatorError> {
        let committed = self.backends.progress.committed(&spec.run, round.round).await?;
        let message = "the run was cancelled before this task ran";
        let cancelled = TaskError::permanent(ErrorCode::Cancelled, message);
        let cancel = |shard: ShardId| self.commit_failure(&self.store, spec, shard, &cancelled);
        let rest = round.shard_ids().filter(|shard| !committed.contains(shard.index));
        stream::iter(rest).map(cancel).buffered(AT_ONCE).try_collect().await
    }

    /// Commits the shard with `error` as the outcome of each of its tasks, unless it is committed.
    async fn commit_failure(
        &self,
        store: &RunStore,
        spec: &RunSpec,
        shard: ShardId,
        error: &TaskError,
    ) -> Result<(), CoordinatorError> {
        let unusable = |problem: String| CoordinatorError::Unusable { shard, problem };
        let damaged = |error: diorama_backends::objects::ObjectError| match error.kind {
            ObjectErrorKind::Damaged => unusable(error.to_string()),
            _ => error.into(),
        };
        if store.marker(shard).await.map_err(damaged)?.is_some() {
            return Ok(());
        }
        let tasks = store.input(shard).await.map_err(damaged)?;
        let tasks = tasks.ok_or_else(|| unusable("its input is gone".to_owned()))?;
        let outcome = |task: diorama_core::task::Task| TaskOutcome {
            task: task.index,
            custom_id: task.custom_id,
            seed: task.seed,
            outcome: Outcome::Failed(error.clone()),
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
        let winner = self.backends.commit(store, marker).await?;
        let last_round = store.last_round(spec, shard.round).await?;
        count_marker(&*self.backends.progress, &spec.run, &winner, last_round).await?;
        Ok(())
    }

    /// Sends how far the run is to whoever watches; what the progress service counts.
    pub(crate) async fn tell(
        &self,
        spec: &RunSpec,
        state: RunState,
        round: &RoundInfo,
        gauge: &mut Gauge,
    ) -> Result<Counts, CoordinatorError> {
        let counts = self.backends.progress.counts(&spec.run).await?;
        let holders = self.backends.progress.holders(&spec.run).await?;
        let now = gauge.read(Instant::now(), spec, state, round, counts, &holders);
        self.watchers.send_if_modified(|last| {
            let changed = *last != now;
            *last = now;
            changed
        });
        Ok(counts)
    }
}
