//! The endpoint of a process that has no API of its own: `/metrics` in Prometheus' text format, `/livez`, `/readyz`.

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use prometheus::{Encoder, Registry, TextEncoder};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// Answers on `listener` until it is dropped. The process is alive from the start, and ready while `ready` says so.
pub async fn serve(listener: TcpListener, registry: Registry, ready: watch::Receiver<bool>) -> std::io::Result<()> {
    axum::serve(listener, router(registry, ready)).await
}

fn router(registry: Registry, ready: watch::Receiver<bool>) -> Router {
    let metrics = move || async move {
        let mut text = Vec::new();
        match TextEncoder::new().encode(&registry.gather(), &mut text) {
            Ok(()) => (StatusCode::OK, String::from_utf8_lossy(&text).into_owned()),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    };
    let readyz = move || async move {
        match *ready.borrow() {
            true => (StatusCode::OK, "ok\n"),
            false => (StatusCode::SERVICE_UNAVAILABLE, "not ready: starting, or draining\n"),
        }
    };
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Request;
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn a_process_is_alive_from_the_start_and_ready_while_it_says_so() {
        let (ready, is_ready) = watch::channel(false);
        let router = router(Registry::new(), is_ready);
        let status = async |path: &str| {
            let request = Request::builder().uri(path).body(Body::empty()).unwrap();
            router.clone().oneshot(request).await.unwrap().status().as_u16()
        };
        for (is_ready, code) in [(false, 503), (true, 200), (false, 503)] {
            ready.send_replace(is_ready);
            assert_eq!((status("/livez").await, status("/readyz").await, status("/metrics").await), (200, code, 200));
        }
    }
}
