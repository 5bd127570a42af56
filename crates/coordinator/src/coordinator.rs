//! Brings a submitted run to its end. What is to be done next follows from the run's log; what comes of it is decided
//! there again. So a coordinator that is late, or one of two, does harm to nothing: its decision is refused, and it reads
//! what was decided instead.

use std::time::Duration;

use diorama_core::clock;
use diorama_core::id::AttemptId;
use diorama_core::round::RoundInfo;
use diorama_core::run::{RunSpec, RunState, RunSummary};
use diorama_protocol::decision::Act;
use diorama_protocol::history::{History, Refused};
use diorama_protocol::mutant::{self, Mutant};
use diorama_protocol::{Backends, DecideError, RunStore, fault};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::CoordinatorConfig;
use crate::ending;
use crate::error::CoordinatorError;
use crate::pump::{Looked, Pump};
use crate::reopen;
use crate::rounds;
use crate::watch::{Gauge, RunProgress};

/// How [`Coordinator::drive`] ended.
#[derive(Debug, Clone, PartialEq)]
pub enum RunEnd {
    /// Every task has its outcome.
    Finished(RunSummary),
    /// The run was cancelled; what was committed before is kept, the rest failed as `cancelled`.
    Cancelled(RunSummary),
    /// The run was deleted.
    Deleted,
    /// Stopped in good order on request; the same run can go on later.
    Drained,
}

/// What is to be done next with a run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Next {
    /// Nothing: it has ended.
    Nothing(RunSummary),
    /// It is to be removed.
    Remove,
    /// Its ending was begun.
    End(RunState),
    /// It was cancelled.
    BeginCancelledEnding,
    /// The round that reopens it.
    MakeReopeningRound,
    /// Its round's shards.
    Pump,
}

/// Drives one run.
pub struct Coordinator {
    backends: Backends,
    store: RunStore,
    config: CoordinatorConfig,
    watchers: watch::Sender<RunProgress>,
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
    ///
    /// Every step may be broken off and done again, by anybody.
    pub async fn drive(&self, spec: &RunSpec, drain: &CancellationToken) -> Result<RunEnd, CoordinatorError> {
        let mut history = self.store.history().await?;
        let mut gauge = Gauge::new();
        loop {
            let step = async {
                match next(&history) {
                    Next::Nothing(summary) => {
                        // Whoever decided the end may have died before he could show it.
                        self.show_summary(&history).await?;
                        return Ok(Some(ended(summary)));
                    }
                    Next::Remove => return Ok(Some(RunEnd::Deleted)),
                    Next::Pump => gauge = self.pump(spec, &mut history, std::mem::take(&mut gauge)).await?,
                    Next::End(state) => self.end(spec, &mut history, state).await?,
                    Next::BeginCancelledEnding => self.begin_cancelled_ending(spec, &mut history).await?,
                    Next::MakeReopeningRound => self.make_reopening_round(spec, &mut history).await?,
                }
                Ok::<_, CoordinatorError>(None)
            };
            match drain.run_until_cancelled(step).await {
                None => return Ok(RunEnd::Drained),
                Some(Ok(Some(end))) => return Ok(end),
                Some(Ok(None)) => {}
                Some(Err(error)) => return Err(error),
            }
            if drain.is_cancelled() {
                return Ok(RunEnd::Drained);
            }
        }
    }

    /// Decides, where nobody else has taken the run further meanwhile; then the log says what is next.
    async fn decide(&self, spec: &RunSpec, history: &mut History, act: Act) -> Result<(), CoordinatorError> {
        match self.backends.decide(&self.store, &spec.run, history, &self.config.name, act).await {
            Ok(_) => Ok(()),
            Err(DecideError::Refused(
                refused @ (Refused::Late { .. } | Refused::Illegal { .. } | Refused::Deleted),
            )) => {
                tracing::info!(%refused, "another process decided first");
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Pumps the round that is under way, until it is committed or something is decided.
    async fn pump(&self, spec: &RunSpec, history: &mut History, gauge: Gauge) -> Result<Gauge, CoordinatorError> {
        let (backends, store, config) = (&self.backends, &self.store, &self.config);
        let pump = Pump::new(backends, store, config, &self.watchers, spec, history, gauge);
        let Some(mut pump) = pump else { return Ok(Gauge::new()) };
        let mut begins = history.last_round().and_then(begins_in).map(|wait| Instant::now() + wait);
        loop {
            let looked = match begins.filter(|at| *at > Instant::now()) {
                Some(_) => pump.wait(history, Instant::now()).await?,
                None => pump.look(history, Instant::now()).await?,
            };
            match looked {
                Looked::GoesOn => tokio::time::sleep(self.config.poll).await,
                Looked::Decided => return Ok(pump.into_gauge()),
                Looked::Committed => break,
            }
            begins = begins.filter(|at| *at > Instant::now());
        }
        let gauge = pump.into_gauge();
        let act = match rounds::next(&self.store, spec, history).await? {
            Some(round) => Act::RoundOpened { round },
            None => Act::EndingBegun { state: RunState::Finished, void: None },
        };
        self.decide(spec, history, act).await?;
        fault::point("rounds.after-decision");
        Ok(gauge)
    }

    /// Decides that the shards without a marker are void. From then on no worker that is late can add to them.
    async fn begin_cancelled_ending(&self, spec: &RunSpec, history: &mut History) -> Result<(), CoordinatorError> {
        let void = ending::write_void(&self.store, history).await?;
        fault::point("ending.after-void");
        self.decide(spec, history, Act::EndingBegun { state: RunState::Cancelled, void }).await?;
        fault::point("ending.after-begun");
        Ok(())
    }

    async fn make_reopening_round(&self, spec: &RunSpec, history: &mut History) -> Result<(), CoordinatorError> {
        let Some(reopening) = history.reopening().cloned() else { return Ok(()) };
        tracing::info!(round = history.rounds().len(), "failed tasks of an ended run are tried again");
        let round = reopen::make_round(&self.store, spec, history, reopening).await?;
        self.decide(spec, history, Act::RoundOpened { round }).await
    }

    /// Writes the final files of an ending that has begun, and decides that these are they.
    async fn end(&self, spec: &RunSpec, history: &mut History, state: RunState) -> Result<(), CoordinatorError> {
        let files = match mutant::is_back(Mutant::FinalFilesShareNames) {
            true => history.rounds()[0].inputs.clone(),
            false => AttemptId::generate(),
        };
        let ended = ending::finalise(&self.store, spec, history, &self.config.scratch, &files).await?;
        fault::point("finalise.before-ended");
        self.decide(spec, history, Act::Ended(Box::new(ended))).await?;
        fault::point("finalise.after-ended");
        if let Err(error) = ending::settle_counts(&self.backends, &self.store, spec, history).await {
            tracing::warn!(%error, "the final counts in the progress service may be wrong; `diorama reconcile` rebuilds them");
        }
        self.show_summary(history).await?;
        if let Some(ended) = history.ended() {
            self.watchers.send_modify(|progress| {
                progress.state = state;
                (progress.done, progress.failed) = (ended.summary.done, ended.summary.failed);
                (progress.retrying, progress.shards_running) = (0, 0);
            });
        }
        Ok(())
    }

    async fn show_summary(&self, history: &History) -> Result<(), CoordinatorError> {
        match history.ended() {
            Some(ended) => Ok(ending::publish_summary(&self.store, ended).await?),
            None => Ok(()),
        }
    }
}

/// What follows from what was decided.
pub(crate) fn next(history: &History) -> Next {
    if history.is_deleted() {
        return Next::Remove;
    }
    if let Some(ended) = history.ended() {
        return Next::Nothing(ended.summary.clone());
    }
    if let Some(ending) = history.ending() {
        return Next::End(ending.state);
    }
    if history.is_cancelled() && !mutant::is_back(Mutant::CancelIsForgotten) {
        return Next::BeginCancelledEnding;
    }
    if history.reopening().is_some() {
        return Next::MakeReopeningRound;
    }
    Next::Pump
}

/// How long the round waits until it begins; at most the longest delay, whatever the clock that it was written by.
pub(crate) fn begins_in(round: &RoundInfo) -> Option<Duration> {
    let left = Duration::try_from(clock::now().duration_until(round.not_before)).ok()?;
    Some(left.min(round.delay()))
}

fn ended(summary: RunSummary) -> RunEnd {
    match summary.state {
        RunState::Cancelled => RunEnd::Cancelled(summary),
        RunState::Submitting | RunState::Finished | RunState::Running | RunState::Paused => RunEnd::Finished(summary),
    }
}
