//! Health, for an orchestrator: out of memory, so that no service and no crowd delays an answer.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::extract::State;
use tokio_util::sync::CancellationToken;

use super::{Api, Problem, Shared};

/// Between two looks at the object store.
const LOOK: Duration = Duration::from_secs(2);

/// How long a look may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the last look at the object store said; `None` where nobody keeps looking.
#[derive(Debug, Default)]
pub(crate) struct Health(Mutex<Option<Result<(), Problem>>>);

impl Health {
    fn known(&self) -> Option<Result<(), Problem>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Api {
    /// Looks at the object store from time to time until `drain` is cancelled: `/readyz` answers from memory.
    pub async fn keep_health(&self, drain: CancellationToken) {
        loop {
            let seen = self.look().await;
            *self.health.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(seen);
            if drain.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_none() {
                return;
            }
        }
    }

    async fn look(&self) -> Result<(), Problem> {
        match tokio::time::timeout(PATIENCE, self.backends().objects.head("probe/ready")).await {
            Ok(looked) => Ok(looked.map(drop)?),
            Err(_) => {
                let message = format!("the object store has not answered for {PATIENCE:?}; try again");
                Err(Problem::new(503, "object_store_unavailable", message))
            }
        }
    }
}

/// The process is alive.
#[utoipa::path(get, path = "/livez", tag = "health", responses((status = 200, description = "alive")))]
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// What the API cannot answer without can be reached, or could be some seconds ago: the object store. Where Redis or the
/// queue is away, it answers in a degraded way.
#[utoipa::path(get, path = "/readyz", tag = "health",
    responses((status = 200, description = "ready"), (status = 503, body = Problem)))]
pub(super) async fn readyz(State(api): State<Shared>) -> Result<&'static str, Problem> {
    match api.health.known() {
        Some(known) => known?,
        None => api.look().await?,
    }
    Ok("ok\n")
}
