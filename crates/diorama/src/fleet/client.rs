//! The client of a coordinator's API. A coordinator that is away for a moment is waited for; what it refuses is not asked
//! twice.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use diorama_coordinator::RunStatus;
use diorama_coordinator::api::Problem;
use diorama_core::causes;
use diorama_runtime::options::ClientOptions;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;

use crate::exit::Failure;
use crate::fleet::proxy;
use crate::issues;

/// A coordinator.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    /// Without a time-out: for what takes as long as it takes. A coordinator that has vanished is noticed by TCP.
    patient: reqwest::Client,
    address: String,
    token: Option<SecretString>,
}

/// What a request came to, where it did not come to what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// The coordinator refused.
    #[error("{} ({}){}{}", .0.detail, .0.code, how_to_mend(.0), listed(.0))]
    Refused(Box<Problem>),
    /// It cannot be reached, or broke off.
    #[error(
        "the coordinator {address} cannot be reached: {problem}; is it running, and is --coordinator right?{}",
        proxy::hint(.address)
    )]
    Unreachable {
        address: String,
        /// What the network says.
        problem: String,
    },
    /// It answered something that is not ours.
    #[error("{address} is not a Diorama coordinator ({problem}); check --coordinator{}", proxy::hint(.address))]
    NoCoordinator {
        address: String,
        /// What was wrong with it.
        problem: String,
    },
}

/// How whoever types a command mends what the API says to a program.
fn how_to_mend(problem: &Problem) -> &'static str {
    match problem.status {
        401 => "; name the file with your token by --token-file, or set DIORAMA_TOKEN",
        _ => "",
    }
}

/// What is wrong with a manifest, where that is the problem.
fn listed(problem: &Problem) -> String {
    problem
        .issues
        .as_deref()
        .map_or_else(String::new, |listed| issues::list(listed, problem.issue_count.unwrap_or(listed.len() as u64)))
}

impl ClientError {
    /// Whether the same command may succeed later.
    pub(crate) fn is_retryable(&self) -> bool {
        match self {
            // Away, or as much is taken as the token may take.
            Self::Refused(problem) => matches!(problem.status, 503 | 429),
            Self::Unreachable { .. } => true,
            Self::NoCoordinator { .. } => false,
        }
    }

    /// Whether it may succeed within moments. As many runs as the token may have take longer to end.
    fn passes_soon(&self) -> bool {
        let takes_longer =
            matches!(self, Self::Refused(problem) if problem.status == 429 && problem.code != "too_many_requests");
        self.is_retryable() && !takes_longer
    }

    /// Whether the coordinator refused with this code.
    pub(crate) fn is_refused_as(&self, code: &str) -> bool {
        matches!(self, Self::Refused(problem) if problem.code == code)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let json = match &error {
            ClientError::Refused(problem) => serde_json::to_value(problem).ok(),
            ClientError::Unreachable { .. } | ClientError::NoCoordinator { .. } => None,
        };
        let failure = Self::judged(error, ClientError::is_retryable);
        match json {
            Some(json) => failure.with_json(json),
            None => failure,
        }
    }
}

impl Client {
    /// Where the coordinator is, without a slash at the end.
    pub(crate) fn address(&self) -> &str {
        self.address.trim_end_matches('/')
    }

    /// A client of the coordinator that the configuration names.
    pub(crate) fn new(options: &ClientOptions) -> Result<Self, Failure> {
        let mut certificates = Vec::new();
        if let Some(path) = &options.ca_file {
            let pem = std::fs::read(path).map_err(anyhow::Error::from);
            let read = pem.and_then(|pem| Ok(reqwest::Certificate::from_pem_bundle(&pem)?));
            let failed = |error: anyhow::Error| Failure::usage(error.context(format!("ca_file {}", path.display())));
            certificates = read.map_err(failed)?;
        }
        let address = options.coordinator.trim_end_matches('/').to_owned();
        let client = || {
            let client = proxy::builder(&address)
                .user_agent(concat!("diorama/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(Duration::from_secs(5))
                .tcp_keepalive(Duration::from_secs(15))
                .tcp_keepalive_interval(Duration::from_secs(15))
                .tcp_keepalive_retries(4);
            certificates.iter().cloned().fold(client, reqwest::ClientBuilder::add_root_certificate)
        };
        let http = client().read_timeout(Duration::from_secs(60)).build().map_err(Failure::permanent)?;
        let patient = client().build().map_err(Failure::permanent)?;
        Ok(Self { http, patient, address, token: options.token.clone() })
    }

    /// A request to a path of the API.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.request_of(&self.http, method, path)
    }

    /// A request whose answer may take hours.
    pub(crate) fn long_request(&self, method: Method, path: &str) -> RequestBuilder {
        self.request_of(&self.patient, method, path)
    }

    fn request_of(&self, client: &reqwest::Client, method: Method, path: &str) -> RequestBuilder {
        let request = client.request(method, format!("{}{path}", self.address));
        match &self.token {
            Some(token) => request.bearer_auth(token.expose_secret()),
            None => request,
        }
    }

    /// Sends a request once; a refusal is an error.
    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let response = request.send().await.map_err(|error| self.unreachable(error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let text = response.text().await.map_err(|error| self.unreachable(error))?;
        match serde_json::from_str(&text) {
            Ok(problem) => Err(ClientError::Refused(Box::new(problem))),
            Err(_) if status.is_server_error() => Err(ClientError::Unreachable {
                address: self.address.clone(),
                problem: format!("it answered {status}"),
            }),
            Err(_) => Err(self.no_coordinator(format!("status {status}"))),
        }
    }

    /// Sends what changes something. `None` where an answer was lost and the next try is refused as of something that
    /// `took_place`: it was our own request that did it.
    pub(crate) async fn send_change(
        &self,
        request: impl Fn() -> RequestBuilder,
        took_place: impl Fn(&Problem) -> bool,
    ) -> Result<Option<Response>, ClientError> {
        match self.send(request()).await {
            Err(error) if error.passes_soon() => match self.send_again(request).await {
                Err(ClientError::Refused(problem)) if took_place(&problem) => Ok(None),
                answer => answer.map(Some),
            },
            answer => answer.map(Some),
        }
    }

    /// Sends what may be sent twice, for as long as it may help (about half a minute).
    pub(crate) async fn send_again(&self, request: impl Fn() -> RequestBuilder) -> Result<Response, ClientError> {
        let backoff = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(200))
            .with_max_delay(Duration::from_secs(5))
            .with_max_times(10)
            .with_jitter();
        let mut told = false;
        (|| self.send(request()))
            .retry(backoff)
            .when(ClientError::passes_soon)
            .notify(|error, wait| match std::mem::replace(&mut told, true) {
                false => tracing::warn!("{error}; trying again for half a minute"),
                true => tracing::debug!(%error, ?wait, "trying again"),
            })
            .await
    }

    /// Gets a JSON answer.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let response = self.send_again(|| self.request(Method::GET, path)).await?;
        self.read(response).await
    }

    /// Reads a JSON answer.
    pub(crate) async fn read<T: DeserializeOwned>(&self, response: Response) -> Result<T, ClientError> {
        let text = response.text().await.map_err(|error| self.unreachable(error))?;
        serde_json::from_str(&text).map_err(|error| self.no_coordinator(error.to_string()))
    }

    /// How a run stands.
    pub(crate) async fn run(&self, run: &str) -> Result<RunStatus, ClientError> {
        self.get(&format!("/v1/runs/{run}")).await
    }

    /// Whether the blob is there.
    pub(crate) async fn has_blob(&self, sha256: &str) -> Result<bool, ClientError> {
        let path = format!("/v1/blobs/{sha256}");
        let head = || async {
            let response = self.request(Method::HEAD, &path).send().await.map_err(|error| self.unreachable(error))?;
            match response.status() {
                StatusCode::OK => Ok(true),
                StatusCode::NOT_FOUND => Ok(false),
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    // An answer to HEAD has no body; ask again for the words.
                    self.send(self.request(Method::GET, "/v1/runs?limit=1")).await.map(|_| false)
                }
                status => Err(ClientError::Unreachable {
                    address: self.address.clone(),
                    problem: format!("it answered {status}"),
                }),
            }
        };
        let backoff = ExponentialBuilder::default().with_max_times(8).with_jitter();
        head.retry(backoff).when(ClientError::passes_soon).await
    }

    pub(crate) fn unreachable(&self, error: reqwest::Error) -> ClientError {
        // The address is said beside it, and what did not connect has one cause that matters: the last.
        let error = error.without_url();
        let problem = match causes::causes(&error).last() {
            Some(cause) if error.is_connect() => cause.to_string(),
            _ => causes::in_one_line(&error),
        };
        ClientError::Unreachable { address: self.address.clone(), problem }
    }

    fn no_coordinator(&self, problem: String) -> ClientError {
        ClientError::NoCoordinator { address: self.address.clone(), problem }
    }
}
