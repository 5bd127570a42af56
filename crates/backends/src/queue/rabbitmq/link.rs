//! Connections to the broker: where it is, how TLS is set up, and what a failure means in words.
//!
//! Never tries again by itself: who uses a connection decides that.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures::StreamExt;
use lapin::tcp::OwnedTLSConfig;
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Channel, Connect, Connection, ConnectionProperties, Event};
use secrecy::ExposeSecret;
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};

use super::RabbitMqConfig;
use super::problem::{Problem, Trust};
use crate::certificates;
use crate::kind::ErrorKind;
use crate::mismatch;
use crate::queue::QueueError;
use crate::userinfo;

/// lapin waits as long as the system does for a host that does not answer: minutes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What a client says first.
pub(super) const GREETING: &[u8] = b"AMQP\x00\x00\x09\x01";

/// The first byte of a broker's answer: a frame with a method.
const METHOD: u8 = 1;

/// The broker, as this process reaches it. Holds the password: no `Debug`.
pub(super) struct Endpoint {
    uri: AMQPUri,
    tls: OwnedTLSConfig,
    connection_name: String,
    pub(super) delivery_limit: u32,
    /// Whether the broker lets us in.
    login: Trust,
    /// Whether it lets us have our queues.
    pub(super) rights: Trust,
}

/// An open connection with one channel.
pub(super) struct Link {
    pub(super) channel: Channel,
    pub(super) connection: Connection,
    _events: AbortOnDropHandle<()>,
}

impl Endpoint {
    pub(super) fn new(config: &RabbitMqConfig) -> Result<Self, QueueError> {
        let reading = "reading the RabbitMQ settings";
        let wrong = |problem: String| QueueError::failed(ErrorKind::Permanent, reading, problem);
        let mut uri = parse(config.url.expose_secret()).map_err(wrong)?;
        // Whole seconds on the wire; 0 would mean none.
        uri.query.heartbeat = Some(u16::try_from(config.heartbeat.as_secs()).unwrap_or(u16::MAX).max(1));
        let tls = match (&uri.scheme, &config.ca_file) {
            (AMQPScheme::AMQPS, Some(file)) => certificates::read(file).map_err(wrong)?,
            (AMQPScheme::AMQPS, None) => system_certificates().map_err(wrong)?,
            (AMQPScheme::AMQP, Some(_)) => {
                return Err(wrong("a CA file is given, but amqp_url says amqp://: write amqps:// for TLS".to_owned()));
            }
            (AMQPScheme::AMQP, None) => String::new(),
        };
        Ok(Self {
            uri,
            tls: OwnedTLSConfig { identity: None, cert_chain: Some(tls).filter(|pem| !pem.is_empty()) },
            connection_name: config.connection_name.clone(),
            delivery_limit: config.delivery_limit,
            login: Trust::new(config.refusal_patience),
            rights: Trust::new(config.refusal_patience),
        })
    }

    /// Where the broker is, without the password.
    pub(super) fn address(&self) -> String {
        let AMQPUri { scheme, authority, vhost, .. } = &self.uri;
        format!("{scheme}://{}@{}:{} (vhost {vhost:?})", authority.userinfo.username, authority.host, authority.port)
    }

    /// Host and port, where they are reached without TLS.
    pub(super) fn plain_address(&self) -> Option<(&str, u16)> {
        let authority = &self.uri.authority;
        (self.uri.scheme == AMQPScheme::AMQP).then_some((authority.host.as_str(), authority.port))
    }

    /// Opens a connection and a channel; `purpose` is shown beside the connection's name in the broker's listings.
    pub(super) async fn open(&self, purpose: &'static str) -> Result<Link, Problem> {
        self.login.judge(self.connect(purpose).await.map_err(|problem| problem.while_doing(&self.address())))
    }

    /// What an attempt to connect met.
    async fn met(&self, error: lapin::Error) -> Problem {
        let (host, port) = (&self.uri.authority.host, self.uri.authority.port);
        let tls = self.uri.scheme == AMQPScheme::AMQPS;
        let problem = Problem::of_connecting(error, host, tls);
        if !problem.kind.is_retryable() {
            problem
        } else if tls && mismatch::speaks(host, port, GREETING, &[METHOD]).await {
            problem.but_for("there is no TLS at this port: start amqp_url with amqp://, or name the port with TLS")
        } else if !tls && mismatch::speaks_tls(host, port).await {
            problem.but_for("this port uses TLS: start amqp_url with amqps://")
        } else {
            problem
        }
    }

    async fn connect(&self, purpose: &'static str) -> Result<Link, Problem> {
        let runtime = lapin::runtime::default_runtime().map_err(|error| Problem::transient(error.to_string()))?;
        let properties = ConnectionProperties::default()
            .with_connection_name(format!("{} ({purpose})", self.connection_name).into());
        let connecting = async {
            let connection = self.uri.clone().connect_with_config(properties, self.tls.clone(), runtime).await?;
            let channel = connection.create_channel().await?;
            Ok::<_, lapin::Error>((connection, channel))
        };
        let (connection, channel) = match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(connected)) => connected,
            Ok(Err(error)) => return Err(self.met(error).await),
            Err(_) => {
                return Err(Problem::transient(format!(
                    "no answer within {CONNECT_TIMEOUT:?}: check the host, the port and the firewalls between"
                )));
            }
        };
        let events = watch(&connection, purpose);
        Ok(Link { channel, connection, _events: events })
    }
}

impl Link {
    pub(super) fn is_up(&self) -> bool {
        self.connection.status().connected() && self.channel.status().connected()
    }
}

fn parse(text: &str) -> Result<AMQPUri, String> {
    const FORM: &str =
        "write amqp_url as amqp://user:password@host:port/vhost, or amqps://, with special characters in %xx form";
    if userinfo::is_torn(text) {
        return Err(format!(
            "the URL has an @ after its first /, ? or #; perhaps the password contains one of these: {FORM}"
        ));
    }
    // Neither error holds the text, which holds the password.
    let url = url::Url::parse(text).map_err(|error| format!("the URL is not one ({error}): {FORM}"))?;
    if !matches!(url.scheme(), "amqp" | "amqps") {
        return Err(format!("the URL begins with neither amqp:// nor amqps://: {FORM}"));
    }
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| format!("the URL has no host: {FORM}"))?;
    if url.username().is_empty() || url.password().is_none() {
        return Err(format!("the URL has no user or no password: {FORM}"));
    }
    let mut uri: AMQPUri = text.parse().map_err(|error: String| {
        let problem = if error.contains(text) { "it cannot be parsed".to_owned() } else { error };
        format!("the URL is not one of a broker ({problem}): {FORM}")
    })?;
    // lapin takes an IPv6 address for no host, and the path "/" for a vhost without a name.
    uri.authority.host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    if uri.vhost.is_empty() {
        uri.vhost = "/".to_owned();
    }
    Ok(uri)
}

/// lapin comes without any trusted certificates of its own.
fn system_certificates() -> Result<String, String> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        return Err("this system trusts no certificates: install ca-certificates, or give a CA file".to_owned());
    }
    let pem = |der: &[u8]| {
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", BASE64_STANDARD.encode(der))
    };
    Ok(found.certs.iter().map(|certificate| pem(certificate)).collect())
}

fn watch(connection: &Connection, purpose: &'static str) -> AbortOnDropHandle<()> {
    let mut events = Box::pin(connection.events_listener());
    AbortOnDropHandle::new(tokio::spawn(async move {
        while let Some(event) = events.next().await {
            match event {
                Event::ConnectionBlocked(reason) => {
                    warn!(purpose, reason, "RabbitMQ is in alarm and accepts no messages: free memory or disk there");
                }
                Event::ConnectionUnblocked => info!(purpose, "RabbitMQ takes messages again"),
                // An error is told by the call that it breaks.
                _ => {}
            }
        }
    }))
}

/// The pauses between attempts to reach the broker: 100 ms, doubled up to 5 s, with jitter so that a fleet does not come
/// back all at once.
pub(super) fn pauses() -> impl Iterator<Item = Duration> + Send {
    use backon::BackoffBuilder;
    backon::ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(5))
        .with_jitter()
        .without_max_times()
        .build()
}

/// Logs an outage once when it begins and once when it ends; and once, louder, where it turns out that waiting will not
/// end it.
pub(super) struct Outage {
    doing: &'static str,
    since: Option<Instant>,
    is_refusal: bool,
}

impl Outage {
    pub(super) fn none(doing: &'static str) -> Self {
        Self { doing, since: None, is_refusal: false }
    }

    pub(super) fn goes_on(&mut self, problem: &Problem) {
        let begins = self.since.is_none();
        self.since.get_or_insert_with(Instant::now);
        if !problem.kind.is_retryable() {
            if !self.is_refusal {
                error!(problem = problem.text, "{} through RabbitMQ is refused, until somebody fixes it", self.doing);
            }
            self.is_refusal = true;
        } else if begins {
            warn!(problem = problem.text, "{} through RabbitMQ is interrupted; trying again", self.doing);
        }
    }

    pub(super) fn ends(&mut self) {
        self.is_refusal = false;
        if let Some(since) = self.since.take() {
            info!(seconds = since.elapsed().as_secs_f64(), "{} through RabbitMQ continues", self.doing);
        }
    }
}
