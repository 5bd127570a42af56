//! What every process tells Prometheus of itself, and the endpoint of one that has no API of its own: `/metrics` in
//! Prometheus' text format, `/livez`, `/readyz`.

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use prometheus::process_collector::ProcessCollector;
use prometheus::{Encoder, IntGauge, Opts, Registry, TextEncoder};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::http::{self, Limits};

/// A registry with `diorama_build_info{version}` and the usual `process_*`: CPU, memory, open files, threads, start.
pub fn registry() -> Result<Registry, prometheus::Error> {
    let registry = Registry::new();
    let about = Opts::new("diorama_build_info", "1, with the version of the program");
    let build = IntGauge::with_opts(about.const_label("version", env!("CARGO_PKG_VERSION")))?;
    build.set(1);
    registry.register(Box::new(build))?;
    registry.register(Box::new(ProcessCollector::for_self()))?;
    Ok(registry)
}

/// Answers on `listener` until it is dropped. The process is alive from the start, and ready while `ready` says so.
pub async fn serve(listener: TcpListener, registry: Registry, ready: watch::Receiver<bool>) {
    let router = router(registry, ready);
    http::serve(listener, router.clone(), router, Limits::default(), CancellationToken::new()).await;
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

    #[test]
    fn a_process_tells_its_version_and_what_it_uses() {
        let text = TextEncoder::new().encode_to_string(&registry().unwrap().gather()).unwrap();
        let build = format!("diorama_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"));
        assert!(text.contains(&build), "{text}");
        for metric in ["process_cpu_seconds_total", "process_resident_memory_bytes", "process_start_time_seconds"] {
            assert!(text.lines().any(|line| line.starts_with(metric)), "{metric} is not in\n{text}");
        }
    }

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
