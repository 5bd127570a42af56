//! Many runs of a shared store: one coordinator at a time, the one with the lease, drives every run that has not ended.
//!
//! Safety never depends on the lease: two that drive the same run publish some shards twice, and nothing else. What goes
//! wrong with one run stops that run only: it is tried again where that may help, and paused with the reason where not.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use diorama_backends::objects::ObjectErrorKind;
use diorama_core::id::RunId;
use diorama_core::key::SharedKey;
use diorama_core::run::RunState;
use diorama_protocol::history::History;
use diorama_protocol::mutant::{self, Mutant};
use diorama_protocol::{Backends, RunStore};
use futures::{StreamExt, stream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::config::CoordinatorConfig;
use crate::coordinator::{Coordinator, RunEnd};
use crate::delete;
use crate::ending;
use crate::error::CoordinatorError;
use crate::failures::record_fault;
use crate::gc::{self, Grace};
use crate::idle;
use crate::index::runs_below;
use crate::lease::Lease;
use crate::watch::RunProgress;

/// How long the progress service remembers a run that has ended.
const REMEMBER_ENDED: Duration = Duration::from_secs(7 * 24 * 3600);

/// Between two listings of the active runs, where nobody rang and the progress service answers.
const LIST: Duration = Duration::from_secs(120);

/// The same while the progress service is away, so that nobody can ring.
const LIST_WITHOUT_BELL: Duration = Duration::from_secs(2);

/// Between two sweeps over every run that was ever submitted: for what nobody drives though it should be driven.
const SWEEP: Duration = Duration::from_secs(600);

/// Between two collections of garbage.
const COLLECT: Duration = Duration::from_secs(3600);

/// Runs whose logs a sweep reads at a time.
const AT_ONCE: usize = 32;

/// The waits between two tries to drive a run that a service's absence ended.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// How a service works.
#[derive(Debug, Clone)]
pub struct ServiceConfig {
    /// Its name, different from every other coordinator's.
    pub owner: String,
    /// After this long without a renewal by the leader, another coordinator takes over.
    pub lease: Duration,
    /// How long what belongs to nobody is kept before it is collected.
    pub grace: Grace,
    /// How each run is driven.
    pub runs: CoordinatorConfig,
}

/// Drives the runs of a shared store.
pub struct Service {
    backends: Backends,
    config: ServiceConfig,
    leading: watch::Sender<bool>,
}

/// The runs that are driven.
#[derive(Default)]
struct Driving {
    tokens: BTreeMap<RunId, CancellationToken>,
    runs: JoinSet<()>,
    by_task: HashMap<tokio::task::Id, RunId>,
}

/// When what was done last.
#[derive(Default)]
struct Last {
    listed: Option<Instant>,
    swept: Option<Instant>,
    collected: Option<Instant>,
    /// The logs of the runs that had ended at the last sweep.
    ended: HashMap<RunId, History>,
    /// How often somebody had rung; `None` where the progress service did not say.
    rung: Option<u64>,
}

fn is_due(last: Option<Instant>, every: Duration) -> bool {
    last.is_none_or(|at| at.elapsed() >= every)
}

impl Service {
    /// A service, and whether it has the lease.
    pub fn new(backends: Backends, config: ServiceConfig) -> (Self, watch::Receiver<bool>) {
        let (leading, receiver) = watch::channel(false);
        (Self { backends, config, leading }, receiver)
    }

    /// Works until `drain` is cancelled; then stops every run in good order and gives the lease up.
    pub async fn run(self, drain: CancellationToken) {
        let mut driving = Driving::default();
        let stop = drain.child_token();
        let mut last = Last::default();
        let mut renewed = None;
        let mut lease = Lease::new(self.config.owner.clone(), self.config.lease);
        let mut collecting = JoinSet::new();
        while !drain.is_cancelled() {
            // Who waits for the lease asks at every turn, so that it is taken up soon after its end.
            let leads = *self.leading.borrow();
            if !leads || is_due(renewed, self.config.lease / 3) {
                self.renew(&mut lease, &mut renewed).await;
            }
            if *self.leading.borrow() {
                if !leads {
                    last = Last::default();
                }
                let taken_up = drain.run_until_cancelled(self.take_up(&mut driving, &mut last, &stop));
                if let Some(Some(Err(error))) = self.while_leading(&mut lease, &mut renewed, taken_up).await {
                    tracing::warn!(%error, "the runs cannot be listed; trying again");
                }
            }
            if *self.leading.borrow() {
                if is_due(last.collected, COLLECT) && collecting.is_empty() {
                    last.collected = Some(Instant::now());
                    collecting.spawn(collect(self.backends.clone(), self.config.clone(), stop.clone()));
                }
            } else {
                driving.tokens.values().for_each(CancellationToken::cancel);
            }
            driving.wait(&drain, self.config.lease / 10).await;
            while collecting.try_join_next().is_some() {}
        }
        stop.cancel();
        while driving.runs.join_next().await.is_some() {}
        collecting.shutdown().await;
        lease.release(&self.backends).await;
    }

    async fn renew(&self, lease: &mut Lease, renewed: &mut Option<Instant>) {
        *renewed = Some(Instant::now());
        self.leading.send_replace(lease.seek(&self.backends).await);
    }

    /// Keeps the lease while something is done that may take longer; `None` where it was lost before that was done.
    async fn while_leading<T>(
        &self,
        lease: &mut Lease,
        renewed: &mut Option<Instant>,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let mut work = std::pin::pin!(work);
        loop {
            let due = renewed.unwrap_or_else(Instant::now) + self.config.lease / 3;
            tokio::select! {
                biased;
                done = &mut work => return Some(done),
                () = tokio::time::sleep_until(due) => self.renew(lease, renewed).await,
            }
            if !*self.leading.borrow() {
                return None;
            }
        }
    }

    /// Begins to drive every run that is to be driven and is not.
    async fn take_up(
        &self,
        driving: &mut Driving,
        last: &mut Last,
        stop: &CancellationToken,
    ) -> Result<(), CoordinatorError> {
        // `None` while the progress service is away. Nobody can ring then: what came meanwhile is looked for as soon as it
        // answers again.
        let mut rung = self.backends.progress.rung().await.ok();
        if mutant::is_back(Mutant::BellIsMissed) {
            rung = rung.or(last.rung);
        }
        let every = if rung.is_some() { LIST } else { LIST_WITHOUT_BELL };
        if rung == last.rung && !is_due(last.listed, every) {
            return Ok(());
        }
        let listing = Instant::now();
        let mut found: BTreeSet<RunId> = runs_below(&*self.backends.objects, SharedKey::ACTIVE).await?;
        if is_due(last.swept, SWEEP) {
            found.extend(self.sweep(driving, &mut last.ended).await?);
            last.swept = Some(Instant::now());
        }
        // Only now: a bell is not heard before the list was read for it.
        (last.rung, last.listed) = (rung, Some(listing));
        let unknown = found.into_iter().filter(|run| !driving.tokens.contains_key(run)).collect::<Vec<_>>();
        let read = |run: RunId| async move {
            let store = RunStore::shared(self.backends.objects.clone(), &run);
            let history = store.history().await;
            (run, store, history)
        };
        let mut logs = stream::iter(unknown).map(read).buffered(AT_ONCE);
        while let Some((run, store, history)) = logs.next().await {
            match history {
                // Half a submission is the collection's.
                Ok(history) if history.decisions() == 0 => {}
                // Also one that has ended: its counts may not be settled yet.
                Ok(_) => driving.begin(&self.backends, &self.config.runs, store, run, stop),
                // What is wrong with one run keeps no other one from being driven.
                Err(error) if error.may_pass_later() => {
                    tracing::warn!(%run, %error, "the run's log cannot be read; trying again");
                    last.listed = None;
                }
                Err(error) => {
                    tracing::error!(%run, %error, "the run's log cannot be read; the run is stuck until that is fixed")
                }
            }
        }
        Ok(())
    }

    /// The runs that have not ended, of all that were ever submitted, and those that were deleted and are still there. Of
    /// one that had `ended` at the last sweep, only what was decided since is read.
    async fn sweep(
        &self,
        driving: &Driving,
        ended: &mut HashMap<RunId, History>,
    ) -> Result<Vec<RunId>, CoordinatorError> {
        if mutant::is_back(Mutant::NobodySweeps) {
            return Ok(Vec::new());
        }
        let submitted = runs_below(&*self.backends.objects, SharedKey::SUBMITTED).await?;
        let unknown = submitted.into_iter().filter(|run| !driving.tokens.contains_key(run));
        let look = |(run, known): (RunId, Option<History>)| {
            let store = RunStore::shared(self.backends.objects.clone(), &run);
            async move {
                let history = match known {
                    Some(mut history) => store.refresh(&mut history).await.map(|_| history),
                    None => store.history().await,
                };
                (run, history)
            }
        };
        let with_history = unknown.map(|run| (run.clone(), ended.remove(&run))).collect::<Vec<_>>();
        ended.clear();
        let mut looked = stream::iter(with_history).map(look).buffer_unordered(AT_ONCE);
        let mut found = Vec::new();
        while let Some((run, history)) = looked.next().await {
            match history {
                Ok(history) if history.ended().is_some() && !history.is_deleted() => {
                    ended.insert(run, history);
                }
                Ok(_) => found.push(run),
                Err(error) => tracing::warn!(%run, %error, "the run's log cannot be read"),
            }
        }
        Ok(found)
    }
}

impl Driving {
    fn begin(
        &mut self,
        backends: &Backends,
        config: &CoordinatorConfig,
        store: RunStore,
        run: RunId,
        stop: &CancellationToken,
    ) {
        let token = stop.child_token();
        self.tokens.insert(run.clone(), token.clone());
        let (backends, config) = (backends.clone(), config.clone());
        let span = tracing::info_span!("run", %run);
        let driven = run.clone();
        let task = async move { conduct(backends, store, config, &driven, token).await };
        let handle = self.runs.spawn(task.instrument(span));
        self.by_task.insert(handle.id(), run);
    }

    /// Waits this long, or until the drain. A run that is driven no more, however that ended, may be taken up again.
    async fn wait(&mut self, drain: &CancellationToken, pause: Duration) {
        let pause = tokio::time::sleep(pause);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                biased;
                () = drain.cancelled() => return,
                Some(ended) = self.runs.join_next_with_id() => {
                    let id = match ended {
                        Ok((id, ())) => id,
                        Err(error) => {
                            tracing::error!(%error, "driving a run panicked; it is picked up again; please report this");
                            error.id()
                        }
                    };
                    if let Some(run) = self.by_task.remove(&id) {
                        self.tokens.remove(&run);
                    }
                }
                () = &mut pause => return,
            }
        }
    }
}

/// Puts the run on the list of those that the leading coordinator takes up, and rings for it.
pub(crate) async fn hand_over(backends: &Backends, run: &RunId) -> Result<(), CoordinatorError> {
    backends.objects.put(&SharedKey::Active(run.clone()).to_string(), bytes::Bytes::new()).await?;
    if let Err(error) = backends.progress.ring().await {
        tracing::debug!(%error, "the leader could not be notified; it will find the run on its next scan");
    }
    Ok(())
}

/// Takes a run that has ended off the list, unless it goes on by now.
async fn strike_off(backends: &Backends, store: &RunStore, run: &RunId) -> Result<(), CoordinatorError> {
    backends.objects.delete(&SharedKey::Active(run.clone()).to_string()).await?;
    let history = store.history().await?;
    if history.decisions() > 0 && (history.ended().is_none() || history.is_deleted()) {
        hand_over(backends, run).await?;
    }
    Ok(())
}

async fn collect(backends: Backends, config: ServiceConfig, stop: CancellationToken) {
    match stop.run_until_cancelled(gc::collect(&backends, &config.owner, config.grace, false)).await {
        Some(Ok(collected)) if !collected.is_empty() => {
            tracing::info!(%collected, "garbage was collected")
        }
        Some(Ok(_)) | None => {}
        Some(Err(error)) => tracing::warn!(%error, "garbage collection failed; it is retried later"),
    }
}

/// Drives one run to its end, through whatever goes wrong.
async fn conduct(backends: Backends, store: RunStore, config: CoordinatorConfig, run: &RunId, stop: CancellationToken) {
    let mut wait = FIRST_WAIT;
    loop {
        let begun = Instant::now();
        // A deletion goes through as many objects as there are, and may be broken off anywhere.
        let driven = stop.run_until_cancelled(drive(&backends, &store, &config, run, &stop)).await;
        let Some(driven) = driven else { return };
        match driven {
            Ok(()) => return,
            Err(error) if error.is_retryable() => tracing::warn!(%error, ?wait, "trying again"),
            // Nothing of a run is lost with the progress, so no run is paused for it; and somebody is told.
            Err(CoordinatorError::Progress(error)) => {
                tracing::error!(%error, ?wait, "the progress service refuses; retrying until that is fixed");
            }
            Err(error) => {
                if let Err(error) = record_fault(&backends, &store, run, &config.name, &error.to_string()).await {
                    tracing::error!(%error, "why it stands still could not be recorded");
                }
                wait_for_another_wish(&backends, &store, run, &stop).await;
            }
        }
        if begun.elapsed() > LONGEST_WAIT {
            // It went well for a while: this is another outage, not the last one's next try.
            wait = FIRST_WAIT;
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => wait = (wait * 2).min(LONGEST_WAIT),
        }
    }
}

/// A paused run whose fault was not mended would only fail again.
async fn wait_for_another_wish(backends: &Backends, store: &RunStore, run: &RunId, stop: &CancellationToken) {
    let before = match store.history().await {
        Ok(before) => before,
        Err(error) if error.kind == ObjectErrorKind::Damaged => {
            // The run is damaged where nobody can pause it.
            stop.run_until_cancelled(tokio::time::sleep(LIST)).await;
            return;
        }
        Err(_) => return,
    };
    if matches!(before.state(), None | Some(RunState::Running)) {
        // It was deleted, resumed or reopened since it failed.
        return;
    }
    let (mut asked, known) = (Instant::now(), before.decisions());
    // Whoever deletes it leaves nothing to announce, but rings.
    let mut rung = backends.progress.rung().await.ok();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
        let heard = backends.progress.rung().await.ok();
        let is_news = !matches!(backends.progress.head(run).await, Ok(Some(head)) if head.decisions <= known);
        if is_news || std::mem::replace(&mut rung, heard) != heard || asked.elapsed() >= LIST {
            asked = Instant::now();
            match store.history().await {
                Ok(history) if history.decisions() > known => return,
                Ok(history) => backends.announce(run, &history).await,
                Err(error) => tracing::warn!(%error, "the run's log cannot be read"),
            }
        }
    }
}

async fn drive(
    backends: &Backends,
    store: &RunStore,
    config: &CoordinatorConfig,
    run: &RunId,
    stop: &CancellationToken,
) -> Result<(), CoordinatorError> {
    let history = store.history().await?;
    if history.is_deleted() {
        return delete::carry_out(backends, store, run).await;
    }
    let spec = store.spec().await?;
    let Some(spec) = spec.filter(|spec| spec.run == *run) else {
        let key = store.path(&diorama_core::key::ObjectKey::Spec);
        return Err(
            diorama_backends::objects::ObjectError::damaged(key, "it is missing or belongs to another run").into()
        );
    };
    let (watchers, _) = watch::channel(RunProgress::start(spec.tasks));
    let coordinator = Coordinator::new(backends.clone(), store.clone(), config.clone(), watchers);
    match coordinator.drive(&spec, stop).await? {
        RunEnd::Drained => Ok(()),
        RunEnd::Deleted => delete::carry_out(backends, store, run).await,
        RunEnd::Finished(summary) | RunEnd::Cancelled(summary) => {
            tracing::info!(state = %summary.state, done = summary.done, failed = summary.failed, "the run has ended");
            // While the progress service is away, the run stays on the list, and this is done later.
            ending::settle_counts(backends, store, &spec, &store.history().await?).await?;
            strike_off(backends, store, run).await?;
            idle::remove_queue(backends, config, &spec.pool).await;
            if let Err(error) = backends.progress.expire(run, REMEMBER_ENDED).await {
                tracing::debug!(%error, "the progress service will keep the run's keys longer than usual");
            }
            Ok(())
        }
    }
}
