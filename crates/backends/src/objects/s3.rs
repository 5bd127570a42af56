//! Objects in S3, or in a store that speaks its protocol.
//!
//! Large files go up in parts, a part in memory at a time; reading is streamed. The SDK's own retries are off:
//! [`Retrying`](super::retrying::Retrying) is the one place that retries. The checksums that newer SDKs add to every
//! request are used only where S3 requires them, because many compatible stores refuse them; every archive and file has
//! its SHA-256 in a commit marker instead, which `diorama verify` checks.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
};
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::{ByteStream, Length};
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use aws_smithy_http_client::tls;
use bytes::Bytes;
use secrecy::{ExposeSecret, SecretString};

use super::{ObjectError, ObjectErrorKind, ObjectMeta, ObjectReader, Objects, Page, Put, RemoteObjects, check_key};

/// The smallest part that S3 takes.
const SMALLEST_PART: u64 = 5 << 20;

/// The most parts that S3 takes.
const MOST_PARTS: u64 = 10_000;

/// How the store is reached.
#[derive(Debug, Clone)]
pub struct S3Config {
    /// The store's address, where it is not Amazon's.
    pub endpoint: Option<String>,
    /// The region.
    pub region: String,
    /// The bucket.
    pub bucket: String,
    /// What every key begins with; may be empty.
    pub prefix: String,
    /// The access key's id.
    pub access_key: Option<SecretString>,
    /// The secret key.
    pub secret_key: Option<SecretString>,
    /// `endpoint/bucket/key` rather than `bucket.endpoint/key`.
    pub path_style: bool,
    /// Certificates (PEM) trusted beside the system's.
    pub ca_file: Option<PathBuf>,
    /// Files larger than this go up in parts of this size, in bytes: at least 5 MiB.
    pub multipart_bytes: u64,
}

impl Default for S3Config {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: "us-east-1".to_owned(),
            bucket: String::new(),
            prefix: String::new(),
            access_key: None,
            secret_key: None,
            path_style: false,
            ca_file: None,
            multipart_bytes: 16 << 20,
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
}

impl fmt::Debug for S3Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S3Objects(s3://{}/{})", self.bucket, self.prefix)
    }
}

impl S3Objects {
    /// A store as `config` says. Nothing is asked of it yet.
    pub fn connect(config: S3Config) -> Result<Self, ObjectError> {
        let wrong = |problem: String| ObjectError {
            kind: ObjectErrorKind::Permission,
            doing: "reading",
            what: "the settings of the object store".to_owned(),
            problem,
        };
        let (Some(id), Some(secret)) = (&config.access_key, &config.secret_key) else {
            return Err(wrong(
                "s3_access_key and s3_secret_key (or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY) are not both given"
                    .to_owned(),
            ));
        };
        let mut roots = tls::TrustStore::default().with_native_roots(true);
        if let Some(path) = &config.ca_file {
            let pem = std::fs::read(path).map_err(|error| wrong(format!("the CA file {}: {error}", path.display())))?;
            roots.add_pem_certificate(pem);
        }
        let context = tls::TlsContext::builder().with_trust_store(roots).build();
        let context = context.map_err(|error| wrong(format!("TLS: {error}")))?;
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::AwsLc))
            .tls_context(context)
            .build_https();
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(Duration::from_secs(5))
            .read_timeout(Duration::from_secs(30))
            .operation_attempt_timeout(Duration::from_secs(120))
            .build();
        let credentials = Credentials::new(id.expose_secret(), secret.expose_secret(), None, None, "configuration");
        let mut builder = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(http)
            .credentials_provider(credentials)
            .region(Region::new(config.region.clone()))
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts)
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
            multipart_bytes: config.multipart_bytes.max(SMALLEST_PART),
        })
    }

    fn full(&self, key: &str) -> Result<String, ObjectError> {
        check_key(key)?;
        Ok(format!("{}{key}", self.prefix))
    }

    /// What the SDK's error means to us.
    fn error<E>(&self, doing: &'static str, key: &str, error: SdkError<E>) -> ObjectError
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let status = error.raw_response().map(|response| response.status().as_u16());
        let code = error.code().unwrap_or_default().to_owned();
        let kind = match (&error, status, code.as_str()) {
            (
                _,
                _,
                "NoSuchBucket" | "InvalidAccessKeyId" | "NotSignedUp" | "SignatureDoesNotMatch" | "AccessDenied",
            ) => ObjectErrorKind::Permission,
            (_, Some(401 | 403), _) => ObjectErrorKind::Permission,
            (_, Some(404), _) => ObjectErrorKind::NotFound,
            (_, _, "QuotaExceeded" | "XMinioStorageFull") | (_, Some(507), _) => ObjectErrorKind::DiskFull,
            (_, Some(408 | 409 | 425 | 429 | 500..=599), _) => ObjectErrorKind::Transient,
            (SdkError::DispatchFailure(_) | SdkError::TimeoutError(_) | SdkError::ResponseError(_), _, _) => {
                ObjectErrorKind::Transient
            }
            _ => ObjectErrorKind::Io,
        };
        let advice = match code.as_str() {
            "NoSuchBucket" => ": there is no such bucket; create it or correct s3_bucket",
            "InvalidAccessKeyId" | "NotSignedUp" => ": the store does not know the key; check s3_access_key",
            "SignatureDoesNotMatch" => ": check s3_secret_key, s3_region, and that the clock is right",
            "AccessDenied" => ": the key lacks the right; it needs to get, put, list and delete objects of the bucket",
            _ => "",
        };
        let message = match error.message() {
            Some(message) if !code.is_empty() => format!("{code} {message}{advice}"),
            _ => match status {
                Some(status) => format!("the store answered {status} {code}{advice}"),
                None => format!("{}", DisplayErrorContext(&error)),
            },
        };
        ObjectError { kind, doing, what: format!("s3://{}/{}{key}", self.bucket, self.prefix), problem: message }
    }

    fn local(path: &Path, error: &std::io::Error) -> ObjectError {
        ObjectError::io("reading", path.display().to_string(), error)
    }

    async fn put_parts(&self, key: &str, full: &str, file: &Path, bytes: u64) -> Result<(), ObjectError> {
        let begun = self.client.create_multipart_upload().bucket(&self.bucket).key(full).send().await;
        let begun = begun.map_err(|error| self.error("writing", key, error))?;
        let damaged = || ObjectError::damaged(full, "the store began an upload without naming it");
        let upload = begun.upload_id().ok_or_else(damaged)?;
        match self.parts(key, full, file, bytes, upload).await {
            Ok(()) => Ok(()),
            Err(error) => {
                let abort = self.client.abort_multipart_upload().bucket(&self.bucket).key(full).upload_id(upload);
                if let Err(error) = abort.send().await {
                    let error = self.error("abandoning", key, error);
                    tracing::warn!(%error, "an unfinished upload stays behind; a lifecycle rule of the bucket can remove it");
                }
                Err(error)
            }
        }
    }

    async fn parts(&self, key: &str, full: &str, file: &Path, bytes: u64, upload: &str) -> Result<(), ObjectError> {
        let size = self.multipart_bytes.max(bytes.div_ceil(MOST_PARTS));
        let mut done = CompletedMultipartUpload::builder();
        for (index, offset) in (0..bytes).step_by(usize::try_from(size).unwrap_or(usize::MAX)).enumerate() {
            let number = index as i32 + 1;
            let length = Length::Exact(size.min(bytes - offset));
            let body = ByteStream::read_from().path(file).offset(offset).length(length).build().await;
            let body = body.map_err(|error| Self::local(file, &std::io::Error::other(error)))?;
            let part = self.client.upload_part().bucket(&self.bucket).key(full).upload_id(upload);
            let sent = part.part_number(number).body(body).send().await;
            let sent = sent.map_err(|error| self.error("writing", key, error))?;
            done = done.parts(CompletedPart::builder().part_number(number).set_e_tag(sent.e_tag).build());
        }
        let complete = self.client.complete_multipart_upload().bucket(&self.bucket).key(full).upload_id(upload);
        let completed = complete.multipart_upload(done.build()).send().await;
        completed.map(drop).map_err(|error| self.error("writing", key, error))
    }
}

#[async_trait]
impl Objects for S3Objects {
    async fn get(&self, key: &str) -> Result<Bytes, ObjectError> {
        let got = self.client.get_object().bucket(&self.bucket).key(self.full(key)?).send().await;
        let got = got.map_err(|error| self.error("reading", key, error))?;
        let collected = got.body.collect().await;
        collected.map(aws_sdk_s3::primitives::AggregatedBytes::into_bytes).map_err(|error| ObjectError {
            kind: ObjectErrorKind::Transient,
            doing: "reading",
            what: key.to_owned(),
            problem: format!("the answer broke off: {error}"),
        })
    }

    async fn open(&self, key: &str) -> Result<ObjectReader, ObjectError> {
        let got = self.client.get_object().bucket(&self.bucket).key(self.full(key)?).send().await;
        let got = got.map_err(|error| self.error("reading", key, error))?;
        let bytes = got.content_length().and_then(|length| u64::try_from(length).ok()).unwrap_or_default();
        Ok(ObjectReader { bytes, body: Box::pin(got.body.into_async_read()) })
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, ObjectError> {
        match self.client.head_object().bucket(&self.bucket).key(self.full(key)?).send().await {
            Ok(found) => {
                let bytes = found.content_length().and_then(|length| u64::try_from(length).ok()).unwrap_or_default();
                Ok(Some(ObjectMeta { key: key.to_owned(), bytes }))
            }
            Err(error) => match self.error("looking at", key, error) {
                error if error.kind == ObjectErrorKind::NotFound => Ok(None),
                error => Err(error),
            },
        }
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, ObjectError> {
        let listed = self
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .prefix(format!("{}{prefix}", self.prefix))
            .set_start_after(after.map(|after| format!("{}{after}", self.prefix)))
            .max_keys(i32::try_from(limit.clamp(1, 1000)).unwrap_or(1000))
            .send()
            .await
            .map_err(|error| self.error("listing", prefix, error))?;
        let meta = |object: &aws_sdk_s3::types::Object| {
            let key = object.key()?.strip_prefix(&self.prefix)?.to_owned();
            Some(ObjectMeta { key, bytes: object.size().and_then(|size| u64::try_from(size).ok()).unwrap_or_default() })
        };
        let objects: Vec<_> = listed.contents().iter().filter_map(meta).collect();
        let more = listed.is_truncated().unwrap_or(false);
        let next = objects.last().filter(|_| more).map(|last| last.key.clone());
        Ok(Page { objects, next })
    }

    async fn put(&self, key: &str, bytes: Bytes) -> Result<(), ObjectError> {
        let put = self.client.put_object().bucket(&self.bucket).key(self.full(key)?).body(bytes.into());
        put.send().await.map(drop).map_err(|error| self.error("writing", key, error))
    }

    async fn put_if_absent(&self, key: &str, bytes: Bytes) -> Result<Put, ObjectError> {
        let put = self.client.put_object().bucket(&self.bucket).key(self.full(key)?).body(bytes.into());
        match put.if_none_match("*").send().await {
            Ok(_) => Ok(Put::Created),
            Err(error) if error.raw_response().is_some_and(|response| response.status().as_u16() == 412) => {
                Ok(Put::Exists)
            }
            Err(error) => Err(self.error("writing", key, error)),
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
        match self.client.delete_object().bucket(&self.bucket).key(self.full(key)?).send().await {
            Ok(_) => Ok(()),
            Err(error) => match self.error("removing", key, error) {
                error if error.kind == ObjectErrorKind::NotFound => Ok(()),
                error => Err(error),
            },
        }
    }
}

#[async_trait]
impl RemoteObjects for S3Objects {
    async fn open_in(&self, bucket: &str, key: &str) -> Result<ObjectReader, ObjectError> {
        let there = Self { bucket: bucket.to_owned(), prefix: String::new(), ..self.clone() };
        let got = there.client.get_object().bucket(bucket).key(key).send().await;
        let got = got.map_err(|error| there.error("reading", key, error))?;
        let bytes = got.content_length().and_then(|length| u64::try_from(length).ok()).unwrap_or_default();
        Ok(ObjectReader { bytes, body: Box::pin(got.body.into_async_read()) })
    }
}
