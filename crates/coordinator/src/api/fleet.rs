//! Workers and pools, as they are now.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use diorama_backends::objects::list_all;
use diorama_core::id::{Pool, RunId};
use diorama_core::key::SharedKey;
use futures::{StreamExt, stream};
use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::{Api, Problem, Shared};

/// Between two looks at the workers and queues for `/metrics`.
pub(super) const REFRESH: Duration = Duration::from_secs(if cfg!(test) { 0 } else { 5 });

/// Between two listings of the active runs, where nobody rang.
pub(super) const LIST: Duration = Duration::from_secs(120);

/// Runs that are looked at, at a time.
const AT_ONCE: usize = 32;

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
pub(crate) struct Pools {
    last: Mutex<Look>,
}

#[derive(Default, Clone)]
struct Look {
    pools: Vec<PoolStatus>,
    runs: BTreeMap<Pool, u64>,
    listed: Option<Instant>,
    rung: Option<u64>,
}

impl Pools {
    fn look(&self) -> Look {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn last(&self) -> Vec<PoolStatus> {
        self.look().pools
    }
}

/// Looks at the pools, and remembers. While a service is away, nothing is known of them.
pub(super) async fn refresh(api: &Api) {
    let mut look = api.pools.look();
    let rung = api.backends().progress.rung().await.ok();
    if rung != look.rung || look.listed.is_none_or(|at| at.elapsed() >= LIST) {
        match active_runs(api).await {
            Ok(runs) => (look.runs, look.listed, look.rung) = (runs, Some(Instant::now()), rung),
            Err(problem) => tracing::debug!(problem = problem.detail, "the active runs cannot be listed"),
        }
    }
    look.pools = match all(api, look.runs.clone()).await {
        Ok(pools) => pools,
        Err(problem) => {
            tracing::warn!(problem = problem.detail, "the pools' metrics are unavailable");
            Vec::new()
        }
    };
    *api.pools.last.lock().unwrap_or_else(PoisonError::into_inner) = look;
}

/// The workers that gave a sign of life lately.
#[utoipa::path(get, path = "/v1/workers", tag = "fleet",
    responses((status = 200, description = "worker, pool, state, model, identity, device, done", body = Vec<Object>)))]
pub(super) async fn workers(State(api): State<Shared>) -> Result<Json<Value>, Problem> {
    let workers = api.backends().progress.workers().await?;
    Ok(Json(serde_json::to_value(workers).unwrap_or_default()))
}

/// The pools that have workers or runs.
#[utoipa::path(get, path = "/v1/pools", tag = "fleet", responses((status = 200, body = Vec<PoolStatus>)))]
pub(super) async fn pools(State(api): State<Shared>) -> Result<Json<Vec<PoolStatus>>, Problem> {
    let runs = active_runs(&api).await?;
    Ok(Json(all(&api, runs).await?))
}

/// Runs that have not ended, by pool.
async fn active_runs(api: &Api) -> Result<BTreeMap<Pool, u64>, Problem> {
    let listed = list_all(&*api.backends().objects, SharedKey::ACTIVE).await?;
    let ids: Vec<RunId> = listed.iter().filter_map(|object| SharedKey::run(&object.key)).collect();
    let mut pools = stream::iter(ids).map(|run| async move { api.pool(&run).await }).buffer_unordered(AT_ONCE);
    let mut runs = BTreeMap::new();
    while let Some(pool) = pools.next().await {
        // What cannot be read counts for no pool.
        if let Ok(Some(pool)) = pool {
            *runs.entry(pool).or_default() += 1;
        }
    }
    Ok(runs)
}

async fn all(api: &Api, runs: BTreeMap<Pool, u64>) -> Result<Vec<PoolStatus>, Problem> {
    let mut counted: BTreeMap<Pool, (u64, u64)> = runs.into_iter().map(|(pool, runs)| (pool, (0, runs))).collect();
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
