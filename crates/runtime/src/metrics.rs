//! The endpoint of a process that has no API of its own: `/metrics` in Prometheus' text format, `/livez`.

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use prometheus::{Encoder, Registry, TextEncoder};
use tokio::net::TcpListener;

/// Answers on `listener` until it is dropped.
pub async fn serve(listener: TcpListener, registry: Registry) -> std::io::Result<()> {
    let metrics = move || async move {
        let mut text = Vec::new();
        match TextEncoder::new().encode(&registry.gather(), &mut text) {
            Ok(()) => (StatusCode::OK, String::from_utf8_lossy(&text).into_owned()),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    };
    let router = Router::new().route("/metrics", get(metrics)).route("/livez", get(|| async { "ok\n" }));
    axum::serve(listener, router).await
}
