//! What the API knows of the runs of a store: their specs, which never change, and their logs, which only grow. So a look
//! at a run that it has seen costs one request.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use diorama_backends::objects::ObjectError;
use diorama_core::id::RunId;
use diorama_core::run::RunSpec;
use diorama_protocol::history::History;
use diorama_protocol::{Backends, RunStore};
use tokio::time::Instant;

/// How long an entry is trusted to be the beginning of the run's log: a run that was deleted long ago loses it.
const AGE: Duration = Duration::from_secs(60);

/// Runs that are remembered.
const MOST: usize = 5000;

/// A run, as far as its log is known.
#[derive(Clone)]
pub(crate) struct Known {
    pub(crate) spec: Arc<RunSpec>,
    pub(crate) history: History,
    read_at: Instant,
}

/// The runs that were looked at lately.
#[derive(Default)]
pub(crate) struct Catalogue {
    runs: Mutex<HashMap<RunId, Known>>,
}

impl Catalogue {
    fn runs(&self) -> MutexGuard<'_, HashMap<RunId, Known>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The spec of a run that was looked at and has not been found deleted since.
    pub(crate) fn spec(&self, run: &RunId) -> Option<Arc<RunSpec>> {
        self.runs().get(run).map(|known| known.spec.clone())
    }

    /// The run as it is now; `None` where there is none, or none any more. One that is not completely submitted has an
    /// empty history.
    pub(crate) async fn open(
        &self,
        backends: &Backends,
        run: &RunId,
    ) -> Result<Option<(RunStore, Known)>, ObjectError> {
        let store = RunStore::shared(backends.objects.clone(), run);
        let known = self.runs().get(run).filter(|known| known.read_at.elapsed() < AGE).cloned();
        let known = match known {
            Some(mut known) => {
                store.refresh(&mut known.history).await?;
                known
            }
            None => {
                let (spec, history) = futures::try_join!(store.spec(), store.history())?;
                let Some(spec) = spec.filter(|_| !history.is_deleted()) else {
                    self.runs().remove(run);
                    return Ok(None);
                };
                Known { spec: Arc::new(spec), history, read_at: Instant::now() }
            }
        };
        if known.history.is_deleted() {
            self.runs().remove(run);
            return Ok(None);
        }
        let mut runs = self.runs();
        if runs.len() >= MOST && !runs.contains_key(run) {
            runs.clear();
        }
        runs.insert(run.clone(), known.clone());
        Ok(Some((store, known)))
    }

    /// The same, asking the store only where the progress service says that there is news, or cannot say.
    pub(crate) async fn hear(
        &self,
        backends: &Backends,
        run: &RunId,
    ) -> Result<Option<(RunStore, Known)>, ObjectError> {
        self.hear_since(backends, run, AGE).await
    }

    /// The same for figures that are looked at all day: what was read once is trusted until there is news.
    pub(crate) async fn glance(
        &self,
        backends: &Backends,
        run: &RunId,
    ) -> Result<Option<(RunStore, Known)>, ObjectError> {
        self.hear_since(backends, run, Duration::MAX).await
    }

    async fn hear_since(
        &self,
        backends: &Backends,
        run: &RunId,
        age: Duration,
    ) -> Result<Option<(RunStore, Known)>, ObjectError> {
        let known = self.runs().get(run).filter(|known| known.read_at.elapsed() < age).cloned();
        let Some(known) = known else { return self.open(backends, run).await };
        match backends.progress.head(run).await {
            Ok(Some(head)) if head.decisions <= known.history.decisions() => {
                Ok(Some((RunStore::shared(backends.objects.clone(), run), known)))
            }
            _ => self.open(backends, run).await,
        }
    }
}
