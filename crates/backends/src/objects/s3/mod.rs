//! Objects in S3, or in a store that speaks its protocol.
//!
//! - **Retries**: the SDK's own are off. [`Retrying`](super::retrying::Retrying) tries requests again, and a file that goes
//!   up in parts has each part tried again by itself (`upload.rs`).
//! - **Checksums**: a body lies in memory as a whole (a part at most), so the SDK signs its SHA-256 as part of the request
//!   (`x-amz-content-sha256`). Every store that checks signatures refuses a body that was damaged on the way, and such a
//!   refusal is tried again. The checksums that newer SDKs add beside it (`x-amz-checksum-crc32` in trailers) are used
//!   only where S3 requires them, because many compatible stores refuse them. What is read is checked by its readers:
//!   every archive has its SHA-256 in a commit marker.
//! - **Lost answers**: a request that failed may have taken place. Whatever is not the same when it is done twice is looked
//!   at first: a conditional put by `Retrying`, the end of an upload in parts by itself.
//! - **Time**: a connection within 5 s; an answer within [`S3Config::answer`], longer for large bodies; a body that
//!   stands still for [`S3Config::stall`] is given up. Nothing is held in memory but a part, or what is being read.

mod clock;
mod credentials;
mod error;
mod listing;
mod removal;
mod stale;
mod upload;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Builder, IdentityCache, ProvideCredentials, Region, RequestChecksumCalculation,
    ResponseChecksumValidation, SharedCredentialsProvider, StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::{AggregatedBytes, ByteStream, DateTime};
use aws_smithy_http_client::tls;
use bytes::Bytes;
use diorama_core::causes;
use jiff::Timestamp;

use self::clock::Clock;
pub use self::credentials::S3Credentials;
use super::{ObjectError, ObjectErrorKind, ObjectMeta, ObjectReader, Objects, Page, Put, RemoteObjects, check_key};
use crate::certificates;
use crate::kind::Cause;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);

/// The slowest connection that a body is sent over, in bytes a second.
const SLOWEST: u64 = 128 << 10;

/// How the store is reached.
#[derive(Debug, Clone)]
pub struct S3Config {
    /// The store's address, where it is not Amazon's.
    pub endpoint: Option<String>,
    pub region: String,
    pub bucket: String,
    /// What every key begins with; may be empty.
    pub prefix: String,
    /// Whose key signs the requests.
    pub credentials: S3Credentials,
    /// `endpoint/bucket/key` rather than `bucket.endpoint/key`.
    pub path_style: bool,
    /// Certificates (PEM) trusted beside the system's.
    pub ca_file: Option<PathBuf>,
    /// Files larger than this go up in parts of this size, in bytes: at least 5 MiB.
    pub multipart_bytes: u64,
    /// How long an answer to a small request may take. A body that is sent has a second more for each 128 KiB.
    pub answer: Duration,
    /// How long a body that is sent or read may stand still.
    pub stall: Duration,
}

impl Default for S3Config {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: "us-east-1".to_owned(),
            bucket: String::new(),
            prefix: String::new(),
            credentials: S3Credentials::default(),
            path_style: false,
            ca_file: None,
            multipart_bytes: 16 << 20,
            answer: Duration::from_secs(30),
            stall: Duration::from_secs(30),
        }
    }
}

/// A store in a bucket. Clones share its connections.
#[derive(Clone)]
pub struct S3Objects {
    client: Client,
    bucket: String,
    prefix: String,
    multipart_bytes: u64,
    answer: Duration,
    /// Whether the store ever answered.
    reached: Arc<AtomicBool>,
    credentials: SharedCredentialsProvider,
    clock: Clock,
}

impl fmt::Debug for S3Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S3Objects(s3://{}/{})", self.bucket, self.prefix)
    }
}

impl S3Objects {
    /// A store as `config` says. Nothing is asked of it yet.
    pub fn connect(config: S3Config) -> Result<Self, ObjectError> {
        let wrong = |problem: String| {
            ObjectError::new(ObjectErrorKind::Refused, "reading", "the settings of the object store", problem)
        };
        if let Some(endpoint) = &config.endpoint {
            check_endpoint(endpoint).map_err(wrong)?;
        }
        let mut roots = tls::TrustStore::default().with_native_roots(true);
        if let Some(path) = &config.ca_file {
            roots.add_pem_certificate(certificates::read(path).map_err(wrong)?);
        }
        let context = tls::TlsContext::builder().with_trust_store(roots).build();
        let context = context.map_err(|error| wrong(format!("TLS: {error}")))?;
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::AwsLc))
            .tls_context(context)
            .build_https();
        let timeouts =
            TimeoutConfig::builder().connect_timeout(CONNECT).operation_attempt_timeout(config.answer).build();
        let region = Region::new(config.region.clone());
        let credentials = config.credentials.provider(http.clone(), region.clone());
        let clock = Clock::default();
        let mut builder = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(http)
            .credentials_provider(credentials.clone())
            .identity_cache(IdentityCache::lazy().load_timeout(credentials::LOOKING).build())
            .interceptor(clock.clone())
            .region(region)
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts)
            .stalled_stream_protection(StalledStreamProtectionConfig::enabled().grace_period(config.stall).build())
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .force_path_style(config.path_style);
        if let Some(endpoint) = &config.endpoint {
            builder = builder.endpoint_url(endpoint);
        }
        let prefix = match config.prefix.trim_matches('/') {
            "" => String::new(),
            prefix => format!("{prefix}/"),
        };
        if !prefix.is_empty() {
            check_key(prefix.trim_end_matches('/'))?;
        }
        Ok(Self {
            client: Client::from_conf(builder.build()),
            bucket: config.bucket,
            prefix,
            multipart_bytes: config.multipart_bytes.max(upload::SMALLEST_PART),
            answer: config.answer,
            reached: Arc::default(),
            credentials,
            clock,
        })
    }

    /// Where the key comes from, in words.
    pub async fn key_origin(&self) -> Result<String, ObjectError> {
        let found = tokio::time::timeout(credentials::LOOKING, self.credentials.provide_credentials()).await;
        let found = found.unwrap_or_else(|_| Err(CredentialsError::provider_timed_out(credentials::LOOKING)));
        found.map(|key| credentials::origin(&key)).map_err(|error| {
            let (kind, problem) = credentials::meaning(&error);
            ObjectError::new(kind, "finding", "a key for the object store", problem).caused_by(error)
        })
    }

    /// How far this machine's clock was ahead of the store's at its last answer, where that said so.
    pub fn clock_ahead(&self) -> Option<jiff::SignedDuration> {
        self.clock.ahead()
    }

    fn full(&self, key: &str) -> Result<String, ObjectError> {
        check_key(key)?;
        Ok(format!("{}{key}", self.prefix))
    }

    /// The object, as errors name it.
    fn name(&self, key: &str) -> String {
        format!("s3://{}/{}{key}", self.bucket, self.prefix)
    }

    /// What the SDK's error means to us.
    fn error<E>(&self, doing: &'static str, key: &str, error: SdkError<E>) -> ObjectError
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        if error.raw_response().is_some() {
            self.reached.store(true, Ordering::Relaxed);
        }
        let (kind, problem) = error::meaning(&error, self.reached.load(Ordering::Relaxed));
        // An answer is left behind: it may be long, what it says is in the problem, and the SDK has no words for it.
        let cause = match error.raw_response() {
            Some(_) => None,
            None => error.into_source().ok().map(Cause::from),
        };
        ObjectError { cause, ..ObjectError::new(kind, doing, self.name(key), problem) }
    }

    /// What the store sent, or what its error means.
    fn answered<T, E>(&self, doing: &'static str, key: &str, answer: Result<T, SdkError<E>>) -> Result<T, ObjectError>
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        self.reached.fetch_or(answer.is_ok(), Ordering::Relaxed);
        answer.map_err(|error| self.error(doing, key, error))
    }

    async fn collected(&self, key: &str, body: ByteStream) -> Result<Bytes, ObjectError> {
        body.collect().await.map(AggregatedBytes::into_bytes).map_err(|error| {
            let problem = format!("the response was cut off: {}", causes::in_one_line(&error));
            ObjectError::new(ObjectErrorKind::Transient, "reading", self.name(key), problem).caused_by(error)
        })
    }

    /// What a request that sends `bytes` bytes needs beside the rest: time.
    fn time_for(&self, bytes: u64) -> Builder {
        let attempt = self.answer + Duration::from_secs(bytes / SLOWEST);
        let timeouts = TimeoutConfig::builder().operation_attempt_timeout(attempt).build();
        aws_sdk_s3::Config::builder().timeout_config(timeouts)
    }

    fn local(path: &Path, error: &std::io::Error) -> ObjectError {
        ObjectError::io("reading", path.display().to_string(), error)
    }
}

/// Refuses what is no address. The words leave out what it holds where that may be a secret.
fn check_endpoint(endpoint: &str) -> Result<(), String> {
    const FORM: &str = "write s3_endpoint as http://host:port or https://host:port";
    let url = url::Url::parse(endpoint).map_err(|error| format!("the endpoint is not a URL ({error}): {FORM}"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(format!("the endpoint begins with {:?} and names no host: {FORM}", url.scheme()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(format!(
            "the endpoint holds a user or a password: {FORM}, and the key in s3_access_key and s3_secret_key"
        ));
    }
    Ok(())
}

fn timestamp(at: &DateTime) -> Option<Timestamp> {
    Timestamp::new(at.secs(), i32::try_from(at.subsec_nanos()).ok()?).ok()
}

fn length(bytes: Option<i64>) -> u64 {
    bytes.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or_default()
}

#[async_trait]
impl Objects for S3Objects {
    async fn get(&self, key: &str) -> Result<Bytes, ObjectError> {
        let got = self.client.get_object().bucket(&self.bucket).key(self.full(key)?).send().await;
        self.collected(key, self.answered("reading", key, got)?.body).await
    }

    async fn open(&self, key: &str) -> Result<ObjectReader, ObjectError> {
        let got = self.client.get_object().bucket(&self.bucket).key(self.full(key)?).send().await;
        let got = self.answered("reading", key, got)?;
        Ok(ObjectReader { bytes: length(got.content_length()), body: Box::pin(got.body.into_async_read()) })
    }

    async fn read_range(&self, key: &str, from: u64, length: u64) -> Result<Bytes, ObjectError> {
        let Some(last) = length.checked_sub(1).and_then(|more| from.checked_add(more)) else {
            return Ok(Bytes::new());
        };
        let get = self.client.get_object().bucket(&self.bucket).key(self.full(key)?);
        let got = match get.range(format!("bytes={from}-{last}")).send().await {
            // It begins behind the end.
            Err(error) if error.raw_response().is_some_and(|response| response.status().as_u16() == 416) => {
                return Ok(Bytes::new());
            }
            got => self.answered("reading", key, got)?,
        };
        let is_whole = got.content_range().is_none();
        let bytes = self.collected(key, got.body).await?;
        // A store that knows no ranges gives everything.
        let skipped = if is_whole { bytes.len().min(usize::try_from(from).unwrap_or(usize::MAX)) } else { 0 };
        let end = bytes.len().min(skipped.saturating_add(usize::try_from(length).unwrap_or(usize::MAX)));
        Ok(bytes.slice(skipped..end))
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, ObjectError> {
        let found = self.client.head_object().bucket(&self.bucket).key(self.full(key)?).send().await;
        match self.answered("looking at", key, found) {
            Ok(found) => {
                let modified = found.last_modified().and_then(timestamp);
                Ok(Some(ObjectMeta { key: key.to_owned(), bytes: length(found.content_length()), modified }))
            }
            Err(error) if error.kind == ObjectErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, ObjectError> {
        self.page(prefix, after, limit).await
    }

    async fn put(&self, key: &str, bytes: Bytes) -> Result<(), ObjectError> {
        let time = self.time_for(bytes.len() as u64);
        let put = self.client.put_object().bucket(&self.bucket).key(self.full(key)?).body(bytes.into());
        self.answered("writing", key, put.customize().config_override(time).send().await).map(drop)
    }

    async fn put_if_absent(&self, key: &str, bytes: Bytes) -> Result<Put, ObjectError> {
        let time = self.time_for(bytes.len() as u64);
        let put = self.client.put_object().bucket(&self.bucket).key(self.full(key)?).body(bytes.into());
        match put.if_none_match("*").customize().config_override(time).send().await {
            Err(error) if error.raw_response().is_some_and(|response| response.status().as_u16() == 412) => {
                Ok(Put::Exists)
            }
            put => self.answered("writing", key, put).map(|_| Put::Created),
        }
    }

    async fn put_file(&self, key: &str, file: &Path) -> Result<(), ObjectError> {
        let full = self.full(key)?;
        let bytes = tokio::fs::metadata(file).await.map_err(|error| Self::local(file, &error))?.len();
        if bytes > self.multipart_bytes {
            return self.put_parts(key, &full, file, bytes).await;
        }
        let body = tokio::fs::read(file).await.map_err(|error| Self::local(file, &error))?;
        self.put(key, body.into()).await
    }

    async fn delete(&self, key: &str) -> Result<(), ObjectError> {
        let deleted = self.client.delete_object().bucket(&self.bucket).key(self.full(key)?).send().await;
        match self.answered("removing", key, deleted) {
            Err(error) if error.kind == ObjectErrorKind::NotFound => Ok(()),
            deleted => deleted.map(drop),
        }
    }

    async fn delete_all(&self, keys: &[String]) -> Result<(), ObjectError> {
        self.remove(keys).await
    }

    async fn abort_stale_uploads(&self, prefix: &str, older_than: Duration) -> Result<u64, ObjectError> {
        self.abort_stale(prefix, older_than).await
    }
}

#[async_trait]
impl RemoteObjects for S3Objects {
    async fn open_in(&self, bucket: &str, key: &str) -> Result<ObjectReader, ObjectError> {
        let there = Self { bucket: bucket.to_owned(), prefix: String::new(), ..self.clone() };
        let got = there.client.get_object().bucket(bucket).key(key).send().await;
        let got = there.answered("reading", key, got)?;
        Ok(ObjectReader { bytes: length(got.content_length()), body: Box::pin(got.body.into_async_read()) })
    }
}
