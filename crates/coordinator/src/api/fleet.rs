//! Workers and pools, as they are now.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use diorama_core::id::Pool;
use diorama_core::run::RunSpec;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{Api, Problem, Shared, active};

/// Between two looks at the workers and queues for `/metrics`.
pub(super) const REFRESH: Duration = Duration::from_secs(if cfg!(test) { 0 } else { 5 });

/// A pool.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct PoolStatus {
    /// Its name.
    pub(super) pool: String,
    /// Workers with a recent heartbeat.
    pub(super) workers: u64,
    /// Runs that have not ended.
    pub(super) runs: u64,
    /// Shards that wait in its queue.
    pub(super) ready: u64,
    /// Consumers of its queue.
    pub(super) consumers: u64,
    /// Dead letters.
    pub(super) dead: u64,
}

/// The pools as they were at the last look, for `/metrics`.
#[derive(Default)]
pub(crate) struct Pools(Mutex<Vec<PoolStatus>>);

impl Pools {
    fn known(&self) -> MutexGuard<'_, Vec<PoolStatus>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn last(&self) -> Vec<PoolStatus> {
        self.known().clone()
    }
}

/// Looks at the pools, and remembers. While a service is away, nothing is known of them.
pub(super) async fn refresh(api: &Api) {
    let runs = active::specs(api, active::LIST).await.unwrap_or_else(|problem| {
        tracing::debug!(problem = problem.detail, "the active runs cannot be listed");
        api.active.last()
    });
    let pools = all(api, &runs).await.unwrap_or_else(|problem| {
        tracing::warn!(problem = problem.detail, "the pools' metrics are unavailable");
        Vec::new()
    });
    *api.pools.known() = pools;
}

/// Workers with a recent heartbeat.
#[utoipa::path(get, path = "/v1/workers", tag = "fleet",
    responses((status = 200, description = "worker, pool, state, model, identity, device, done", body = Vec<Object>)))]
pub(super) async fn workers(State(api): State<Shared>) -> Result<Json<Value>, Problem> {
    let workers = api.backends().progress.workers().await?;
    Ok(Json(serde_json::to_value(workers).unwrap_or_default()))
}

/// The pools that have workers or runs.
#[utoipa::path(get, path = "/v1/pools", tag = "fleet", responses((status = 200, body = Vec<PoolStatus>)))]
pub(super) async fn pools(State(api): State<Shared>) -> Result<Json<Vec<PoolStatus>>, Problem> {
    // As they are now.
    let runs = active::specs(&api, Duration::ZERO).await?;
    Ok(Json(all(&api, &runs).await?))
}

async fn all(api: &Api, active: &[Arc<RunSpec>]) -> Result<Vec<PoolStatus>, Problem> {
    // Workers, and runs that have not ended.
    let mut counted: BTreeMap<Pool, (u64, u64)> = BTreeMap::new();
    for run in active {
        counted.entry(run.pool.clone()).or_default().1 += 1;
    }
    for worker in api.backends().progress.workers().await? {
        counted.entry(worker.pool).or_default().0 += 1;
    }
    let mut pools = Vec::with_capacity(counted.len());
    for (pool, (workers, runs)) in counted {
        let depth = api.backends().queue.depth(&pool).await?;
        let (ready, consumers, dead) = (depth.ready, depth.consumers, depth.dead);
        pools.push(PoolStatus { pool: pool.to_string(), workers, runs, ready, consumers, dead });
    }
    Ok(pools)
}
