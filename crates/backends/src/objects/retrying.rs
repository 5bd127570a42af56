//! Tries transient faults of any store again, a bounded number of times with a growing wait. The one place that does.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use backon::{ExponentialBuilder, Retryable};
use bytes::Bytes;

use super::{ObjectError, ObjectMeta, ObjectReader, Objects, Page, Put};

/// A store whose transient faults are tried again in place.
///
/// A conditional put that was tried again may say [`Put::Exists`] about its own first try: whoever cares (the commit)
/// reads what is there and compares.
pub struct Retrying<O> {
    inner: O,
    backoff: ExponentialBuilder,
}

impl<O: Objects> Retrying<O> {
    /// Up to 4 further tries, 50 ms to 2 s apart, with jitter.
    pub fn new(inner: O) -> Self {
        let backoff = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(50))
            .with_max_delay(Duration::from_secs(2))
            .with_max_times(4)
            .with_jitter();
        Self { inner, backoff }
    }

    /// For two minutes, 50 ms to 5 s apart, with jitter: a store that is away for half a minute costs a fleet nothing.
    pub fn patient(inner: O) -> Self {
        let backoff = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(50))
            .with_max_delay(Duration::from_secs(5))
            .with_total_delay(Some(Duration::from_secs(120)))
            .without_max_times()
            .with_jitter();
        Self { inner, backoff }
    }
}

macro_rules! retried {
    ($self:ident, $call:expr) => {
        (|| $call)
            .retry($self.backoff)
            .when(ObjectError::is_retryable)
            .notify(|error, wait| tracing::warn!(%error, ?wait, "the object store failed; trying again"))
            .await
    };
}

#[async_trait]
impl<O: Objects> Objects for Retrying<O> {
    async fn get(&self, key: &str) -> Result<Bytes, ObjectError> {
        retried!(self, self.inner.get(key))
    }

    /// Opening is tried again; a reader that breaks off is its user's to open again.
    async fn open(&self, key: &str) -> Result<ObjectReader, ObjectError> {
        retried!(self, self.inner.open(key))
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, ObjectError> {
        retried!(self, self.inner.head(key))
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, ObjectError> {
        retried!(self, self.inner.list(prefix, after, limit))
    }

    async fn put(&self, key: &str, bytes: Bytes) -> Result<(), ObjectError> {
        retried!(self, self.inner.put(key, bytes.clone()))
    }

    async fn put_if_absent(&self, key: &str, bytes: Bytes) -> Result<Put, ObjectError> {
        retried!(self, self.inner.put_if_absent(key, bytes.clone()))
    }

    async fn put_file(&self, key: &str, file: &Path) -> Result<(), ObjectError> {
        retried!(self, self.inner.put_file(key, file))
    }

    async fn delete(&self, key: &str) -> Result<(), ObjectError> {
        retried!(self, self.inner.delete(key))
    }
}
