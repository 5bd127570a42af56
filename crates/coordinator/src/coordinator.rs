//! Brings a submitted run to its end: reconcile, pump round after round, finalise.

use std::path::PathBuf;
use std::time::Duration;

use diorama_backends::Backends;
use diorama_backends::run_store::RunStore;
use diorama_core::key::ObjectKey;
use diorama_core::round::RoundInfo;
use diorama_core::run::{Control, RunSpec, RunState, RunSummary};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::error::CoordinatorError;
use crate::finalise::finalise;
use crate::pump::RoundEnd;
use crate::reconcile::catch_up;
use crate::reopen;
use crate::rounds;
use crate::share::Shares;
use crate::watch::{Gauge, RunProgress};

/// How a coordinator works.
#[derive(Debug, Clone)]
pub struct CoordinatorConfig {
    /// How many shards may be in the queue or in work at a time, over all runs of a pool.
    pub shares: Shares,
    /// Between two looks at the progress.
    pub poll: Duration,
    /// Between two looks at what the run's owner wants.
    pub control_poll: Duration,
    /// A shard that was published longer ago than this, waits nowhere and is held by nobody, is published again.
    pub publish_again_after: Duration,
    /// Where the final files are prepared; best on the same file system as a folder store.
    pub scratch: PathBuf,
}

impl CoordinatorConfig {
    /// The defaults, preparing files in `scratch`.
    pub fn new(scratch: PathBuf) -> Self {
        Self {
            shares: Shares::new(16),
            poll: Duration::from_millis(50),
            control_poll: Duration::from_millis(50),
            publish_again_after: Duration::from_secs(60),
            scratch,
        }
    }
}

/// How [`Coordinator::drive`] ended.
#[derive(Debug, Clone, PartialEq)]
pub enum RunEnd {
    /// Every task has its outcome.
    Finished(RunSummary),
    /// The run was cancelled; what was committed before is kept, the rest failed as `cancelled`.
    Cancelled(RunSummary),
    /// Stopped in good order on request; the same run can go on later.
    Drained,
}

/// Drives one run.
pub struct Coordinator {
    pub(crate) backends: Backends,
    pub(crate) store: RunStore,
    pub(crate) config: CoordinatorConfig,
    pub(crate) watchers: watch::Sender<RunProgress>,
}

impl Coordinator {
    /// A coordinator of the run in `store`, which tells `watchers` how far it is.
    pub fn new(
        backends: Backends,
        store: RunStore,
        config: CoordinatorConfig,
        watchers: watch::Sender<RunProgress>,
    ) -> Self {
        Self { backends, store, config, watchers }
    }

    /// Brings a submitted run to its end, or stops when `drain` is cancelled. Work is done by workers that consume
    /// the pool's queue meanwhile.
    pub async fn drive(&self, spec: &RunSpec, drain: &CancellationToken) -> Result<RunEnd, CoordinatorError> {
        if let Some(summary) = self.store.read_json::<RunSummary>(&ObjectKey::Summary).await? {
            let Some(reopening) = reopen::asked(&self.store, &summary).await? else { return Ok(ended(summary)) };
            reopen::carry_out(&self.store, spec, &*self.backends.progress, &summary, reopening).await?;
        }
        catch_up(&self.store, spec, &*self.backends.progress).await?;
        let mut gauge = Gauge::new();
        let (mut round, mut earlier) = self.latest_round().await?;
        let state = loop {
            if self.wait_until(&round, drain).await == RoundEnd::Drained {
                return Ok(RunEnd::Drained);
            }
            match self.pump(spec, &round, earlier, &mut gauge, drain).await? {
                RoundEnd::Drained => return Ok(RunEnd::Drained),
                RoundEnd::Cancelled => {
                    self.cancel_the_rest(spec, &round).await?;
                    break RunState::Cancelled;
                }
                RoundEnd::Committed => match rounds::next(&self.store, spec, &round).await? {
                    Some(next) => {
                        earlier += u64::from(round.shards);
                        round = next;
                    }
                    None => break RunState::Finished,
                },
            }
        };
        let summary = finalise(&self.store, spec, state, &self.config.scratch).await?;
        self.tell(spec, state, &round, &mut gauge).await?;
        Ok(ended(summary))
    }

    /// The round that is under way, of a run that is completely submitted, and how many shards there were before it.
    pub(crate) async fn latest_round(&self) -> Result<(RoundInfo, u64), CoordinatorError> {
        let mut rounds = rounds::all(&self.store).await?;
        let latest = rounds.pop().ok_or_else(|| {
            let key = self.store.path(&ObjectKey::RoundComplete(diorama_core::id::Round(0)));
            diorama_backends::objects::ObjectError::damaged(key, "the run is not completely submitted")
        })?;
        Ok((latest, rounds.iter().map(|round| u64::from(round.shards)).sum()))
    }

    /// Waits until the round may begin; a drain or a cancellation does not wait for it.
    async fn wait_until(&self, round: &RoundInfo, drain: &CancellationToken) -> RoundEnd {
        loop {
            let left = Timestamp::now().duration_until(round.not_before);
            let Ok(left) = Duration::try_from(left) else { return RoundEnd::Committed };
            let cancelled = |control: Control| control.state == RunState::Cancelled;
            if left.is_zero() || self.store.control().await.is_ok_and(cancelled) {
                return RoundEnd::Committed;
            }
            tokio::select! {
                biased;
                () = drain.cancelled() => return RoundEnd::Drained,
                () = tokio::time::sleep(left.min(Duration::from_secs(1))) => {}
            }
        }
    }
}

fn ended(summary: RunSummary) -> RunEnd {
    match summary.state {
        RunState::Cancelled => RunEnd::Cancelled(summary),
        RunState::Finished | RunState::Running | RunState::Paused => RunEnd::Finished(summary),
    }
}
