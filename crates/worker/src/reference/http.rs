//! One try to fetch a reference over HTTP, within limits: bytes counted as they come, redirects followed here and each
//! one checked, nothing decompressed, no proxy (behind one, addresses could not be checked).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use diorama_core::causes;
use diorama_core::outcome::{ErrorCode, TaskError};
use reqwest::header::{ACCEPT_ENCODING, CONTENT_ENCODING, ETAG, HeaderMap, IF_NONE_MATCH, LOCATION, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode};
use url::Url;

use super::address::{Forbidden, Resolver, check_host};
use super::error::RemoteError;

/// Redirects that are followed.
const MOST_REDIRECTS: usize = 5;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);

/// How long a server may send nothing.
const SILENCE: Duration = Duration::from_secs(20);

/// Why a try failed.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub(super) struct Fault {
    /// What the task fails with, where no other try is made.
    pub(super) error: TaskError,
    /// How long the server wants to be left alone.
    pub(super) retry_after: Option<Duration>,
}

impl Fault {
    pub(super) fn permanent(code: ErrorCode, message: String) -> Self {
        Self { error: TaskError::permanent(code, message), retry_after: None }
    }

    pub(super) fn transient(message: String) -> Self {
        Self { error: TaskError::transient(ErrorCode::ReferenceUnreadable, message), retry_after: None }
    }

    pub(super) fn too_large(source: &str, limit: u64) -> Self {
        let message = format!("the reference {source} is larger than the {limit} bytes allowed");
        Self::permanent(ErrorCode::ReferenceTooLarge, message)
    }
}

/// What a try came to.
#[derive(Debug)]
pub(super) enum Answer {
    /// The bytes, and the tag by which the server knows this version of them.
    Body(Bytes, Option<String>),
    /// The version that was asked about is the one in force.
    Unchanged,
}

/// Fetches over HTTP.
pub(super) struct Http {
    client: Client,
    private: bool,
    max_bytes: u64,
}

impl Http {
    /// With `private`, private addresses and plain `http://` are allowed.
    pub(super) fn new(private: bool, max_bytes: u64, ca_file: Option<&Path>) -> Result<Self, RemoteError> {
        // Fails where the process has one already, which is as good.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut builder = Client::builder()
            .user_agent(concat!("diorama/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .no_proxy()
            .https_only(!private)
            .dns_resolver(Arc::new(Resolver { private }))
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE);
        if let Some(path) = ca_file {
            let wrong = |problem: String| RemoteError::Certificates { path: path.to_owned(), problem };
            let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem);
            for certificate in certificates.map_err(|error| wrong(error.to_string()))? {
                builder = builder.add_root_certificate(certificate);
            }
        }
        let client = builder.build().map_err(|error| RemoteError::Client(error.to_string()))?;
        Ok(Self { client, private, max_bytes })
    }

    /// Gets what is at `url`; where `etag` is given, only if it is another version.
    pub(super) async fn get(&self, url: &Url, etag: Option<&str>) -> Result<Answer, Fault> {
        let (source, mut at) = (shown(url), url.clone());
        for redirects in 0..=MOST_REDIRECTS {
            let response = self.send(&source, &at, etag.filter(|_| redirects == 0)).await?;
            let status = response.status();
            if status == StatusCode::NOT_MODIFIED && redirects == 0 && etag.is_some() {
                return Ok(Answer::Unchanged);
            }
            if !status.is_redirection() {
                let tag = text(response.headers(), ETAG.as_str()).filter(|_| redirects == 0);
                return Ok(Answer::Body(self.body(&source, response).await?, tag));
            }
            at = next(&source, &at, &response)?;
        }
        let message = format!("the reference {source} leads through more than {MOST_REDIRECTS} redirects");
        Err(Fault::permanent(ErrorCode::ReferenceUnreadable, message))
    }

    async fn send(&self, source: &str, url: &Url, etag: Option<&str>) -> Result<Response, Fault> {
        self.check(source, url)?;
        let mut request = self.client.get(url.clone()).header(ACCEPT_ENCODING, "identity");
        if let Some(etag) = etag {
            request = request.header(IF_NONE_MATCH, etag);
        }
        request.send().await.map_err(|error| broken(source, error))
    }

    fn check(&self, source: &str, url: &Url) -> Result<(), Fault> {
        let scheme = url.scheme();
        let http = scheme == "http" && self.private;
        let problem = match check_host(url, self.private) {
            _ if scheme != "https" && !http => {
                format!("{scheme}:// is not fetched; only https:// is, and http:// if allow_private_references is set")
            }
            Ok(()) => return Ok(()),
            Err(forbidden) => forbidden.to_string(),
        };
        Err(forbidden(source, &problem))
    }

    async fn body(&self, source: &str, mut response: Response) -> Result<Bytes, Fault> {
        let status = response.status();
        if status != StatusCode::OK {
            return Err(refused(source, status, response.headers()));
        }
        if let Some(encoding) = text(response.headers(), CONTENT_ENCODING.as_str()).filter(|it| it != "identity") {
            let message =
                format!("the reference {source} was sent as {encoding:?}, although it was requested uncompressed");
            return Err(Fault::permanent(ErrorCode::ReferenceUndecodable, message));
        }
        if response.content_length().is_some_and(|length| length > self.max_bytes) {
            return Err(Fault::too_large(source, self.max_bytes));
        }
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| broken(source, error))? {
            if (body.len() + chunk.len()) as u64 > self.max_bytes {
                return Err(Fault::too_large(source, self.max_bytes));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }
}

/// Where a redirect leads; user names and passwords do not travel.
fn next(source: &str, at: &Url, response: &Response) -> Result<Url, Fault> {
    let status = response.status();
    let wrong = || {
        let message = format!("the reference {source} is redirected ({status}) to nowhere");
        Fault::permanent(ErrorCode::ReferenceUnreadable, message)
    };
    let location = text(response.headers(), LOCATION.as_str()).ok_or_else(wrong)?;
    let mut next = at.join(&location).map_err(|_| wrong())?;
    // Both fail only for URLs that have no host, which are refused next.
    let _ = next.set_username("").and_then(|()| next.set_password(None));
    Ok(next)
}

/// What an answer other than the picture means.
fn refused(source: &str, status: StatusCode, headers: &HeaderMap) -> Fault {
    let message = format!("the reference {source} cannot be read: the server answered {status}");
    let passes = status.is_server_error()
        || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS);
    if !passes {
        return Fault::permanent(ErrorCode::ReferenceUnreadable, message);
    }
    // The other form, a date, is rare; the usual wait does for it.
    let seconds = text(headers, RETRY_AFTER.as_str()).and_then(|seconds| seconds.trim().parse().ok());
    Fault { retry_after: seconds.map(Duration::from_secs), ..Fault::transient(message) }
}

/// A connection that was not made or broke off; a name that leads to a forbidden address looks like that too.
fn broken(source: &str, error: reqwest::Error) -> Fault {
    let error = error.without_url();
    match causes::find::<Forbidden>(&error) {
        Some(found) => forbidden(source, &found.to_string()),
        None => Fault::transient(format!("the reference {source} cannot be read: {}", causes::in_one_line(&error))),
    }
}

fn forbidden(source: &str, problem: &str) -> Fault {
    Fault::permanent(ErrorCode::ReferenceForbidden, format!("the reference {source} is not fetched: {problem}"))
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// A URL as it stands in messages: without user, password and query, which may be secrets.
pub(super) fn shown(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    let path: String = url.path().chars().take(200).collect();
    format!("{}://{host}{port}{path}", url.scheme())
}
