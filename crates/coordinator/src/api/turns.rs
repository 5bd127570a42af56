//! Whose turn it is in a pool: what a run waits for that has nothing in work, from the workers that there are and the
//! active runs. Asked for many runs at once, each thing is looked up once.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use diorama_backends::objects::list_all;
use diorama_backends::progress::WorkerState;
use diorama_core::id::{Pool, RunId};
use diorama_core::key::SharedKey;
use diorama_core::run::RunSpec;
use futures::{StreamExt, stream};
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::fleet::LIST;
use super::{Api, Opened, Problem};
use crate::status::RunStatus;
use crate::waiting::Waiting;

/// Runs that are looked at, at a time.
const AT_ONCE: usize = 32;

type Specs = Vec<Arc<RunSpec>>;

/// The active runs, as they were listed last: a spec never changes, and the list is read again when somebody rang.
#[derive(Default)]
pub(crate) struct Active(Mutex<Listed>);

#[derive(Default, Clone)]
struct Listed {
    runs: Specs,
    at: Option<Instant>,
    rung: Option<u64>,
}

impl Active {
    fn listed(&self) -> MutexGuard<'_, Listed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

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
        status.waiting = match self.waits_for(&run.spec).await {
            Ok(waiting) => Some(waiting),
            Err(problem) => {
                status.degrade(format!("what it waits for is not known ({})", problem.detail));
                None
            }
        };
    }

    async fn waits_for(&self, spec: &RunSpec) -> Result<Waiting, Problem> {
        if !self.served.get_or_try_init(|| served(self.api)).await?.contains(&spec.pool) {
            return Ok(Waiting::Worker);
        }
        let active = self.active.get_or_try_init(|| active(self.api)).await?;
        let first = |other: &&Arc<RunSpec>| other.pool == spec.pool && other.priority > spec.priority;
        let mut before: Vec<&Arc<RunSpec>> = active.iter().filter(first).collect();
        before.sort_by_key(|other| (-other.priority, &other.run));
        for other in before {
            if self.asks(&other.run).await? {
                return Ok(Waiting::Run { run: other.run.clone(), priority: other.priority });
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

async fn active(api: &Api) -> Result<Specs, Problem> {
    let rung = Some(api.backends().progress.rung().await?);
    let known = api.active.listed().clone();
    if known.rung == rung && known.at.is_some_and(|at| at.elapsed() < LIST) {
        return Ok(known.runs);
    }
    let specs: HashMap<&RunId, &Arc<RunSpec>> = known.runs.iter().map(|spec| (&spec.run, spec)).collect();
    let listed = list_all(&*api.backends().objects, SharedKey::ACTIVE).await?;
    let ids = listed.iter().filter_map(|object| SharedKey::run(&object.key));
    let looks: Vec<_> = ids.map(|run| spec(api, specs.get(&run).map(|spec| Arc::clone(spec)), run)).collect();
    let runs: Specs = stream::iter(looks).buffered(AT_ONCE).filter_map(std::future::ready).collect().await;
    *api.active.listed() = Listed { runs: runs.clone(), at: Some(Instant::now()), rung };
    Ok(runs)
}

/// The run's spec, as it was read before. A run that cannot be read gets no turn, so nobody waits for it.
async fn spec(api: &Api, known: Option<Arc<RunSpec>>, run: RunId) -> Option<Arc<RunSpec>> {
    match known {
        Some(spec) => Some(spec),
        None => api.hear(&run).await.ok().flatten().map(|opened| opened.spec),
    }
}

/// Whether the run is to go on and has shards that nobody has begun.
async fn asks(api: &Api, run: &RunId) -> Result<bool, Problem> {
    // A damaged run gets no turn.
    let Some(Opened { history, .. }) = api.hear(run).await.ok().flatten() else { return Ok(false) };
    if !history.wants_work() || Waiting::by_log(&history).is_some() {
        return Ok(false);
    }
    let shards: u64 = history.rounds().iter().map(|round| u64::from(round.shards)).sum();
    let committed = api.backends().progress.counted(run).await?.counts.shards;
    let held = api.backends().progress.holders(run).await?.len() as u64;
    Ok(shards > committed + held)
}
