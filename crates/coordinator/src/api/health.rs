//! Health, for an orchestrator.

use axum::extract::State;

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
