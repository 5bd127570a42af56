use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::routing::{get, post};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::places::{EXTRA, Kind, Places};
use super::{Limits, serve};

/// Far more than any of this takes.
const LONG: Duration = Duration::from_secs(30);

struct Server {
    address: SocketAddr,
    drain: CancellationToken,
    _serving: AbortOnDropHandle<()>,
}

impl Server {
    async fn start(limits: Limits) -> Self {
        let body = |body: Body| async move {
            match axum::body::to_bytes(body, 1 << 20).await {
                Ok(bytes) => (StatusCode::OK, bytes),
                Err(error) => (StatusCode::REQUEST_TIMEOUT, Bytes::from(error.to_string())),
            }
        };
        let piece = || Ok::<_, std::io::Error>(Bytes::from_static(&[0; 1 << 16]));
        let endless = move || async move { Body::from_stream(futures::stream::repeat_with(piece)) };
        let router = Router::new()
            .route("/livez", get(|| async { "ok" }))
            .route("/body", post(body))
            .route("/hang", get(std::future::pending::<&str>))
            .route("/endless", get(endless));
        let crowded = Router::new().route("/livez", get(|| async { "ok, in a crowd" }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, drain) = (listener.local_addr().unwrap(), CancellationToken::new());
        let serving = tokio::spawn(serve(listener, router, crowded, limits, drain.clone()));
        Self { address, drain, _serving: AbortOnDropHandle::new(serving) }
    }

    async fn send(&self, text: &str) -> TcpStream {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        socket.write_all(text.as_bytes()).await.unwrap();
        socket
    }

    /// The answer to a request over a connection of its own; empty where it was closed.
    async fn ask(&self, request: &str) -> String {
        rest(&mut self.send(&format!("{request} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).await).await
    }
}

/// What is read until the other side closes.
async fn rest(socket: &mut TcpStream) -> String {
    let mut text = Vec::new();
    // A connection that is reset is closed, too.
    let _ = timeout(LONG, socket.read_to_end(&mut text)).await.expect("the connection is closed");
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test]
async fn connections_that_ask_nothing_keep_nobody_out() {
    let server = Server::start(Limits { connections: 8, ..Limits::default() }).await;
    let mut kept = Vec::new();
    for begin in ["", "GET /livez HTTP/1.1\r\nX-", "GET /livez HTTP/1.1\r\nHost: a\r\n\r\n", "POST"].repeat(20) {
        kept.push(server.send(begin).await);
        assert!(server.ask("GET /livez").await.ends_with("\r\n\r\nok"));
    }
}

#[tokio::test]
async fn where_everybody_is_served_the_next_one_is_answered_from_memory() {
    let server = Server::start(Limits { connections: 4, ..Limits::default() }).await;
    let mut busy = Vec::new();
    for _ in 0..4 + 2 * EXTRA {
        busy.push(server.send("GET /hang HTTP/1.1\r\nHost: a\r\n\r\n").await);
    }
    loop {
        let answer = server.ask("GET /livez").await;
        if answer.ends_with("ok, in a crowd") {
            break;
        }
        // The first four may not have been read yet.
        assert!(answer.is_empty() || answer.ends_with("\r\n\r\nok"), "{answer}");
    }
    for extra in &mut busy[4..] {
        rest(extra).await;
    }
}

#[tokio::test]
async fn an_address_has_so_many_connections_and_makes_room_for_itself() {
    let server = Server::start(Limits { of_an_address: 2, ..Limits::default() }).await;
    let mut first = server.send("GET /livez HT").await;
    let _second = server.send("GET /livez HT").await;
    assert!(server.ask("GET /livez").await.ends_with("\r\n\r\nok"));
    assert_eq!(rest(&mut first).await, "", "the oldest made room");
}

#[tokio::test]
async fn heads_and_bodies_have_their_time() {
    let short = Duration::from_millis(50);
    let server =
        Server::start(Limits { head: short, idle: short, body: short, least_body: 64, ..Limits::default() }).await;
    assert_eq!(rest(&mut server.send("GET /livez HTTP/1.1\r\nX-").await).await, "");
    let answered = rest(&mut server.send("GET /livez HTTP/1.1\r\nHost: a\r\n\r\n").await).await;
    assert!(answered.ends_with("\r\n\r\nok"), "{answered}");
    let head = "POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n";
    let answered = rest(&mut server.send(&format!("{head}half")).await).await;
    assert!(answered.starts_with("HTTP/1.1 408") && answered.ends_with("too slowly"), "{answered}");
    // A byte at a time is no progress.
    let mut dripping = server.send(head).await;
    let (mut answer, mut writer) = dripping.split();
    let drip = async {
        while writer.write_all(b"a").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let mut first = [0; 12];
    tokio::select! {
        read = timeout(LONG, answer.read_exact(&mut first)) => assert!(read.unwrap().is_ok()),
        () = drip => panic!("it was cut off without an answer"),
    }
    assert_eq!(&first, b"HTTP/1.1 408");
}

#[tokio::test]
async fn a_body_that_goes_on_coming_may_take_its_time() {
    let limits = Limits { body: Duration::from_millis(300), least_body: 64, ..Limits::default() };
    let server = Server::start(limits).await;
    let mut socket =
        server.send("POST /body HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 640\r\n\r\n").await;
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(60)).await;
        socket.write_all(&[b'a'; 64]).await.unwrap();
    }
    assert!(rest(&mut socket).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn who_reads_nothing_is_given_up() {
    let server = Server::start(Limits { write: Duration::from_millis(50), ..Limits::default() }).await;
    let _reader = server.send("GET /endless HTTP/1.1\r\nHost: a\r\n\r\n").await;
    server.drain.cancel();
    // A drain waits for answers under way; this one ends because nobody takes it.
    timeout(LONG, server._serving).await.expect("it is given up").unwrap();
}

#[tokio::test]
async fn a_drain_ends_what_asks_nothing_and_finishes_what_is_under_way() {
    let server = Server::start(Limits::default()).await;
    let mut quiet = server.send("GET /li").await;
    let mut asks = server.send("POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nha").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    server.drain.cancel();
    assert_eq!(rest(&mut quiet).await, "");
    asks.write_all(b"lf").await.unwrap();
    assert!(rest(&mut asks).await.ends_with("half"));
    timeout(LONG, server._serving).await.expect("it ends").unwrap();
}

#[tokio::test]
async fn the_address_with_the_most_connections_makes_room_and_the_quietest_of_them() {
    let address = |last: u8| IpAddr::from([10, 0, 0, last]);
    let (places, limits) = (Arc::new(Places::default()), Limits { connections: 4, ..Limits::default() });
    let one = places.take(address(1), &limits);
    let [busy, old, new] = [(); 3].map(|()| places.take(address(2), &limits));
    let _asking = busy.asks();
    let next = places.take(address(3), &limits);
    assert_eq!(next.kind(), Kind::Usual);
    timeout(LONG, old.ends(&limits)).await.expect("the oldest quiet one of the fullest address leaves");
    for place in [&one, &busy, &new] {
        assert!(timeout(Duration::from_millis(20), place.ends(&limits)).await.is_err());
    }
    drop((old, one, busy, new, next));
    assert_eq!(places.count(), 0);
}

#[tokio::test]
async fn hosts_of_one_ipv6_network_are_one_address() {
    let places = Arc::new(Places::default());
    let limits = Limits { of_an_address: 1, ..Limits::default() };
    let first = places.take("2001:db8::1".parse().unwrap(), &limits);
    let _second = places.take("2001:db8::2".parse().unwrap(), &limits);
    timeout(LONG, first.ends(&limits)).await.expect("it makes room");
    let other = places.take("2001:db8:0:1::1".parse().unwrap(), &limits);
    assert!(timeout(Duration::from_millis(20), other.ends(&limits)).await.is_err());
}
