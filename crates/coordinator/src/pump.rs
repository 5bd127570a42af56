//! The pump: keeps a bounded window of a round's shards in the queue until every one of them has its marker.
//!
//! Its memory of what it published is a hint. A shard published twice is harmless, so whenever in doubt it publishes
//! again: after a pause, and when a shard is neither waiting nor held by anybody. The progress service is a help and no
//! more: while it is away, what is committed is read from the markers.

use std::collections::HashMap;
use std::time::Duration;

use diorama_backends::progress::{Counted, Head, ProgressError};
use diorama_backends::queue::QueueDepth;
use diorama_core::id::{AttemptId, ShardId};
use diorama_core::message::ShardMessage;
use diorama_core::round::RoundInfo;
use diorama_core::run::{RunSpec, RunState};
use diorama_core::shards::ShardSet;
use diorama_protocol::history::History;
use diorama_protocol::mutant::{self, Mutant};
use diorama_protocol::{Backends, RunStore, fault};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::config::CoordinatorConfig;
use crate::error::CoordinatorError;
use crate::failures::{bury_dead_letters, pause};
use crate::plan::{Plan, Publish};
use crate::reconcile::catch_up;
use crate::share::Turn;
use crate::watch::{Gauge, RunProgress};

/// Messages whose confirmation is awaited at a time.
const PUBLISHING: usize = 64;

/// Between two looks at the log itself: whoever decides says so through the progress service, unless he dies before.
const READ_LOG: Duration = Duration::from_secs(60);

/// Between two looks at the markers of what is out: whoever commits says so through the progress service, unless he dies
/// before.
const LIST_MARKERS: Duration = Duration::from_secs(120);

/// Between two looks at the markers while the progress service is away.
const WITHOUT_PROGRESS: Duration = Duration::from_secs(2);

/// What a look at the round led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Looked {
    /// The round goes on.
    GoesOn,
    /// Every shard has its marker.
    Committed,
    /// Something was decided about the run that takes it out of this round.
    Decided,
}

/// Why a run is paused whose owner allows fewer failures. Always the same words: whoever resumes it after them wants it
/// to go on all the same.
const TOO_MANY_FAILED: &str = "more tasks failed than --stop-if allows; look at them on the run's page, then resume the \
                               run, which goes on without that limit, or cancel it";

/// The tasks that have an outcome, as they were counted last.
#[derive(Debug, Clone, Copy, Default)]
struct Outcomes {
    /// Those that failed, also if they will be tried again.
    failed: u64,
    /// All of them.
    settled: u64,
}

/// A round being pumped.
pub(crate) struct Pump<'a> {
    backends: &'a Backends,
    store: &'a RunStore,
    config: &'a CoordinatorConfig,
    watchers: &'a watch::Sender<RunProgress>,
    spec: &'a RunSpec,
    round: RoundInfo,
    plan: Plan,
    /// Shards of the rounds before, all of them committed or void.
    earlier: u64,
    /// What is known to be committed, by whatever said so. Only grows.
    committed: ShardSet,
    /// When the markers were listed last.
    listed_at: Option<Instant>,
    gauge: Gauge,
    outcomes: Outcomes,
    /// When the store itself was asked last: for decisions, and for markers.
    decisions_at: Instant,
    markers_at: Option<Instant>,
    heard_at: Option<Instant>,
}

impl<'a> Pump<'a> {
    /// A pump that has published nothing of the round that is under way.
    pub(crate) fn new(
        backends: &'a Backends,
        store: &'a RunStore,
        config: &'a CoordinatorConfig,
        watchers: &'a watch::Sender<RunProgress>,
        spec: &'a RunSpec,
        history: &History,
        gauge: Gauge,
    ) -> Option<Self> {
        let round = history.last_round()?.clone();
        let share = config.shares.join(&spec.run, &spec.pool, spec.priority, spec.weight);
        let earlier = history.rounds().iter().filter(|other| other.round < round.round);
        Some(Self {
            backends,
            store,
            config,
            watchers,
            spec,
            earlier: earlier.map(|round| u64::from(round.shards)).sum(),
            plan: Plan::new(share, round.shards),
            round,
            committed: ShardSet::default(),
            listed_at: None,
            gauge,
            outcomes: Outcomes::default(),
            decisions_at: Instant::now(),
            markers_at: None,
            heard_at: None,
        })
    }

    /// Looks before the round begins: publishes nothing, but what is counted may be lost then, too.
    pub(crate) async fn wait(&mut self, history: &mut History, now: Instant) -> Result<Looked, CoordinatorError> {
        if self.is_decided(history, now).await? {
            return Ok(Looked::Decided);
        }
        self.see(history, now).await?;
        Ok(Looked::GoesOn)
    }

    /// Whether something was decided that takes the run out of this round.
    async fn is_decided(&mut self, history: &mut History, now: Instant) -> Result<bool, CoordinatorError> {
        self.hear(history, now).await?;
        let same_round = history.last_round().is_some_and(|round| round.round == self.round.round);
        Ok(!same_round || history.is_cancelled() || history.ending().is_some() || history.is_deleted())
    }

    /// Looks at the round once and publishes what there is room for.
    pub(crate) async fn look(&mut self, history: &mut History, now: Instant) -> Result<Looked, CoordinatorError> {
        if self.is_decided(history, now).await? {
            return Ok(Looked::Decided);
        }
        let holders = self.see(history, now).await?;
        let wanted = history.state().unwrap_or(RunState::Cancelled);
        if self.committed.len() >= u64::from(self.round.shards) {
            return Ok(Looked::Committed);
        }
        if wanted == RunState::Running && self.has_too_many_failures(history) {
            pause(self.backends, self.store, &self.spec.run, &self.config.name, TOO_MANY_FAILED).await?;
            // What was decided is heard at once.
            self.heard_at = None;
            return Ok(Looked::GoesOn);
        }
        match wanted {
            RunState::Paused => self.plan.pause(&self.committed, holders.as_ref(), now),
            RunState::Submitting | RunState::Running | RunState::Cancelled | RunState::Finished => {
                bury_dead_letters(self.backends, self.store, &self.spec.pool, &self.config.name).await?;
                self.plan.see(&self.committed, holders.as_ref(), now);
                let depth = match self.plan.needs_depth() {
                    true => Some(self.backends.queue.depth(&self.spec.pool).await?),
                    false => None,
                };
                let turn = self.plan.turn(depth.as_ref(), now);
                self.give_way(history, &turn, now).await;
                let publish = self.planned(&turn, depth.as_ref(), now);
                self.publish_all(&publish).await?;
            }
        }
        Ok(Looked::GoesOn)
    }

    /// Learns what was decided: from the progress service, and now and then, or where that is away, from the log itself.
    /// A pause that was over before we heard of it counts all the same: workers have heard of it.
    async fn hear(&mut self, history: &mut History, now: Instant) -> Result<(), CoordinatorError> {
        if self.heard_at.is_some_and(|at| now.duration_since(at) < self.config.control_poll) {
            return Ok(());
        }
        self.heard_at = Some(now);
        let known = history.decisions();
        let said = self.backends.progress.head(&self.spec.run).await;
        let is_news = !matches!(&said, Ok(Some(head)) if head.decisions <= known);
        let mut changed = false;
        if is_news || now.duration_since(self.decisions_at) >= READ_LOG {
            self.decisions_at = now;
            let before = history.state();
            changed = self.store.refresh(history).await?;
            let missed = mutant::is_back(Mutant::BriefPauseIsMissed) && before == history.state();
            if changed && !missed {
                self.plan.decided(self.holders_known(), now);
            }
        }
        let heard = said.ok().map(|head| head.map_or((0, false), |head| (head.decisions, head.gives_way)));
        // Whoever decided may have died before he told anybody.
        if changed || heard.is_some_and(|(decisions, _)| decisions < history.decisions()) {
            self.backends.announce(&self.spec.run, history).await;
            self.plan.heard_to_give_way(false);
        } else if let Some((_, gives_way)) = heard {
            self.plan.heard_to_give_way(gives_way);
        }
        Ok(())
    }

    /// Learns what is committed, and tells whoever watches. Who holds what, where that is known.
    async fn see(
        &mut self,
        history: &History,
        now: Instant,
    ) -> Result<Option<HashMap<u32, AttemptId>>, CoordinatorError> {
        match self.listed_at {
            // Who led before us may have told nobody of a marker.
            None => {
                self.committed.extend(&self.store.committed(&self.round, 0..self.round.shards).await?);
                self.listed_at = Some(now);
            }
            // Nor may a worker have.
            Some(at) if now.duration_since(at) >= LIST_MARKERS => {
                self.list_markers().await?;
                self.listed_at = Some(now);
            }
            Some(_) => {}
        }
        match self.see_progress(history, now).await? {
            Ok(holders) => {
                self.markers_at = None;
                Ok(Some(holders))
            }
            Err(error) if mutant::is_back(Mutant::ProgressIsNeeded) => Err(error.into()),
            Err(error) => {
                if self.markers_at.is_none_or(|at| now.duration_since(at) >= WITHOUT_PROGRESS) {
                    if self.markers_at.is_none() {
                        tracing::warn!(%error, "the progress service is unreachable; reading what is committed from the markers");
                    }
                    self.markers_at = Some(now);
                    self.list_markers().await?;
                }
                Ok(None)
            }
        }
    }

    /// The same from the progress service. What it has forgotten is told again.
    async fn see_progress(
        &mut self,
        history: &History,
        now: Instant,
    ) -> Result<Result<HashMap<u32, AttemptId>, ProgressError>, CoordinatorError> {
        let progress = &self.backends.progress;
        let run = &self.spec.run;
        let said = async {
            let committed = progress.committed(run, self.round.round).await?;
            // Read after the bits: whatever was committed in between only adds to the counts.
            let counted = progress.counted(run).await?;
            Ok::<_, ProgressError>((committed, counted, progress.holders(run).await?))
        };
        let (committed, counted, holders) = match said.await {
            Ok(said) => said,
            Err(error) => return Ok(Err(error)),
        };
        self.committed.extend(&committed);
        if self.has_forgotten(&committed, &counted) {
            if self.earlier > 0 || !self.committed.is_empty() {
                tracing::warn!("the progress service has lost data; restoring it from the markers");
            }
            if let Err(error) = catch_up(self.backends, self.store, self.spec, history).await {
                match error {
                    CoordinatorError::Progress(error) => return Ok(Err(error)),
                    error => return Err(error),
                }
            }
        }
        let state = history.state().unwrap_or(RunState::Cancelled);
        let told = self.gauge.read(now, self.spec, state, &self.round, counted.counts, &holders);
        let failed = told.failed + told.retrying;
        self.outcomes = Outcomes { failed, settled: counted.counts.done + failed };
        self.watchers.send_if_modified(|last| {
            let changed = *last != told;
            *last = told;
            changed
        });
        let of_this_round = holders.into_iter().filter(|(shard, _)| shard.round == self.round.round);
        Ok(Ok(of_this_round.map(|(shard, holder)| (shard.index, holder.attempt)).collect()))
    }

    /// Whether more tasks failed than the run's owner allows, who has not had it go on all the same. While the progress
    /// service is away, nobody counts.
    fn has_too_many_failures(&self, history: &History) -> bool {
        let Some(stop) = self.spec.stop_if.filter(|_| self.holders_known()) else { return false };
        let Outcomes { failed, settled } = self.outcomes;
        stop.is_met(failed, settled, self.spec.tasks) && !history.was_resumed_after(TOO_MANY_FAILED)
    }

    /// Whether the progress service answered last.
    fn holders_known(&self) -> bool {
        self.markers_at.is_none()
    }

    /// Learns from the markers what of the shards that are out is committed. Every other one either is known to be
    /// committed or is published before it counts.
    async fn list_markers(&mut self) -> Result<(), CoordinatorError> {
        if let Some(out) = self.plan.out() {
            self.committed.extend(&self.store.committed(&self.round, out).await?);
        }
        Ok(())
    }

    fn has_forgotten(&self, committed: &ShardSet, counted: &Counted) -> bool {
        !counted.complete
            || committed.len() < self.committed.len()
            || counted.counts.shards < self.earlier + committed.len()
    }

    /// Tells workers whether shards of this run that they have not begun make room for another run.
    async fn give_way(&mut self, history: &History, turn: &Turn, now: Instant) {
        if turn.gives_way == self.plan.gives_way() {
            return;
        }
        let Some(state) = history.state() else { return };
        let head = Head { decisions: history.decisions(), state, gives_way: turn.gives_way };
        match self.backends.progress.announce(&self.spec.run, &head).await {
            Ok(()) => {
                self.plan.told_to_give_way(turn.gives_way, now);
                match &turn.behind {
                    Some(first) => tracing::info!(%first, "yielding to a run of a higher priority"),
                    None => tracing::info!("no longer yielding"),
                }
            }
            Err(error) => tracing::debug!(%error, "workers could not be told that the run yields"),
        }
    }

    /// What is lost, and what there is room for.
    fn planned(&mut self, turn: &Turn, depth: Option<&QueueDepth>, now: Instant) -> Vec<u32> {
        let patience = self.config.publish_again_after;
        let Publish { mut lost, new } = self.plan.publish(turn, depth, &self.committed, patience, now);
        if mutant::is_back(Mutant::LostStaysLost) {
            lost.clear();
        }
        for index in &lost {
            let shard = ShardId { round: self.round.round, index: *index };
            tracing::warn!(%shard, "published, and lost: no worker holds it; publishing it again");
        }
        lost.extend(new);
        lost
    }

    /// Publishes shards of the round, several at a time.
    async fn publish_all(&self, indices: &[u32]) -> Result<(), CoordinatorError> {
        let publish = |index: &u32| self.publish(ShardId { round: self.round.round, index: *index });
        stream::iter(indices).map(publish).buffered(PUBLISHING).try_collect().await
    }

    async fn publish(&self, shard: ShardId) -> Result<(), CoordinatorError> {
        let message = ShardMessage { run: self.spec.run.clone(), shard };
        self.backends.queue.publish(&self.spec.pool, &message).await?;
        fault::point("pump.after-publish");
        Ok(())
    }

    /// What of the pump outlives the round.
    pub(crate) fn into_gauge(self) -> Gauge {
        self.gauge
    }
}
