//! What Prometheus is told, from memory: what the last look at runs and pools saw, and how requests were answered.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use diorama_core::run::AcceptanceCounts;
use prometheus::{Encoder, Error, GaugeVec, HistogramOpts, HistogramVec, IntGaugeVec, Opts, Registry, TextEncoder};

use super::fleet::{self, PoolStatus};
use super::{Api, Problem, Shared, active, outlook};
use crate::status::RunStatus;

/// Between two looks.
pub(super) const REFRESH: Duration = Duration::from_secs(if cfg!(test) { 0 } else { 5 });

/// Active runs with series of their own: the oldest ones. The pools' series count all of them.
const RUNS: usize = 100;

/// From an answer out of memory to a manifest of gigabytes.
const SECONDS: [f64; 12] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0];

/// The metrics of a coordinator beside what its process registers.
pub struct ApiMetrics {
    registry: Registry,
    requests: HistogramVec,
    seen: Mutex<Seen>,
}

/// What the last look saw. While a service is away, nothing.
#[derive(Default, Clone)]
struct Seen {
    pools: Vec<PoolStatus>,
    runs: Vec<RunStatus>,
}

impl ApiMetrics {
    /// Registers `diorama_http_request_seconds{route, method, code}`; `/metrics` shows all that is in `registry`.
    pub fn register(registry: Registry) -> Result<Self, Error> {
        let about = "Seconds until a request was answered, or its response began";
        let opts = HistogramOpts::new("diorama_http_request_seconds", about).buckets(SECONDS.to_vec());
        let requests = HistogramVec::new(opts, &["route", "method", "code"])?;
        registry.register(Box::new(requests.clone()))?;
        Ok(Self { registry, requests, seen: Mutex::default() })
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn encode(&self, leads: bool) -> Result<String, Error> {
        let mut families = self.registry.gather();
        families.extend(snapshot(&self.seen().clone(), leads)?.gather());
        let mut text = Vec::new();
        TextEncoder::new().encode(&families, &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

/// Looks at runs and pools, and remembers.
pub(super) async fn refresh(api: &Api) {
    let specs = active::specs(api, active::LIST).await.unwrap_or_else(|problem| {
        tracing::debug!(problem = problem.detail, "the active runs cannot be listed");
        api.active.last()
    });
    let seen = async {
        let runs = outlook::of(api, &specs).await?;
        let pools = fleet::all(api, &runs).await?;
        let mut runs: Vec<RunStatus> = runs.into_iter().map(|run| run.status).collect();
        runs.sort_by_key(|run| run.submitted_at);
        runs.truncate(RUNS);
        Ok::<_, Problem>(Seen { pools, runs })
    };
    *api.config.metrics.seen() = seen.await.unwrap_or_else(|problem| {
        tracing::warn!(problem = problem.detail, "the metrics of pools and runs are unavailable");
        Seen::default()
    });
}

/// Metrics in Prometheus' text format, from memory. Those of pools and runs are some seconds old, and left out while a
/// service is away.
#[utoipa::path(get, path = "/metrics", tag = "health", responses((status = 200, description = "text format 0.0.4")))]
pub(super) async fn metrics(State(api): State<Shared>) -> Result<(StatusCode, String), Problem> {
    let leads = *api.config.leading.borrow();
    let text = api.config.metrics.encode(leads);
    Ok((StatusCode::OK, text.map_err(|error| Problem::new(500, "metrics", error.to_string()))?))
}

/// Times the request, under the route that answers it.
pub(super) async fn time(State(api): State<Shared>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let method = method_label(request.method());
    let started = Instant::now();
    let response = next.run(request).await;
    // What anybody may type has no series of its own.
    if let Some(route) = route {
        let code = response.status();
        let labels = [route.as_str(), method, code.as_str()];
        api.config.metrics.requests.with_label_values(&labels).observe(started.elapsed().as_secs_f64());
    }
    response
}

/// What a method is called among the metrics: whoever may send any word must not make a series of each.
fn method_label(method: &Method) -> &'static str {
    let known = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::OPTIONS,
        Method::PATCH,
        Method::TRACE,
        Method::CONNECT,
    ];
    let names = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT"];
    known.iter().zip(names).find(|(known, _)| *known == method).map_or("other", |(_, name)| name)
}

/// The gauges of one moment.
fn snapshot(seen: &Seen, leads: bool) -> Result<Registry, Error> {
    let registry = Registry::new();
    let gauge = |name: &str, help: &str, labels: &[&str]| {
        let gauge = IntGaugeVec::new(Opts::new(name, help), labels)?;
        registry.register(Box::new(gauge.clone()))?;
        Ok::<_, Error>(gauge)
    };
    let leader = gauge("diorama_coordinator_leader", "1 where this coordinator drives the runs", &[])?;
    leader.with_label_values(&[] as &[&str]).set(i64::from(leads));

    let ready = gauge("diorama_queue_ready_shards", "Shards waiting for a worker", &["pool"])?;
    let dead = gauge("diorama_queue_dead_shards", "Dead-lettered shards", &["pool"])?;
    let workers = gauge("diorama_workers", "Workers with a recent heartbeat", &["pool"])?;
    let active = gauge("diorama_active_runs", "Runs that have not ended", &["pool"])?;
    let outstanding = gauge("diorama_pool_outstanding_shards", "Uncommitted shards of running runs", &["pool"])?;
    let about = "Workers that could each have a shard: uncommitted shards whose round has begun";
    let wanted = gauge("diorama_pool_wanted_workers", about, &["pool"])?;
    for pool in &seen.pools {
        for (gauge, value) in [
            (&ready, pool.ready),
            (&dead, pool.dead),
            (&workers, pool.workers),
            (&active, pool.runs),
            (&outstanding, pool.outstanding),
            (&wanted, pool.wanted_workers),
        ] {
            gauge.with_label_values(&[&pool.pool]).set(value as i64);
        }
    }

    let tasks = gauge("diorama_run_tasks", "Tasks of an active run by state", &["run", "pool", "state"])?;
    let pictures = gauge(
        "diorama_run_acceptance",
        "Pictures of an active run's condition: accepted, kept although no try passed, and further tries",
        &["run", "pool", "result"],
    )?;
    let about = Opts::new("diorama_run_eta_seconds", "Seconds until an active run is done, at the last minute's rate");
    let eta = GaugeVec::new(about, &["run", "pool"])?;
    registry.register(Box::new(eta.clone()))?;
    for run in &seen.runs {
        let (id, pool) = (run.run.as_str(), run.pool.as_str());
        let settled = run.done + run.failed + run.retrying + run.in_work;
        for (state, value) in [
            ("waiting", run.tasks.saturating_sub(settled)),
            ("in_work", run.in_work),
            ("retrying", run.retrying),
            ("done", run.done),
            ("failed", run.failed),
        ] {
            tasks.with_label_values(&[id, pool, state]).set(value as i64);
        }
        let AcceptanceCounts { accepted, kept, tries } = run.acceptance.unwrap_or_default();
        for (result, value) in [("accepted", accepted), ("kept", kept), ("tries", tries)] {
            pictures.with_label_values(&[id, pool, result]).set(value as i64);
        }
        if let Some(seconds) = run.eta_seconds {
            eta.with_label_values(&[id, pool]).set(seconds);
        }
    }
    Ok(registry)
}
