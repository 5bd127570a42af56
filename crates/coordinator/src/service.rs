//! Many runs of a shared store: one coordinator at a time, the one with the lease, drives every run that has not ended.
//!
//! Safety never depends on the lease: two that drive the same run publish some shards twice, and nothing else. What goes
//! wrong with one run stops that run only: it is tried again where that may help, and paused with the reason where not.

use std::collections::HashMap;
use std::time::Duration;

use diorama_backends::Backends;
use diorama_backends::objects::{ObjectError, list_all};
use diorama_backends::run_store::RunStore;
use diorama_core::id::RunId;
use diorama_core::key::{ObjectKey, RunRoot, SharedKey};
use diorama_core::run::RunState;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::coordinator::{Coordinator, CoordinatorConfig, RunEnd};
use crate::delete;
use crate::error::CoordinatorError;
use crate::reconcile::catch_up;
use crate::reopen::{ending, hand_over};
use crate::submit::is_submitted;
use crate::watch::RunProgress;

/// The lease's name.
const LEASE: &str = "coordinator";

/// How long the progress service remembers a run that has ended.
const REMEMBER_ENDED: Duration = Duration::from_secs(7 * 24 * 3600);

/// The waits between two tries to drive a run that a service's absence ended.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// How a service works.
#[derive(Debug, Clone)]
pub struct ServiceConfig {
    /// Its name, different from every other coordinator's.
    pub owner: String,
    /// After this long without a sign of life of the one with the lease, another takes over.
    pub lease: Duration,
    /// How each run is driven.
    pub runs: CoordinatorConfig,
}

/// Drives the runs of a shared store.
pub struct Service {
    backends: Backends,
    config: ServiceConfig,
    leading: watch::Sender<bool>,
}

impl Service {
    /// A service, and whether it has the lease.
    pub fn new(backends: Backends, config: ServiceConfig) -> (Self, watch::Receiver<bool>) {
        let (leading, receiver) = watch::channel(false);
        (Self { backends, config, leading }, receiver)
    }

    /// Works until `drain` is cancelled; then stops every run in good order and gives the lease up.
    pub async fn run(self, drain: CancellationToken) {
        let mut driving: HashMap<RunId, CancellationToken> = HashMap::new();
        let mut runs: JoinSet<RunId> = JoinSet::new();
        let stop = drain.child_token();
        let mut renewed: Option<Instant> = None;
        while !drain.is_cancelled() {
            // Who waits for the lease asks at every turn, so that it is taken up soon after its end.
            let leads = *self.leading.borrow();
            if !leads || renewed.is_none_or(|at| at.elapsed() > self.config.lease / 3) {
                renewed = Some(Instant::now());
                self.seek_lease().await;
            }
            if *self.leading.borrow() {
                if let Err(error) = self.take_up(&mut driving, &mut runs, &stop).await {
                    tracing::warn!(%error, "the runs cannot be listed; trying again");
                }
            } else {
                driving.values().for_each(CancellationToken::cancel);
            }
            let pause = tokio::time::sleep(self.config.lease / 10);
            tokio::pin!(pause);
            loop {
                tokio::select! {
                    biased;
                    () = drain.cancelled() => break,
                    Some(ended) = runs.join_next() => match ended {
                        Ok(run) => drop(driving.remove(&run)),
                        Err(error) => tracing::error!(%error, "driving a run ended badly; please report this"),
                    },
                    () = &mut pause => break,
                }
            }
        }
        stop.cancel();
        while runs.join_next().await.is_some() {}
        if *self.leading.borrow()
            && let Err(error) = self.backends.progress.release_lease(LEASE, &self.config.owner).await
        {
            tracing::warn!(%error, "the lease could not be given up; another coordinator waits for its end");
        }
    }

    async fn seek_lease(&self) {
        match self.backends.progress.lease(LEASE, &self.config.owner, self.config.lease).await {
            Ok(now) => {
                if self.leading.send_replace(now) != now {
                    let what =
                        if now { "this coordinator drives the runs now" } else { "another coordinator took over" };
                    tracing::info!(target: "diorama", "{what}");
                }
            }
            // Whoever led goes on: nothing depends on it, and nobody else can take over either.
            Err(error) => tracing::warn!(%error, "the lease cannot be renewed"),
        }
    }

    /// Begins to drive every active run that is not driven yet.
    async fn take_up(
        &self,
        driving: &mut HashMap<RunId, CancellationToken>,
        runs: &mut JoinSet<RunId>,
        stop: &CancellationToken,
    ) -> Result<(), ObjectError> {
        for object in list_all(&*self.backends.objects, SharedKey::ACTIVE).await? {
            let Some(run) = SharedKey::run(&object.key) else { continue };
            if driving.contains_key(&run) {
                continue;
            }
            let store = RunStore::new(self.backends.objects.clone(), RunRoot::Shared(run.clone()));
            let submitted = store.exists(&ObjectKey::RoundComplete(diorama_core::id::Round(0))).await?;
            if !submitted && !delete::is_under_way(&*self.backends.objects, &run).await? {
                continue; // Its submission is under way, or was cut off and is its sender's to repeat.
            }
            let token = stop.child_token();
            driving.insert(run.clone(), token.clone());
            let (backends, config) = (self.backends.clone(), self.config.runs.clone());
            runs.spawn(async move {
                conduct(backends, store, config, &run, token).await;
                run
            });
        }
        Ok(())
    }
}

/// Drives one run to its end, through whatever goes wrong.
async fn conduct(backends: Backends, store: RunStore, config: CoordinatorConfig, run: &RunId, stop: CancellationToken) {
    let mut wait = FIRST_WAIT;
    loop {
        let begun = Instant::now();
        match drive(&backends, &store, &config, run, &stop).await {
            Ok(()) => return,
            Err(error) if error.is_retryable() => tracing::warn!(%run, %error, ?wait, "trying again"),
            // Nothing of a run is lost with the progress, so no run is paused for it; and somebody is told.
            Err(CoordinatorError::Progress(error)) => {
                tracing::error!(%run, %error, ?wait, "the progress service refuses; trying again until that is mended");
            }
            Err(error) => {
                // What it misses is perhaps being removed: then the next turn removes the rest.
                if !delete::is_under_way(&*backends.objects, run).await.unwrap_or(false) {
                    tracing::error!(%run, %error, "the run is paused");
                    if let Err(error) = store.pause(Some(error.to_string())).await {
                        tracing::warn!(%run, %error, "that the run is paused could not be noted");
                    }
                    wait_for_another_wish(&store, &stop).await;
                }
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
async fn wait_for_another_wish(store: &RunStore, stop: &CancellationToken) {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
        if store.control().await.is_ok_and(|control| control.state != RunState::Paused) {
            return;
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
    if delete::is_under_way(&*backends.objects, run).await? {
        return delete::carry_out(backends, store, run).await;
    }
    let spec = store.spec().await?;
    let Some(spec) = spec.filter(|spec| spec.run == *run) else {
        let problem = "run.json is gone or speaks of another run";
        return Err(ObjectError::damaged(store.path(&ObjectKey::Spec), problem).into());
    };
    debug_assert!(is_submitted(store).await?);
    let (watchers, _) = watch::channel(RunProgress::start(spec.tasks));
    let coordinator = Coordinator::new(backends.clone(), store.clone(), config.clone(), watchers);
    match coordinator.drive(&spec, stop).await? {
        RunEnd::Drained => Ok(()),
        RunEnd::Finished(summary) | RunEnd::Cancelled(summary) => {
            tracing::info!(target: "diorama", %run, state = %summary.state, done = summary.done, failed = summary.failed, "the run has ended");
            // What the progress service lost while the final files were written: nobody looks after this run again.
            catch_up(store, &spec, &*backends.progress).await?;
            backends.objects.delete(&SharedKey::Active(run.clone()).to_string()).await?;
            backends.progress.expire(run, REMEMBER_ENDED).await?;
            // Whoever reopened or deleted it meanwhile put it on the list before we struck it off.
            let goes_on = store.exists(&ObjectKey::Spec).await? && ending(store).await?.is_none();
            if goes_on || delete::is_under_way(&*backends.objects, run).await? {
                hand_over(&*backends.objects, run).await?;
            }
            Ok(())
        }
    }
}
