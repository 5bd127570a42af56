//! Workers and pools, as they are now.

mod history;
mod overview;
mod problems;

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use diorama_backends::queue::QueueDepth;
use diorama_core::id::Pool;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) use self::history::Series;
pub(crate) use self::overview::Overview;
use super::outlook::{self, Outlook};
use super::{Api, Problem, Shared, active};

/// The routes of this module.
pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(workers))
        .routes(routes!(pools))
        .routes(routes!(overview::show))
        .routes(routes!(overview::events))
}

/// A pool.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
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
    /// Shards of running runs that are not committed.
    pub(super) outstanding: u64,
    /// Of those, shards whose round has begun: as many workers would each find one.
    pub(super) wanted_workers: u64,
}

/// Workers with a recent heartbeat.
#[utoipa::path(get, path = "/v1/workers", tag = "fleet",
    responses((status = 200, description = "worker, pool, state, model, identity, device, done", body = Vec<Object>)))]
async fn workers(State(api): State<Shared>) -> Result<Json<Value>, Problem> {
    let workers = api.backends().progress.workers().await?;
    Ok(Json(serde_json::to_value(workers).unwrap_or_default()))
}

/// The pools that have workers or runs, and those that the coordinator was told of.
#[utoipa::path(get, path = "/v1/pools", tag = "fleet", responses((status = 200, body = Vec<PoolStatus>)))]
async fn pools(State(api): State<Shared>) -> Result<Json<Vec<PoolStatus>>, Problem> {
    // As they are now.
    let specs = active::specs(&api, Duration::ZERO).await?;
    let runs = outlook::of(&api, &specs).await?;
    Ok(Json(all(&api, &runs).await?))
}

/// Every pool, with what the active `runs` ask of it.
pub(super) async fn all(api: &Api, runs: &[Outlook]) -> Result<Vec<PoolStatus>, Problem> {
    #[derive(Default)]
    struct Counted {
        workers: u64,
        runs: u64,
        outstanding: u64,
        begun: u64,
    }
    let mut counted: BTreeMap<Pool, Counted> =
        api.config.pools.iter().map(|pool| (pool.clone(), Counted::default())).collect();
    for run in runs {
        let pool = counted.entry(run.status.pool.clone()).or_default();
        pool.runs += 1;
        pool.outstanding += run.outstanding();
        pool.begun += run.begun();
    }
    for worker in api.backends().progress.workers().await? {
        counted.entry(worker.pool).or_default().workers += 1;
    }
    let mut pools = Vec::with_capacity(counted.len());
    for (pool, Counted { workers, runs, outstanding, begun }) in counted {
        let QueueDepth { ready, consumers, dead } = api.backends().queue.depth(&pool).await?;
        let pool = pool.to_string();
        pools.push(PoolStatus { pool, workers, runs, ready, consumers, dead, outstanding, wanted_workers: begun });
    }
    Ok(pools)
}
