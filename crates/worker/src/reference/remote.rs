//! References over `https://` and `s3://`: fetched once however many tasks want them at the same time, tried again
//! where that can help, kept in the cache.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use bytes::Bytes;
use diorama_backends::blocking;
use diorama_backends::objects::{ObjectError, RemoteObjects};
use diorama_core::address::{Readable, bucket_and_key};
use diorama_core::id::Sha256Hex;
use diorama_core::outcome::{ErrorCode, TaskError};
use diorama_picture::PictureLimits;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::Origin;
use super::cache::{Cache, CacheConfig, Found};
use super::error::RemoteError;
use super::http::{Answer, Fault, Http, shown};

/// The longest that a server's wish to be left alone is honoured in place; beyond it the task fails, and may be tried
/// again in a later round.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A reference's bytes, and where they came from.
#[derive(Debug, Clone)]
pub(super) struct Fetched {
    pub(super) content: Bytes,
    pub(super) origin: Origin,
}

/// How references are fetched.
#[derive(Debug, Clone)]
pub struct RemoteConfig {
    /// Whether private addresses and plain `http://` are fetched from: for in-house stores.
    pub allow_private: bool,
    /// How long one reference may take, everything included.
    pub timeout: Duration,
    /// How large one may be, in bytes.
    pub max_bytes: u64,
    /// Certificates (PEM) trusted beside the system's.
    pub ca_file: Option<PathBuf>,
    /// Where fetched references are kept; `None`: nowhere.
    pub cache: Option<CacheConfig>,
    /// What the same address may mean something else under, such as the object store's: the cache keeps them apart.
    pub realm: String,
    /// Which objects are read for submitters.
    pub readable: Readable,
}

impl Default for RemoteConfig {
    fn default() -> Self {
        Self {
            allow_private: false,
            timeout: Duration::from_secs(60),
            max_bytes: PictureLimits::default().max_file_bytes,
            ca_file: None,
            cache: None,
            realm: String::new(),
            readable: Readable::default(),
        }
    }
}

/// Fetches references that lie elsewhere. Nothing is opened before it is needed: most runs on one machine read files.
pub struct Remote {
    config: RemoteConfig,
    objects: Option<Arc<dyn RemoteObjects>>,
    http: OnceLock<Http>,
    /// `None` where it cannot be opened.
    cache: OnceLock<Option<Arc<Cache>>>,
    flights: Mutex<HashMap<String, WeakShared<Fetching>>>,
}

/// A fetch that everybody who wants the same reference waits for; it ends when nobody does any more.
type Fetching = BoxFuture<'static, Result<Fetched, TaskError>>;

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Remote").field(&self.config).finish()
    }
}

/// Where a reference lies.
enum Source {
    Http(Url),
    Object { bucket: String, key: String },
}

impl Source {
    fn read(text: &str) -> Result<Self, TaskError> {
        if let Some((bucket, key)) = bucket_and_key(text) {
            return Ok(Self::Object { bucket: bucket.to_owned(), key: key.to_owned() });
        }
        let mut url = Url::parse(text).map_err(|error| {
            // The text is not repeated: what cannot be read cannot be cleared of secrets.
            let message = format!("the reference is not an address that can be fetched: {error}");
            TaskError::permanent(ErrorCode::ReferenceUnreadable, message)
        })?;
        url.set_fragment(None);
        Ok(Self::Http(url))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(url) => f.write_str(&shown(url)),
            Self::Object { bucket, key } => write!(f, "s3://{bucket}/{key}"),
        }
    }
}

/// A reference as it stands in messages, without secrets.
pub(super) fn name(text: &str) -> String {
    Source::read(text).map_or_else(|_| "(unreadable address)".to_owned(), |source| source.to_string())
}

impl Remote {
    /// Fetches as `config` says; `s3://` from `objects`, where there are some.
    pub fn new(config: RemoteConfig, objects: Option<Arc<dyn RemoteObjects>>) -> Self {
        Self { config, objects, http: OnceLock::new(), cache: OnceLock::new(), flights: Mutex::default() }
    }

    /// Makes the HTTP client, so that what is wrong with it shows before a task needs it.
    pub fn prepare(&self) -> Result<(), RemoteError> {
        self.http().map(drop)
    }

    fn http(&self) -> Result<&Http, RemoteError> {
        if let Some(http) = self.http.get() {
            return Ok(http);
        }
        let config = &self.config;
        let http = Http::new(config.allow_private, config.max_bytes, config.ca_file.as_deref())?;
        Ok(self.http.get_or_init(|| http))
    }

    /// What is at `url`. Errors are the task's; what may pass was tried again.
    pub(super) async fn fetch(self: &Arc<Self>, url: &str) -> Result<Fetched, TaskError> {
        self.flight(url).await
    }

    /// The fetch that is under way, or a new one.
    fn flight(self: &Arc<Self>, url: &str) -> Shared<Fetching> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(url).and_then(WeakShared::upgrade) {
            return flight;
        }
        flights.retain(|_, flight| flight.upgrade().is_some());
        let (this, text) = (self.clone(), url.to_owned());
        let flight = async move { this.fetch_or_find(&text).await }.boxed().shared();
        if let Some(weak) = flight.downgrade() {
            flights.insert(url.to_owned(), weak);
        }
        flight
    }

    async fn fetch_or_find(self: &Arc<Self>, url: &str) -> Result<Fetched, TaskError> {
        let source = Source::read(url)?;
        if let Source::Object { bucket, key } = &source
            && !self.config.readable.allows(bucket, key)
        {
            // Before anything is asked or looked up: what is there is not this user's to know.
            let message = format!(
                "the reference {source} is not below a bucket and prefix that this worker reads for submitters (s3_readable)"
            );
            return Err(TaskError::permanent(ErrorCode::ReferenceForbidden, message));
        }
        let name = self.name_in_cache(url);
        let found = self.with_cache(move |cache| cache.find(&name)).await.unwrap_or(Found::Nothing);
        let old = match found {
            Found::Fresh(content) => return Ok(Fetched { content, origin: Origin::Cache }),
            Found::Old(content, Some(etag)) => Some((content, etag)),
            Found::Old(_, None) | Found::Nothing => None,
        };
        let (content, etag) = match (self.patiently(&source, old.as_ref().map(|(_, etag)| etag.as_str())).await?, old) {
            (Answer::Body(content, etag), _) => (content, etag),
            (Answer::Unchanged, Some((content, etag))) => (content, Some(etag)),
            (Answer::Unchanged, None) => {
                let message = format!("the reference {source} cannot be read: the server says that it has not changed");
                return Err(TaskError::transient(ErrorCode::ReferenceUnreadable, message));
            }
        };
        let (name, kept) = (self.name_in_cache(url), content.clone());
        self.keep(move |cache| cache.keep(&name, &kept, etag)).await;
        let origin = match source {
            Source::Http(_) => Origin::Web,
            Source::Object { .. } => Origin::S3,
        };
        Ok(Fetched { content, origin })
    }

    /// Tries until it works, cannot work, or the time is over.
    async fn patiently(&self, source: &Source, etag: Option<&str>) -> Result<Answer, TaskError> {
        let deadline = Instant::now() + self.config.timeout;
        let try_once = || async {
            match timeout_at(deadline, self.try_once(source, etag)).await {
                Ok(tried) => tried,
                Err(_) => Err(Fault::transient(format!(
                    "the reference {source} cannot be read: it took longer than {:?} (reference_timeout)",
                    self.config.timeout
                ))),
            }
        };
        let backoff = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(200))
            .with_max_delay(Duration::from_secs(5))
            .with_max_times(5)
            .with_jitter();
        let in_time = |fault: &Fault, usual: Option<Duration>| {
            let wait = usual?.max(fault.retry_after.unwrap_or_default());
            (wait <= LONGEST_PAUSE && Instant::now() + wait < deadline).then_some(wait)
        };
        let tried = try_once
            .retry(backoff)
            .when(|fault: &Fault| fault.error.retryable)
            .notify(|fault, wait| tracing::warn!(error = %fault, ?wait, "trying again"))
            .adjust(in_time);
        tried.await.map_err(|fault| fault.error)
    }

    async fn try_once(&self, source: &Source, etag: Option<&str>) -> Result<Answer, Fault> {
        match source {
            Source::Http(url) => {
                let unusable = |error: RemoteError| {
                    let message = format!("the reference {source} cannot be read: {error}");
                    Fault::permanent(ErrorCode::ReferenceUnreadable, message)
                };
                self.http().map_err(unusable)?.get(url, etag).await
            }
            Source::Object { bucket, key } => self.object(source, bucket, key).await,
        }
    }

    async fn object(&self, source: &Source, bucket: &str, key: &str) -> Result<Answer, Fault> {
        let unreadable = |error: ObjectError| {
            let transient = error.is_retryable();
            // What the store says of it is for whoever runs the worker.
            tracing::warn!(%error, reference = %source, "a reference cannot be read");
            let message = format!("the reference {source} cannot be read: the object store does not provide it");
            if transient {
                Fault::transient(message)
            } else {
                Fault::permanent(ErrorCode::ReferenceUnreadable, message)
            }
        };
        let Some(objects) = &self.objects else {
            let message = format!("the reference {source} cannot be read: this is not a fleet with an object store");
            return Err(Fault::permanent(ErrorCode::ReferenceUnreadable, message));
        };
        let reader = objects.open_in(bucket, key).await.map_err(unreadable)?;
        if reader.bytes > self.config.max_bytes {
            return Err(Fault::too_large(&source.to_string(), self.config.max_bytes));
        }
        let mut content = Vec::new();
        let read = reader.body.take(self.config.max_bytes.saturating_add(1)).read_to_end(&mut content).await;
        read.map_err(|error| {
            Fault::transient(format!("the download of the reference {source} was interrupted: {error}"))
        })?;
        if content.len() as u64 > self.config.max_bytes {
            return Err(Fault::too_large(&source.to_string(), self.config.max_bytes));
        }
        Ok(Answer::Body(content.into(), None))
    }

    /// Forgets what was fetched from `url`, because it is no picture: it may be mended there.
    pub(super) async fn forget(self: &Arc<Self>, url: &str) {
        let name = self.name_in_cache(url);
        self.with_cache(move |cache| cache.forget(&name)).await;
    }

    /// Content that is in the cache, whatever it was fetched as.
    pub(super) async fn cached(self: &Arc<Self>, sha256: &Sha256Hex) -> Option<Bytes> {
        let sha256 = sha256.clone();
        self.with_cache(move |cache| cache.blob(&sha256)).await.flatten()
    }

    /// Keeps content that was fetched from elsewhere.
    pub(super) async fn keep_blob(self: &Arc<Self>, sha256: &Sha256Hex, content: &Bytes) {
        let (sha256, content) = (sha256.clone(), content.clone());
        self.keep(move |cache| cache.keep_blob(&sha256, &content)).await;
    }

    /// One who may fetch less must not find what another one fetched.
    fn name_in_cache(&self, url: &str) -> String {
        format!("{}\n{}\n{url}", self.config.allow_private, self.config.realm)
    }

    async fn keep(self: &Arc<Self>, step: impl FnOnce(&Cache) -> std::io::Result<()> + Send + 'static) {
        if let Some(Err(error)) = self.with_cache(step).await {
            tracing::warn!(%error, "a reference could not be cached; it is fetched again when needed");
        }
    }

    /// Off the threads that must not wait; `None` where there is no cache.
    async fn with_cache<T: Send + 'static>(
        self: &Arc<Self>,
        step: impl FnOnce(&Cache) -> T + Send + 'static,
    ) -> Option<T> {
        self.config.cache.as_ref()?;
        let this = self.clone();
        blocking::run(move || this.cache().map(|cache| step(&cache))).await.ok().flatten()
    }

    fn cache(&self) -> Option<Arc<Cache>> {
        let open = |config: &CacheConfig| match Cache::open(config.clone()) {
            Ok(cache) => Some(Arc::new(cache)),
            Err(error) => {
                let folder = config.folder.display();
                tracing::warn!(%error, %folder, "references are not cached; name another folder in reference_cache");
                None
            }
        };
        self.cache.get_or_init(|| self.config.cache.as_ref().and_then(open)).clone()
    }
}
