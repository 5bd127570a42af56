//! One connection, from its first byte to its end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::Limits;
use super::bodies::{Lasting, Patient};
use super::places::{Kind, MOMENT, Place};

/// Answers what `io` asks, with `router`. Every request knows its peer's address (`ConnectInfo`).
pub(super) async fn serve(
    io: impl AsyncRead + AsyncWrite + Send + 'static,
    peer: SocketAddr,
    router: Router,
    place: Place,
    limits: Arc<Limits>,
    drain: CancellationToken,
) {
    let mut io = TimeoutStream::new(io);
    io.set_write_timeout(Some(limits.write));
    let service = hyper::service::service_fn(|request: Request<hyper::body::Incoming>| {
        let asking = place.asks();
        let mut request = request.map(|body| Body::new(Patient::new(body, &limits)));
        request.extensions_mut().insert(ConnectInfo(peer));
        let answered = router.clone().oneshot(request);
        async move {
            let response = answered.await?;
            Ok::<_, Infallible>(response.map(|body| Lasting { body, _asking: asking }))
        }
    });
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    // Answers of a connection that is about to be closed are few, and heads have a time of their own (`Place::ends`).
    builder.http1().header_read_timeout(None);
    let connection = builder.serve_connection(TokioIo::new(Box::pin(io)), service);
    tokio::pin!(connection);
    let longest = async {
        match place.kind() {
            Kind::Usual => std::future::pending().await,
            Kind::Extra => tokio::time::sleep(MOMENT).await,
        }
    };
    tokio::select! {
        // Clients come and go as they like.
        _ = connection.as_mut() => {}
        () = place.ends(&limits) => {}
        () = longest => {}
        () = drain.cancelled() => {
            place.leave();
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                _ = connection => {}
                () = place.ends(&limits) => {}
            }
        }
    }
}
