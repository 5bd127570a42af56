//! The HTTP API of a coordinator: runs, blobs, workers, pools, health. Any coordinator answers, whichever drives the runs.
//!
//! Errors are `application/problem+json` with stable codes. The OpenAPI document is at `/openapi.json`.

mod auth;
mod blobs;
mod fleet;
mod health;
mod manifest_object;
mod problem;
mod results;
mod retry;
mod runs;
mod submit;
#[cfg(test)]
mod tests;
mod token;

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use diorama_backends::Backends;
use diorama_backends::objects::RemoteObjects;
use diorama_backends::run_store::RunStore;
use diorama_core::id::RunId;
use diorama_core::key::RunRoot;
use diorama_core::run::RunSpec;
use tokio::sync::watch;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use self::auth::{Role, Tokens, TokensError};
pub use self::problem::Problem;
pub use self::submit::SubmitRequest;

/// What the API stands on.
pub struct ApiConfig {
    /// The services.
    pub backends: Backends,
    /// The buckets of `s3://` manifests, where there are any.
    pub remote: Option<Arc<dyn RemoteObjects>>,
    /// Where uploads are kept while they are checked.
    pub scratch: PathBuf,
    /// The folder of references that workers share, where there is one.
    pub reference_root: Option<PathBuf>,
    /// Whether workers fetch `http://` too.
    pub plain_http: bool,
    /// Who may do what; `None`: anybody may do anything, which is for loopback only.
    pub tokens: Option<Tokens>,
    /// The largest manifest, in bytes.
    pub max_manifest_bytes: u64,
    /// The largest uploaded reference, in bytes.
    pub max_blob_bytes: u64,
    /// Whether this coordinator drives the runs.
    pub leading: watch::Receiver<bool>,
}

/// The state of every handler.
pub(crate) struct Api {
    pub(crate) config: ApiConfig,
}

pub(crate) type Shared = Arc<Api>;

impl Api {
    pub(crate) fn backends(&self) -> &Backends {
        &self.config.backends
    }

    pub(crate) fn store(&self, run: &RunId) -> RunStore {
        RunStore::new(self.backends().objects.clone(), RunRoot::Shared(run.clone()))
    }

    /// The run's objects and spec, or that there is no such run.
    pub(crate) async fn run(&self, run: &str) -> Result<(RunStore, Arc<RunSpec>), Problem> {
        let unknown = || Problem::not_found("unknown_run", format!("there is no run {run:?}"));
        let run = RunId::new(run).map_err(|_| unknown())?;
        let store = self.store(&run);
        // Read each time: it never changes, but a run may be deleted.
        let spec = Arc::new(store.spec().await?.ok_or_else(unknown)?);
        Ok((store, spec))
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Diorama",
        description = "Makes picture data sets from reference pictures and prompts. A token goes into `Authorization: \
                       Bearer`; its role is viewer, submitter or admin. Errors are problem+json with a stable `code`."
    ),
    paths(results::object),
    components(schemas(Problem)),
    tags((name = "runs"), (name = "blobs"), (name = "fleet"), (name = "health"))
)]
struct Document;

fn documented() -> OpenApiRouter<Shared> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(runs::list))
        .routes(routes!(submit::create))
        .routes(routes!(runs::show))
        .routes(routes!(runs::change))
        .routes(routes!(runs::delete))
        .routes(routes!(runs::events))
        .routes(routes!(retry::retry))
        .routes(routes!(results::results))
        .routes(routes!(results::errors))
        // A path with slashes in it, which OpenAPI cannot say.
        .route("/v1/runs/{run}/objects/{*path}", get(results::object))
        .routes(routes!(blobs::head, blobs::get, blobs::put))
        .routes(routes!(fleet::workers))
        .routes(routes!(fleet::pools))
        .routes(routes!(token::show))
}

/// The whole API.
pub fn router(config: ApiConfig) -> Router {
    let shared: Shared = Arc::new(Api { config });
    let (api, mut document) = documented().split_for_parts();
    let (health, health_document) = OpenApiRouter::<Shared>::new()
        .routes(routes!(health::livez))
        .routes(routes!(health::readyz))
        .routes(routes!(health::metrics))
        .split_for_parts();
    document.merge(health_document);
    let document = Arc::new(document);
    api.layer(from_fn_with_state(shared.clone(), auth::check))
        .merge(health)
        .route("/openapi.json", get(move || async move { axum::Json(document.as_ref().clone()) }))
        .fallback(|uri: axum::http::Uri| async move {
            Problem::not_found("unknown_path", format!("there is nothing at {}; see /openapi.json", uri.path()))
        })
        .method_not_allowed_fallback(|| async {
            Problem::new(405, "method_not_allowed", "this path knows other methods; see /openapi.json")
        })
        // Uploads are streamed and have limits of their own.
        .layer(DefaultBodyLimit::disable())
        .with_state(shared)
}
