//! An HTTP server that nobody silences: every connection has a time for its head, its body and its rest, an address has
//! so many connections, and where there are as many as there may be, one that asks nothing makes room for a new one. Where
//! all of them ask something, who comes on top is answered by a small router out of memory, within moments.

mod bodies;
mod connection;
mod places;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::places::{Kind, Places};

/// Between two tries to accept where that fails: there are no descriptors left.
const PAUSE: Duration = Duration::from_millis(50);

/// What connections may take.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections in all; never more than half of the descriptors that the process may have.
    pub connections: usize,
    /// Connections of one address (of IPv6: of one /64).
    pub of_an_address: usize,
    /// Until the first request's head is there.
    pub head: Duration,
    /// Until the next request's head is there.
    pub idle: Duration,
    /// How long a request's body may keep us waiting for the next [`Limits::least_body`] bytes.
    pub body: Duration,
    /// Bytes.
    pub least_body: u64,
    /// How long an answer may wait for its reader to take more of it.
    pub write: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            of_an_address: 256,
            head: Duration::from_secs(10),
            // Longer than proxies keep theirs, so that it is they who close them.
            idle: Duration::from_secs(90),
            body: Duration::from_secs(30),
            least_body: 16 << 10,
            write: Duration::from_secs(60),
        }
    }
}

impl Limits {
    /// Connections that may be open now: the operator may change the process's descriptors while it runs.
    fn now(&self) -> usize {
        let descriptors = getrlimit(Resource::Nofile).current.map_or(usize::MAX, |most| most as usize);
        self.connections.min(descriptors / 2).max(1)
    }
}

/// Lets the process have as many descriptors as it may. Gives their number.
pub fn raise_descriptors() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum || limit.maximum.is_none() {
        // Where that is refused, it goes on with what it has.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
    getrlimit(Resource::Nofile).current
}

/// Answers on `listener` until `drain` is cancelled, then finishes what is under way. `crowded` answers those who come
/// when nobody else may: from memory, within moments.
pub async fn serve(listener: TcpListener, router: Router, crowded: Router, limits: Limits, drain: CancellationToken) {
    let (limits, tasks) = (Arc::new(limits), TaskTracker::new());
    let places = Arc::new(Places::default());
    while let Some(accepted) = drain.run_until_cancelled(listener.accept()).await {
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if is_of_the_peer(&error) => continue,
            Err(error) => {
                tracing::warn!(%error, "no connection can be accepted");
                places.make_room();
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        // Answers are small, or written in large pieces.
        let _ = socket.set_nodelay(true);
        let place = places.take(peer.ip(), &limits);
        let router = match place.kind() {
            Kind::Usual => router.clone(),
            Kind::Extra => crowded.clone(),
        };
        tasks.spawn(connection::serve(socket, peer, router, place, limits.clone(), drain.clone()));
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

/// Whether only this one connection failed.
fn is_of_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
