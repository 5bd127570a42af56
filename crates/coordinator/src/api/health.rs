//! Health for an orchestrator, metrics for Prometheus.

use axum::extract::State;
use axum::http::StatusCode;
use prometheus::{Encoder, IntGaugeVec, Opts, Registry, TextEncoder};

use super::{Problem, Shared};

/// The process is alive.
#[utoipa::path(get, path = "/livez", tag = "health", responses((status = 200, description = "alive")))]
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// What the API cannot answer without can be reached: the object store. Where Redis or the queue is away, it answers in a
/// degraded way.
#[utoipa::path(get, path = "/readyz", tag = "health",
    responses((status = 200, description = "ready"), (status = 503, body = Problem)))]
pub(super) async fn readyz(State(api): State<Shared>) -> Result<&'static str, Problem> {
    api.backends().objects.head("probe/ready").await?;
    Ok("ok\n")
}

/// Metrics in Prometheus' text format, from memory. Those of the pools are some seconds old, and left out while a service
/// is away.
#[utoipa::path(get, path = "/metrics", tag = "health", responses((status = 200, description = "text format 0.0.4")))]
pub(super) async fn metrics(State(api): State<Shared>) -> Result<(StatusCode, String), Problem> {
    let failed = |error: prometheus::Error| Problem::new(500, "metrics", error.to_string());
    let registry = Registry::new();
    let gauge = |name: &str, help: &str, labels: &[&str]| {
        let gauge = IntGaugeVec::new(Opts::new(name, help), labels).map_err(failed)?;
        registry.register(Box::new(gauge.clone())).map_err(failed)?;
        Ok::<_, Problem>(gauge)
    };
    let leader = gauge("diorama_coordinator_leader", "1 where this coordinator drives the runs", &[])?;
    leader.with_label_values(&[] as &[&str]).set(i64::from(*api.config.leading.borrow()));
    let ready = gauge("diorama_queue_ready_shards", "Shards waiting for a worker", &["pool"])?;
    let dead = gauge("diorama_queue_dead_shards", "Dead-lettered shards", &["pool"])?;
    let workers = gauge("diorama_workers", "Workers with a recent heartbeat", &["pool"])?;
    let runs = gauge("diorama_active_runs", "Runs that have not ended", &["pool"])?;
    let pools = api.pools.last();
    for pool in pools {
        let label = &[pool.pool.as_str()];
        ready.with_label_values(label).set(pool.ready as i64);
        dead.with_label_values(label).set(pool.dead as i64);
        workers.with_label_values(label).set(pool.workers as i64);
        runs.with_label_values(label).set(pool.runs as i64);
    }
    let mut text = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut text).map_err(failed)?;
    Ok((StatusCode::OK, String::from_utf8_lossy(&text).into_owned()))
}
