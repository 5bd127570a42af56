//! Fetches references: reads, decodes and rotates them off the device's thread, and tries transient faults again. What
//! comes from elsewhere comes through [`Remote`], within limits and from allowed addresses only.

mod address;
mod cache;
mod error;
mod http;
mod remote;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use bytes::Bytes;
use diorama_backends::blocking;
use diorama_backends::objects::{ObjectError, ObjectErrorKind};
use diorama_core::generator::ReferencePicture;
use diorama_core::id::Sha256Hex;
use diorama_core::key::ObjectKey;
use diorama_core::outcome::{ErrorCode, TaskError};
use diorama_core::task::Reference;
use diorama_picture::{PictureLimits, Region, read_reference, reference_from_bytes};
use diorama_protocol::RunStore;

pub use self::cache::CacheConfig;
pub use self::error::RemoteError;
use self::remote::Fetched;
pub use self::remote::{Remote, RemoteConfig};
use crate::metrics::Metrics;

/// Where a run's references come from.
#[derive(Clone)]
pub(crate) struct References {
    /// Relative files start here.
    pub(crate) root: PathBuf,
    pub(crate) store: RunStore,
    pub(crate) limits: PictureLimits,
    /// What fetches references that lie elsewhere.
    pub(crate) remote: Option<Arc<Remote>>,
    /// Counts where they came from.
    pub(crate) metrics: Option<Metrics>,
}

/// Where a reference's bytes came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A file below the run's reference root.
    File,
    /// The worker's cache.
    Cache,
    /// An upload in the fleet's own store.
    Blob,
    /// A user's bucket.
    S3,
    /// A web server.
    Web,
}

impl Origin {
    pub(crate) const ALL: [Self; 5] = [Self::File, Self::Cache, Self::Blob, Self::S3, Self::Web];

    /// Its label in the metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Cache => "cache",
            Self::Blob => "blob",
            Self::S3 => "s3",
            Self::Web => "web",
        }
    }
}

impl References {
    /// Fetches and decodes one. The outer error is the infrastructure's and costs the task nothing; the inner one is
    /// the task's.
    pub(crate) async fn load(&self, reference: &Reference) -> Result<Result<ReferencePicture, TaskError>, ObjectError> {
        match reference {
            Reference::File(path) => self.load_file(self.root.join(path)).await,
            Reference::Blob(sha256) => self.load_blob(sha256).await,
            Reference::S3(url) | Reference::Https(url) => self.load_remote(reference, url).await,
        }
    }

    /// The mask of `reference` that the manifest calls its region, fetched as references are.
    pub(crate) async fn load_region(
        &self,
        region: &Reference,
        reference: &Arc<ReferencePicture>,
    ) -> Result<Result<Region, TaskError>, ObjectError> {
        let unusable = |error: TaskError| TaskError {
            code: ErrorCode::RegionUnusable,
            message: format!("the region cannot be used: {}", error.message),
            retryable: error.retryable,
        };
        let mask = match self.load(region).await? {
            Ok(mask) => mask,
            Err(error) => return Ok(Err(unusable(error))),
        };
        let reference = reference.clone();
        Ok(off_thread(move || Region::new(&mask, &reference)).await)
    }

    async fn load_blob(&self, sha256: &Sha256Hex) -> Result<Result<ReferencePicture, TaskError>, ObjectError> {
        let key = ObjectKey::Blob(sha256.clone());
        let name = self.store.path(&key);
        let cached = match &self.remote {
            Some(remote) => remote.cached(sha256).await,
            None => None,
        };
        let bytes = match cached {
            Some(bytes) => {
                self.count(Origin::Cache);
                bytes
            }
            None => {
                let Some(bytes) = self.store.read(&key).await? else {
                    let message = format!("the reference {name} is not in the object store");
                    return Ok(Err(TaskError::permanent(ErrorCode::ReferenceUnreadable, message)));
                };
                if let Some(remote) = &self.remote {
                    remote.keep_blob(sha256, &bytes).await;
                }
                self.count(Origin::Blob);
                bytes
            }
        };
        Ok(self.decode(bytes, name).await)
    }

    async fn load_remote(
        &self,
        reference: &Reference,
        url: &str,
    ) -> Result<Result<ReferencePicture, TaskError>, ObjectError> {
        let name = remote::name(url);
        let Some(remote) = &self.remote else {
            let message = format!("the reference {name} is remote, and this worker fetches none");
            return Ok(Err(TaskError::permanent(ErrorCode::ReferenceUnreadable, message)));
        };
        let Fetched { content, origin } = match remote.fetch(url).await {
            Ok(fetched) => fetched,
            Err(error) => {
                if error.retryable && matches!(reference, Reference::S3(_)) {
                    // Not this picture's fault where the store that holds everything else is away too.
                    self.store.exists(&ObjectKey::Spec).await?;
                }
                return Ok(Err(error));
            }
        };
        self.count(origin);
        let decoded = self.decode(content, name).await;
        if decoded.is_err() {
            remote.forget(url).await;
        }
        Ok(decoded)
    }

    fn count(&self, origin: Origin) {
        if let Some(metrics) = &self.metrics {
            metrics.reference(origin);
        }
    }

    async fn decode(&self, bytes: Bytes, name: String) -> Result<ReferencePicture, TaskError> {
        let limits = self.limits;
        off_thread(move || reference_from_bytes(&bytes, &name, &limits)).await
    }

    async fn load_file(&self, path: PathBuf) -> Result<Result<ReferencePicture, TaskError>, ObjectError> {
        let backoff = ExponentialBuilder::default().with_min_delay(Duration::from_millis(100)).with_max_times(3);
        let read = || {
            let (path, limits) = (path.clone(), self.limits);
            off_thread(move || read_reference(&path, &limits))
        };
        let loaded = read.retry(backoff).when(|error: &TaskError| error.retryable).await;
        if loaded.is_ok() {
            self.count(Origin::File);
        }
        match loaded {
            Err(error) if error.code == ErrorCode::ReferenceUnreadable && !is_folder(&self.root).await => {
                // Not this picture's fault: the disk that holds all of them is away.
                let gone = io::Error::new(io::ErrorKind::NotFound, "the folder of the references is not there");
                let what = self.root.display().to_string();
                Err(ObjectError { kind: ObjectErrorKind::Io, ..ObjectError::io("opening", what, &gone) })
            }
            loaded => Ok(loaded),
        }
    }
}

async fn is_folder(path: &Path) -> bool {
    let path = path.to_owned();
    blocking::run(move || path.is_dir()).await.unwrap_or(false)
}

/// Decodes off the threads that must not wait; a decoder that panics fails its task only.
async fn off_thread<T: Send + 'static>(
    decode: impl FnOnce() -> Result<T, TaskError> + Send + 'static,
) -> Result<T, TaskError> {
    blocking::run(decode).await.unwrap_or_else(|error| {
        let message = format!("decoding the reference ended badly: {error}");
        Err(TaskError::permanent(ErrorCode::ReferenceUndecodable, message))
    })
}
