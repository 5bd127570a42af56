//! The active runs, listed once for everybody who asks: a spec never changes, and the list is read again when somebody
//! rang.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use diorama_core::key::SharedKey;
use diorama_core::run::RunSpec;
use futures::{StreamExt, stream};
use tokio::time::Instant;

use super::{Api, Problem};
use crate::index::runs_below;

/// Between two listings where nobody rang.
pub(super) const LIST: Duration = Duration::from_secs(120);

/// Runs that are looked at, at a time.
const AT_ONCE: usize = 32;

pub(super) type Specs = Vec<Arc<RunSpec>>;

/// The active runs, as they were listed last.
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

    /// As they were listed last, however long ago.
    pub(super) fn last(&self) -> Specs {
        self.listed().runs.clone()
    }
}

/// The specs of the active runs, from a listing not older than `age` where nobody rang since. A run that cannot be read
/// is left out.
pub(super) async fn specs(api: &Api, age: Duration) -> Result<Specs, Problem> {
    let rung = api.backends().progress.rung().await.ok();
    let known = api.active.listed().clone();
    if known.rung == rung && known.at.is_some_and(|at| at.elapsed() < age) {
        return Ok(known.runs);
    }
    let ids = runs_below(&*api.backends().objects, SharedKey::ACTIVE).await?;
    let read = stream::iter(ids).map(|run| async move { api.spec_of_any(&run).await.ok().flatten() });
    let runs: Specs = read.buffered(AT_ONCE).filter_map(std::future::ready).collect().await;
    *api.active.listed() = Listed { runs: runs.clone(), at: Some(Instant::now()), rung };
    Ok(runs)
}
