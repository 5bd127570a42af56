//! Whose turn it is in a pool: what a run waits for that has nothing in work, from the workers that there are and the
//! active runs. Asked for many runs at once, each thing is looked up once.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use diorama_backends::progress::WorkerState;
use diorama_core::id::{Pool, RunId};
use diorama_core::run::RunSpec;
use tokio::sync::OnceCell;

use super::active::{self, Specs};
use super::{Api, Opened, Problem};
use crate::status::RunStatus;
use crate::waiting::Waiting;

/// The pools at one moment, as far as anybody asked.
pub(super) struct Turns<'a> {
    api: &'a Api,
    /// The pools that workers serve.
    served: OnceCell<BTreeSet<Pool>>,
    active: OnceCell<Specs>,
    /// Whether a run has shards that nobody has begun.
    asks: Mutex<HashMap<RunId, bool>>,
}

impl<'a> Turns<'a> {
    /// Nothing is looked up yet.
    pub(super) fn new(api: &'a Api) -> Self {
        Self { api, served: OnceCell::new(), active: OnceCell::new(), asks: Mutex::default() }
    }

    /// Says what the run waits for, where all that is known is that it waits.
    pub(super) async fn explain(&self, run: &Opened, status: &mut RunStatus) {
        if status.waiting != Some(Waiting::Turn) {
            return;
        }
        status.waiting = match self.waits_for(run).await {
            Ok(waiting) => Some(waiting),
            Err(problem) => {
                status.degrade(format!("what it waits for is not known ({})", problem.detail));
                None
            }
        };
    }

    async fn waits_for(&self, run: &Opened) -> Result<Waiting, Problem> {
        let spec = &run.spec;
        if !self.served.get_or_try_init(|| served(self.api)).await?.contains(&spec.pool) {
            return Ok(Waiting::Worker);
        }
        let active = self.active.get_or_try_init(|| active::specs(self.api, active::LIST)).await?;
        let first = |other: &&Arc<RunSpec>| other.pool == spec.pool && other.priority > spec.priority;
        let mut before: Vec<&Arc<RunSpec>> = active.iter().filter(first).collect();
        before.sort_by_key(|other| (-other.priority, &other.run));
        for other in before {
            if self.asks(&other.run).await? {
                // Of another's run, only that it is one is told.
                let is_seen = run.caller().is_none_or(|caller| caller.sees(other.owner.as_ref()));
                let behind = Waiting::Run { run: other.run.clone(), priority: other.priority };
                return Ok(if is_seen { behind } else { Waiting::Turn });
            }
        }
        Ok(Waiting::Turn)
    }

    async fn asks(&self, run: &RunId) -> Result<bool, Problem> {
        let known = || self.asks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(asks) = known().get(run).copied() {
            return Ok(asks);
        }
        let asks = asks(self.api, run).await?;
        known().insert(run.clone(), asks);
        Ok(asks)
    }
}

/// The pools that workers serve which take more than they have.
async fn served(api: &Api) -> Result<BTreeSet<Pool>, Problem> {
    let workers = api.backends().progress.workers().await?;
    let serves = |state| match state {
        WorkerState::Idle | WorkerState::Working => true,
        WorkerState::Draining => false,
    };
    Ok(workers.into_iter().filter(|worker| serves(worker.state)).map(|worker| worker.pool).collect())
}

/// Whether the run is to go on and has shards that nobody has begun.
async fn asks(api: &Api, run: &RunId) -> Result<bool, Problem> {
    // A damaged run gets no turn.
    let Some(Opened { history, .. }) = api.hear_any(run).await.ok().flatten() else { return Ok(false) };
    if !history.wants_work() || Waiting::by_log(&history).is_some() {
        return Ok(false);
    }
    let committed = api.backends().progress.counted(run).await?.counts.shards;
    let held = api.backends().progress.holders(run).await?.len() as u64;
    Ok(history.shards() > committed + held)
}
