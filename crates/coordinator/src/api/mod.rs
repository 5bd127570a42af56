//! The HTTP API of a coordinator: runs, blobs, workers, pools, health. Any coordinator answers, whichever drives the runs.
//!
//! Errors are `application/problem+json` with stable codes. The OpenAPI document is at `/openapi.json`.

mod access;
mod active;
mod audit;
mod auth;
mod blobs;
mod fleet;
mod health;
mod limits;
mod metrics;
mod outlook;
mod pictures;
mod problem;
mod results;
mod retry;
mod runs;
mod session;
mod submit;
#[cfg(test)]
mod tests;
mod turns;
mod usage;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use axum::routing::get;
use diorama_backends::objects::RemoteObjects;
use diorama_core::address::Readable;
use diorama_core::id::Pool;
use diorama_core::price::PoolPrice;
use diorama_core::text;
use diorama_protocol::Backends;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tower_http::trace::TraceLayer;
use utoipa::OpenApi;
use utoipa::openapi::RefOr;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(crate) use self::access::Opened;
pub use self::auth::{Role, Sees, TokenStatus, Tokens, TokensError};
pub use self::limits::ApiLimits;
pub use self::metrics::ApiMetrics;
pub use self::problem::Problem;
pub use self::submit::SubmitRequest;
use crate::catalogue::Catalogue;
use crate::dashboard;

/// What the API stands on.
pub struct ApiConfig {
    /// What it signs decisions with.
    pub name: String,
    /// The services.
    pub backends: Backends,
    /// The buckets of `s3://` manifests, where there are any.
    pub remote: Option<Arc<dyn RemoteObjects>>,
    /// Below which of them submitters may name objects.
    pub readable: Readable,
    /// Where uploads are kept while they are checked.
    pub scratch: PathBuf,
    /// The folder of references that workers share, where there is one.
    pub reference_root: Option<PathBuf>,
    /// Whether workers fetch `http://` too.
    pub plain_http: bool,
    /// Who may do what; `None`: anybody may do anything, which is for loopback only.
    pub tokens: Option<Tokens>,
    /// What anybody may do where there are no tokens.
    pub role_without_tokens: Role,
    /// The largest manifest, in bytes.
    pub max_manifest_bytes: u64,
    /// The largest uploaded reference, in bytes.
    pub max_blob_bytes: u64,
    /// What a caller and a run may take.
    pub limits: ApiLimits,
    /// Whether this coordinator drives the runs.
    pub leading: watch::Receiver<bool>,
    /// The pools that are declared: they are shown where they have neither workers nor runs, too, and where there are some,
    /// runs go into them and into those that workers serve. None: into any.
    pub pools: Vec<Pool>,
    /// What workers cost, for the pools that have a price.
    pub prices: Vec<PoolPrice>,
    /// What Prometheus is told.
    pub metrics: ApiMetrics,
}

/// The API: what its handlers share.
pub struct Api {
    pub(crate) config: ApiConfig,
    pub(crate) catalogue: Catalogue,
    pub(crate) active: active::Active,
    callers: limits::Callers,
    health: health::Health,
    pub(crate) overview: fleet::Overview,
    pub(crate) shelf: pictures::Shelf,
    pub(crate) usage: usage::Usage,
}

/// The largest body of a request that uploads nothing, in bytes: some come from people without a token.
const LARGEST_BODY: usize = 64 << 10;

/// Between two looks at the file of the tokens.
const RELOAD: Duration = Duration::from_secs(5);

pub(crate) type Shared = Arc<Api>;

impl Api {
    /// An API that has been asked nothing yet.
    pub fn new(config: ApiConfig) -> Arc<Self> {
        let (catalogue, active, callers, health, overview, shelf, usage) = Default::default();
        Arc::new(Self { config, catalogue, active, callers, health, overview, shelf, usage })
    }

    pub(crate) fn backends(&self) -> &Backends {
        &self.config.backends
    }

    /// Keeps what `/metrics` says up to date until `drain` is cancelled: it is answered from memory.
    pub async fn keep_metrics(&self, drain: CancellationToken) {
        while !drain.is_cancelled() {
            metrics::refresh(self).await;
            tokio::select! {
                () = drain.cancelled() => {}
                () = tokio::time::sleep(metrics::REFRESH) => {}
            }
        }
    }

    /// Reads the tokens again every few seconds until `drain` is cancelled: secrets are rotated while we serve.
    pub async fn keep_tokens(&self, drain: CancellationToken) {
        let Some(tokens) = &self.config.tokens else { return };
        let mut told = String::new();
        while drain.run_until_cancelled(tokio::time::sleep(RELOAD)).await.is_some() {
            match tokens.reload() {
                Ok(changed) => {
                    if changed {
                        tracing::info!("the tokens have changed and are in force");
                    }
                    told.clear();
                }
                Err(error) if told == error.to_string() => {}
                Err(error) => {
                    tracing::error!(%error, "the tokens cannot be read again; those read before stay in force");
                    told = error.to_string();
                }
            }
        }
    }
}

/// What a browser is not to make of an answer: content of another type than it says, a part of another site's page. What
/// is a page, or may be shown by itself, says more.
async fn harmless(request: axum::extract::Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    // A browser takes the headers of such an answer for those of what it has.
    if response.status() == StatusCode::NOT_MODIFIED {
        return response;
    }
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'; sandbox"),
        (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

/// Every line that is logged for a request has it.
fn request_span(request: &axum::http::Request<axum::body::Body>) -> tracing::Span {
    let said = |text: &str| text::plain(text, audit::MAX_SAID);
    tracing::info_span!("request", method = %said(request.method().as_str()), path = said(request.uri().path()))
}

fn on_response(response: &axum::http::Response<axum::body::Body>, latency: std::time::Duration, _: &tracing::Span) {
    tracing::debug!(status = response.status().as_u16(), ?latency, "answered");
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
    tags((name = "runs"), (name = "pictures"), (name = "blobs"), (name = "fleet"), (name = "health"))
)]
struct Document;

fn documented() -> OpenApiRouter<Shared> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(runs::list))
        // A form is streamed, and its parts have limits of their own.
        .merge(OpenApiRouter::new().routes(routes!(submit::create)).layer(DefaultBodyLimit::disable()))
        .routes(routes!(runs::show))
        .routes(routes!(runs::spec))
        .routes(routes!(runs::throughput))
        .routes(routes!(runs::change))
        .routes(routes!(runs::delete))
        .routes(routes!(runs::events))
        .routes(routes!(retry::retry))
        .routes(routes!(results::results))
        .routes(routes!(results::errors))
        // A path with slashes in it, which OpenAPI cannot say.
        .route("/v1/runs/{run}/objects/{*path}", get(results::object))
        .routes(routes!(blobs::head, blobs::get, blobs::put))
        .routes(routes!(session::show))
        .routes(routes!(auth::show::show))
        .merge(fleet::routes())
        .merge(pictures::routes())
}

/// Says of each problem in the document by which content type it is known.
fn problems_have_their_type(document: &mut utoipa::openapi::OpenApi) {
    let items = document.paths.paths.values_mut();
    let operations = items.flat_map(|item| {
        [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.head].into_iter().flatten()
    });
    let responses = operations.flat_map(|operation| operation.responses.responses.iter_mut());
    for (status, response) in responses {
        if let RefOr::T(response) = response
            && status.starts_with(['4', '5'])
            && let Some(problem) = response.content.shift_remove("application/json")
        {
            response.content.insert("application/problem+json".to_owned(), problem);
        }
    }
}

/// The whole API.
pub fn router(shared: Shared) -> Router {
    let (api, mut document) = documented().split_for_parts();
    let (health, health_document) = OpenApiRouter::<Shared>::new()
        .routes(routes!(health::livez))
        .routes(routes!(health::readyz))
        .routes(routes!(metrics::metrics))
        // Whoever logs in has no token yet.
        .routes(routes!(session::log_in, session::log_out))
        .split_for_parts();
    document.merge(health_document);
    problems_have_their_type(&mut document);
    let document = Arc::new(document);
    api.layer(from_fn_with_state(shared.clone(), limits::take_turn))
        .layer(from_fn_with_state(shared.clone(), auth::check))
        .merge(health)
        .merge(dashboard::routes())
        .route("/openapi.json", get(move || async move { axum::Json(document.as_ref().clone()) }))
        .fallback(|uri: axum::http::Uri| async move {
            Problem::not_found(
                "unknown_path",
                format!("there is nothing at {}; see /openapi.json", text::quoted(uri.path())),
            )
        })
        .method_not_allowed_fallback(|| async {
            Problem::new(405, "method_not_allowed", "this path knows other methods; see /openapi.json")
        })
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .layer(from_fn_with_state(shared.clone(), auth::check_host))
        .layer(from_fn(audit::write))
        .layer(from_fn(harmless))
        .layer(from_fn_with_state(shared.clone(), metrics::time))
        .layer(TraceLayer::new_for_http().make_span_with(request_span).on_response(on_response))
        .with_state(shared)
}

/// What answers out of memory, for a listener of its own.
pub fn health(shared: Shared) -> Router {
    Router::new()
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(metrics::metrics))
        .with_state(shared)
}

/// The same for those who come while the API has as many connections as it may; everybody else is asked to come again.
pub fn crowded(shared: Shared) -> Router {
    health(shared).fallback(|| async {
        Problem::new(503, "crowded", "the coordinator has as many connections as it may; try again in a moment")
    })
}
