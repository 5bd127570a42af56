//! Tries transient faults of any store again, a bounded number of times with a growing wait. The one place that does.

use std::path::Path;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use backon::{ExponentialBuilder, Retryable};
use bytes::Bytes;

use super::{ObjectError, ObjectErrorKind, ObjectMeta, ObjectReader, Objects, Page, Put};

/// How long a transient fault is tried again.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    backoff: ExponentialBuilder,
    longest: Duration,
}

impl Patience {
    /// Up to 4 further tries, 50 ms to 2 s apart, with jitter.
    pub fn brief() -> Self {
        let backoff = backoff(Duration::from_secs(2)).with_max_times(4);
        Self { backoff, longest: Duration::MAX }
    }

    /// For two minutes, 50 ms to 5 s apart, with jitter: a store that is away for half a minute costs a fleet nothing.
    pub fn long() -> Self {
        let backoff = backoff(Duration::from_secs(5)).without_max_times();
        Self { backoff, longest: Duration::from_secs(120) }
    }

    /// Tries until `call` succeeds, fails for good, or was tried for as long as this says: then a transient fault has
    /// become [`ObjectErrorKind::Away`], which nobody below a worker or coordinator tries again.
    pub(crate) async fn exhaust<T, F>(&self, call: impl FnMut() -> F + Send) -> Result<T, ObjectError>
    where
        T: Send,
        F: Future<Output = Result<T, ObjectError>> + Send,
    {
        let started = Instant::now();
        let tried = call
            .retry(self.backoff)
            // The clock, not the sum of the waits: a try may itself take long.
            .when(|error: &ObjectError| error.kind == ObjectErrorKind::Transient && started.elapsed() < self.longest)
            .notify(|error, wait| tracing::warn!(%error, ?wait, "the object store failed; trying again"))
            .await;
        tried.map_err(|error| match error.kind {
            ObjectErrorKind::Transient => ObjectError { kind: ObjectErrorKind::Away, ..error },
            _ => error,
        })
    }
}

fn backoff(longest: Duration) -> ExponentialBuilder {
    ExponentialBuilder::default().with_min_delay(Duration::from_millis(50)).with_max_delay(longest).with_jitter()
}

/// A store whose transient faults are tried again in place.
///
/// A conditional put that was tried again may say [`Put::Exists`] about its own first try: whoever cares (the commit)
/// reads what is there and compares.
pub struct Retrying<O> {
    inner: O,
    patience: Patience,
}

impl<O: Objects> Retrying<O> {
    /// With [`Patience::brief`].
    pub fn new(inner: O) -> Self {
        Self { inner, patience: Patience::brief() }
    }

    /// With [`Patience::long`].
    pub fn patient(inner: O) -> Self {
        Self { inner, patience: Patience::long() }
    }
}

#[async_trait]
impl<O: Objects> Objects for Retrying<O> {
    async fn get(&self, key: &str) -> Result<Bytes, ObjectError> {
        self.patience.exhaust(|| self.inner.get(key)).await
    }

    /// Opening is tried again; a reader that breaks off is its user's to open again.
    async fn open(&self, key: &str) -> Result<ObjectReader, ObjectError> {
        self.patience.exhaust(|| self.inner.open(key)).await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, ObjectError> {
        self.patience.exhaust(|| self.inner.head(key)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, ObjectError> {
        self.patience.exhaust(|| self.inner.list(prefix, after, limit)).await
    }

    async fn put(&self, key: &str, bytes: Bytes) -> Result<(), ObjectError> {
        self.patience.exhaust(|| self.inner.put(key, bytes.clone())).await
    }

    async fn put_if_absent(&self, key: &str, bytes: Bytes) -> Result<Put, ObjectError> {
        self.patience.exhaust(|| self.inner.put_if_absent(key, bytes.clone())).await
    }

    async fn put_file(&self, key: &str, file: &Path) -> Result<(), ObjectError> {
        self.patience.exhaust(|| self.inner.put_file(key, file)).await
    }

    async fn delete(&self, key: &str) -> Result<(), ObjectError> {
        self.patience.exhaust(|| self.inner.delete(key)).await
    }

    async fn delete_all(&self, keys: &[String]) -> Result<(), ObjectError> {
        self.patience.exhaust(|| self.inner.delete_all(keys)).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::objects::embedded::FolderObjects;
    use crate::objects::faulty::{Fault, FaultyObjects};

    /// How a read ends, and after how many tries, where every try fails in this way; with retries around the retries.
    async fn read_failing(kind: ObjectErrorKind) -> (ObjectErrorKind, u32) {
        let folder = tempfile::tempdir().unwrap();
        let tries = Arc::new(AtomicU32::new(0));
        let counted = tries.clone();
        let fail = move |_: &'static str, _: &str| {
            counted.fetch_add(1, Ordering::Relaxed);
            Fault::Fail(kind)
        };
        let store = FaultyObjects::new(FolderObjects::open(folder.path()).unwrap(), Box::new(fail));
        let error = Retrying::new(Retrying::new(store)).get("a").await.unwrap_err();
        (error.kind, tries.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn a_fault_that_stays_is_tried_again_and_by_nobody_above() {
        assert_eq!(read_failing(ObjectErrorKind::Transient).await, (ObjectErrorKind::Away, 5));
    }

    #[tokio::test]
    async fn what_no_waiting_mends_is_tried_once() {
        for kind in [ObjectErrorKind::Refused, ObjectErrorKind::NotFound, ObjectErrorKind::DiskFull] {
            assert_eq!(read_failing(kind).await, (kind, 1));
        }
    }
}
