//! The audit: who asked for what, and what became of it. One event for each request that would change something, and for
//! each that was refused for who sent it; with a target of its own, so that `DIORAMA_LOG` chooses it apart from the rest.

use std::net::SocketAddr;

use axum::extract::{ConnectInfo, Request};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use diorama_core::audit;
use diorama_core::id::RunId;
use diorama_core::text;

use super::auth::Caller;
use super::problem::Code;

/// The run that an answer is about, where the path does not name it.
#[derive(Clone)]
pub(super) struct About(pub(super) RunId);

/// The most characters of a path or a header: an audit that others can fill is none.
pub(super) const MAX_SAID: usize = 200;

/// What is known of a request before it is answered.
struct Asked {
    method: Method,
    path: String,
    /// Where the connection came from.
    address: Option<String>,
    /// What a proxy says: what it was told, while the address is certain.
    forwarded_for: Option<String>,
    agent: Option<String>,
}

/// Writes the event of a request, once it is answered.
pub(super) async fn write(request: Request, next: Next) -> Response {
    let asked = Asked::of(&request);
    let response = next.run(request).await;
    asked.tell(&response);
    response
}

impl Asked {
    fn of(request: &Request) -> Self {
        let header = |name: &str| {
            request.headers().get(name).map(|value| text::plain(&String::from_utf8_lossy(value.as_bytes()), MAX_SAID))
        };
        Self {
            method: request.method().clone(),
            path: text::plain(request.uri().path(), MAX_SAID),
            address: request.extensions().get::<ConnectInfo<SocketAddr>>().map(|from| from.0.ip().to_string()),
            forwarded_for: header("x-forwarded-for"),
            agent: header("user-agent"),
        }
    }

    fn tell(self, response: &Response) {
        let Self { method, path, address, forwarded_for, agent } = self;
        let status = response.status();
        let is_refused =
            matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS);
        if method.is_safe() && !is_refused {
            return;
        }
        let caller = response.extensions().get::<Caller>();
        let about = response.extensions().get::<About>().map(|about| about.0.to_string());
        tracing::info!(
            target: audit::TARGET,
            who = caller.and_then(Caller::name),
            role = caller.map(|caller| tracing::field::debug(caller.role())),
            method = %text::plain(method.as_str(), MAX_SAID),
            path,
            run = about.or_else(|| run_of(&path)),
            from = address,
            forwarded_for,
            agent,
            status = status.as_u16(),
            code = response.extensions().get::<Code>().map(|code| code.0.as_str()),
            "{}", if status.is_success() { "done" } else { "refused" },
        );
    }
}

/// The run that a path names.
fn run_of(path: &str) -> Option<String> {
    let run = path.strip_prefix("/v1/runs/")?.split('/').next()?;
    RunId::new(run).ok().map(|run| run.to_string())
}
