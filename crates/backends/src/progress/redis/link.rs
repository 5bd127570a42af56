//! The connection to the server: made when a command needs it, shared by all, made again after it was lost.
//!
//! Not redis' own connection manager: that one keeps a connection that was silently cut (it never gives one up after a
//! time-out) and keeps the failure of a reconnect that was no fault of the network, such as a password that changed.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, FromRedisValue, IntoConnectionInfo, Pipeline, RedisError, RedisFuture,
    RedisResult, ScriptInvocation, ServerErrorKind, TlsCertificates, Value, cmd,
};
use secrecy::ExposeSecret;
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::health::Health;
use super::{RedisConfig, error};
use crate::certificates;
use crate::kind::ErrorKind;
use crate::mismatch;
use crate::progress::ProgressError;
use crate::userinfo;

/// How long making a connection may take. A command does not wait for all of it: it fails after its own time-out, and
/// the next one goes on waiting for the same connection.
const CONNECT: Duration = Duration::from_secs(5);

const CONNECTING: &str = "connecting to Redis";

#[derive(Clone)]
enum Connection {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Single(connection) => connection.req_packed_command(cmd),
            Self::Cluster(connection) => connection.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Single(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Single(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}

/// What is sent.
pub(super) enum Request<'a> {
    Command(&'a Cmd),
    Script(&'a ScriptInvocation<'a>),
}

#[derive(Clone)]
enum Server {
    Single(Box<Client>),
    Cluster(Box<ClusterClient>),
}

type Connecting = Shared<BoxFuture<'static, RedisResult<Connection>>>;

pub(super) struct Link {
    server: Server,
    host: String,
    port: u16,
    tls: bool,
    /// Host and port, for messages; never the password.
    address: String,
    timeout: Duration,
    current: Mutex<Option<Connecting>>,
    health: Health,
}

impl Link {
    /// Reads the configuration; connects only when the first request comes.
    pub(super) fn new(config: &RedisConfig) -> Result<Self, ProgressError> {
        let wrong = |problem: String| ProgressError::new(ErrorKind::Permanent, CONNECTING, problem);
        let url = Url::parse(config.url.expose_secret())
            .ok()
            .filter(|url| matches!(url.scheme(), "redis" | "rediss") && url.host().is_some())
            .filter(|_| !userinfo::is_torn(config.url.expose_secret()))
            .ok_or_else(|| {
                wrong(
                    "redis_url is not of the form redis://user:password@host:port/database (or rediss://), with special \
                     characters of the password in %xx form"
                        .into(),
                )
            })?;
        let (host, port) = (url.host_str().unwrap_or_default(), url.port().unwrap_or(6379));
        let address = format!("{host}:{port}");
        let refused = |error: RedisError| wrong(format!("redis_url, for {address}, was refused: {error}"));
        let info = url.as_str().into_connection_info().map_err(refused)?;

        let authorities = match &config.ca_file {
            None => None,
            Some(_) if url.scheme() != "rediss" => {
                return Err(wrong(format!(
                    "a CA file is set, but redis_url, for {address}, is not rediss://; change one"
                )));
            }
            Some(path) => {
                let pem = certificates::read(path).map_err(wrong)?;
                Some(TlsCertificates { client_tls: None, root_cert: Some(pem.into_bytes()) })
            }
        };
        if url.scheme() == "rediss" {
            // Fails where the process has one already, which is as good.
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        }
        let server = if config.cluster {
            let mut builder =
                ClusterClient::builder([info]).connection_timeout(CONNECT).response_timeout(config.timeout);
            if let Some(authorities) = authorities {
                builder = builder.certs(authorities);
            }
            Server::Cluster(Box::new(builder.build().map_err(refused)?))
        } else {
            Server::Single(Box::new(match authorities {
                Some(authorities) => Client::build_with_tls(info, authorities).map_err(refused)?,
                None => Client::open(info).map_err(refused)?,
            }))
        };
        Ok(Self {
            server,
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port,
            tls: url.scheme() == "rediss",
            address,
            timeout: config.timeout,
            current: Mutex::new(None),
            health: Health::default(),
        })
    }

    /// Whether the server is there, lets us in, and is of the kind that the settings say.
    pub(super) async fn check(&self) -> Result<(), ProgressError> {
        match self.greet().await {
            Err(error) if error.is_retryable() => match self.mismatch().await {
                Some(advice) => {
                    let problem = format!("Redis at {}: {advice}", self.address);
                    Err(ProgressError::new(ErrorKind::Permanent, CONNECTING, problem).caused_by(error))
                }
                None => Err(error),
            },
            greeted => greeted,
        }
    }

    /// What to do, where the server has TLS and the URL says that it has none, or the other way round.
    async fn mismatch(&self) -> Option<&'static str> {
        if self.tls {
            let advice = "there is no TLS at this port: start redis_url with redis://, or name the port with TLS";
            mismatch::speaks(&self.host, self.port, b"PING\r\n", b"+-").await.then_some(advice)
        } else {
            let advice = "this port uses TLS: start redis_url with rediss://";
            mismatch::speaks_tls(&self.host, self.port).await.then_some(advice)
        }
    }

    /// Pings the server, and asks whether the server is one of a cluster: there a request of ours that names another
    /// node's key would be refused much later.
    async fn greet(&self) -> Result<(), ProgressError> {
        self.send::<String>(CONNECTING, Request::Command(&cmd("PING"))).await?;
        let Server::Single(_) = self.server else { return Ok(()) };
        // Everybody may ask this. What stands in front of a server, such as a proxy, may not know it, and is no cluster.
        match self.send::<Value>(CONNECTING, Request::Command(&cmd("HELLO"))).await {
            Ok(about) if says_cluster(&about) => {
                let problem = format!("Redis at {} is one of a cluster; set redis_cluster = true", self.address);
                Err(ProgressError::new(ErrorKind::Permanent, CONNECTING, problem))
            }
            Err(error) if error.is_retryable() => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Asks what the server knows, where it has taken what it was told last.
    pub(super) async fn ask<T: FromRedisValue>(
        &self,
        doing: &'static str,
        request: Request<'_>,
    ) -> Result<T, ProgressError> {
        match self.health.deaf(Instant::now()) {
            Some(problem) => {
                let problem = format!("what it knows is out of date, because it takes nothing: {problem}");
                Err(ProgressError::new(ErrorKind::Transient, doing, problem))
            }
            None => self.send(doing, request).await,
        }
    }

    /// The server took what it was told.
    pub(super) fn took(&self) {
        self.health.took();
    }

    /// Sends a request and waits for its answer, no longer than the time-out; fails at once where the server said nothing
    /// a moment ago. A connection that turns out to be gone is made again once: every request may be sent twice, the second
    /// one changes nothing.
    pub(super) async fn send<T: FromRedisValue>(
        &self,
        doing: &'static str,
        request: Request<'_>,
    ) -> Result<T, ProgressError> {
        let sent = Instant::now();
        if !self.health.may_send(sent) {
            let problem = format!("Redis at {} did not answer a moment ago; it is tried again soon", self.address);
            return Err(ProgressError::new(ErrorKind::Transient, doing, problem));
        }
        let deadline = sent + self.timeout;
        loop {
            let connecting = self.connecting();
            let was_there = connecting.peek().is_some();
            match timeout_at(deadline, send_over(connecting.clone(), &request)).await {
                Ok(Ok(answer)) => {
                    self.health.spoke();
                    return Ok(answer);
                }
                Ok(Err(error)) => {
                    if ends_connection(&error) {
                        self.give_up(&connecting);
                    }
                    if !(was_there && error.is_connection_dropped()) {
                        return Err(self.failed(doing, sent, error));
                    }
                }
                Err(_) => {
                    // An answer may still come, or the network may have been cut without a word. A new connection is
                    // right in both cases.
                    if connecting.peek().is_some() {
                        self.give_up(&connecting);
                    }
                    self.health.said_nothing(sent, Instant::now());
                    let problem = format!(
                        "Redis at {} did not answer within {:?}; check that it runs, that this machine reaches it, and \
                         that it is not overloaded",
                        self.address, self.timeout
                    );
                    return Err(ProgressError::new(ErrorKind::Transient, doing, problem));
                }
            }
        }
    }

    /// What went wrong, and what it says of the server.
    fn failed(&self, doing: &'static str, sent: Instant, error: RedisError) -> ProgressError {
        match error.is_timeout() {
            true => self.health.said_nothing(sent, Instant::now()),
            false => self.health.spoke(),
        }
        let takes_nothing = error::takes_nothing(&error);
        let error = error::failed(doing, &self.address, error);
        if takes_nothing {
            self.health.took_nothing(&error.problem, Instant::now());
        }
        error
    }

    /// The connection, or the attempt to make it, that everybody shares.
    fn connecting(&self) -> Connecting {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.get_or_insert_with(|| connect(self.server.clone()).boxed().shared()).clone()
    }

    /// Forgets a connection, unless somebody has replaced it already.
    fn give_up(&self, gone: &Connecting) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|current| current.ptr_eq(gone)) {
            *current = None;
        }
    }
}

async fn connect(server: Server) -> RedisResult<Connection> {
    match server {
        Server::Single(client) => {
            // Requests have their own time-out, which covers the wait for the connection too.
            let config = AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(None);
            client.get_multiplexed_async_connection_with_config(&config).await.map(Connection::Single)
        }
        Server::Cluster(client) => client.get_async_connection().await.map(Connection::Cluster),
    }
}

async fn send_over<T: FromRedisValue>(connecting: Connecting, request: &Request<'_>) -> RedisResult<T> {
    let mut connection = connecting.await?;
    match request {
        Request::Command(command) => command.query_async(&mut connection).await,
        Request::Script(script) => script.invoke_async(&mut connection).await,
    }
}

/// Whether the answer to HELLO, names and values in turn or in pairs, has the mode `cluster`.
fn says_cluster(about: &Value) -> bool {
    let is = |value: &Value, text: &str| match value {
        Value::BulkString(bytes) => bytes == text.as_bytes(),
        Value::SimpleString(said) => said == text,
        _ => false,
    };
    match about {
        Value::Array(parts) => parts.windows(2).any(|pair| is(&pair[0], "mode") && is(&pair[1], "cluster")),
        Value::Map(pairs) => pairs.iter().any(|(name, value)| is(name, "mode") && is(value, "cluster")),
        _ => false,
    }
}

/// Whether a connection that gave this error is of no more use. A server that became a replica counts: the name in the
/// URL may lead to another one by now.
fn ends_connection(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_unrecoverable_error()
        || error.kind() == redis::ErrorKind::Server(ServerErrorKind::ReadOnly)
        || matches!(error.code(), Some("NOAUTH"))
}
