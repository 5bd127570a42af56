//! Pools that were there for a run only.

use diorama_core::id::Pool;
use diorama_protocol::Backends;

use crate::config::CoordinatorConfig;

/// Removes the queue of a pool that was there for a run only: nobody declared it, serves it or has another run in it.
pub(crate) async fn remove_queue(backends: &Backends, config: &CoordinatorConfig, pool: &Pool) {
    if config.pools.contains(pool) || config.shares.has_runs(pool) {
        return;
    }
    let removed = async {
        // While nobody knows who serves it, it stays.
        let Ok(workers) = backends.progress.workers().await else { return Ok(false) };
        if workers.iter().any(|worker| worker.pool == *pool) {
            return Ok(false);
        }
        backends.queue.remove_if_idle(pool).await
    };
    match removed.await {
        Ok(true) => tracing::debug!(%pool, "the pool's empty queue was removed"),
        Ok(false) => {}
        Err(error) => tracing::debug!(%pool, %error, "an empty queue may have stayed"),
    }
}
