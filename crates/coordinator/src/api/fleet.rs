//! Workers and pools, as they are now.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use diorama_backends::objects::list_all;
use diorama_core::id::Pool;
use diorama_core::key::SharedKey;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{Problem, Shared};

/// A pool.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PoolStatus {
    /// Its name.
    pub(super) pool: String,
    /// Workers that give signs of life.
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
    Ok(Json(all(&api).await?))
}

pub(super) async fn all(api: &Shared) -> Result<Vec<PoolStatus>, Problem> {
    let mut counted: BTreeMap<Pool, (u64, u64)> = BTreeMap::new();
    for worker in api.backends().progress.workers().await? {
        counted.entry(worker.pool).or_default().0 += 1;
    }
    for object in list_all(&*api.backends().objects, SharedKey::ACTIVE).await? {
        let Some(run) = SharedKey::run(&object.key) else { continue };
        if let Ok((_, spec)) = api.run(run.as_str()).await {
            counted.entry(spec.pool.clone()).or_default().1 += 1;
        }
    }
    let mut pools = Vec::with_capacity(counted.len());
    for (pool, (workers, runs)) in counted {
        let depth = api.backends().queue.depth(&pool).await?;
        let (ready, consumers, dead) = (depth.ready, depth.consumers, depth.dead);
        pools.push(PoolStatus { pool: pool.to_string(), workers, runs, ready, consumers, dead });
    }
    Ok(pools)
}
