//! Tries transient faults of any store again, a bounded number of times with a growing wait. The one place that does.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use backon::{ExponentialBuilder, Retryable};
use bytes::Bytes;
use tokio::time::Instant;

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
/// A transient fault may be a lost answer: the write took place. So a conditional put that finds an object after such a
/// fault looks at it, and says [`Put::Created`] where it has exactly the bytes that were given.
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

    /// Whether the object has these bytes; one that is gone meanwhile has not.
    async fn holds(&self, key: &str, bytes: &Bytes) -> Result<bool, ObjectError> {
        match self.get(key).await {
            Ok(there) => Ok(there == bytes),
            Err(error) if error.kind == ObjectErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
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

    async fn read_range(&self, key: &str, from: u64, length: u64) -> Result<Bytes, ObjectError> {
        self.patience.exhaust(|| self.inner.read_range(key, from, length)).await
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
        let unclear = AtomicBool::new(false);
        let put = self.patience.exhaust(|| async {
            let put = self.inner.put_if_absent(key, bytes.clone()).await;
            if put.as_ref().is_err_and(|error| error.kind == ObjectErrorKind::Transient) {
                unclear.store(true, Ordering::Relaxed);
            }
            put
        });
        match put.await? {
            Put::Exists if unclear.load(Ordering::Relaxed) && self.holds(key, &bytes).await? => Ok(Put::Created),
            put => Ok(put),
        }
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

    async fn abort_stale_uploads(&self, prefix: &str, older_than: Duration) -> Result<u64, ObjectError> {
        self.patience.exhaust(|| self.inner.abort_stale_uploads(prefix, older_than)).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;

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

    /// What a conditional put of "mine" says where the answer of its first try is lost, and the object was `before`.
    async fn put_with_a_lost_answer(before: Option<&'static [u8]>) -> (Put, Bytes) {
        let folder = tempfile::tempdir().unwrap();
        let store = FolderObjects::open(folder.path()).unwrap();
        if let Some(before) = before {
            store.put("a", Bytes::from_static(before)).await.unwrap();
        }
        let mut lost = false;
        let lose_one = move |operation: &'static str, _: &str| match operation {
            "put_if_absent" if !std::mem::replace(&mut lost, true) => Fault::LoseAnswer(ObjectErrorKind::Transient),
            _ => Fault::None,
        };
        let store = Retrying::new(FaultyObjects::new(store, Box::new(lose_one)));
        let put = store.put_if_absent("a", Bytes::from_static(b"mine")).await.unwrap();
        (put, store.get("a").await.unwrap())
    }

    #[tokio::test]
    async fn a_conditional_put_whose_answer_was_lost_knows_its_own_object_and_no_other() {
        assert_eq!(put_with_a_lost_answer(None).await, (Put::Created, "mine".into()));
        assert_eq!(put_with_a_lost_answer(Some(b"another's")).await, (Put::Exists, "another's".into()));
    }

    #[tokio::test]
    async fn a_conditional_put_whose_answers_all_came_was_not_the_first_even_where_the_bytes_are_equal() {
        let folder = tempfile::tempdir().unwrap();
        let store = Retrying::new(FolderObjects::open(folder.path()).unwrap());
        store.put("a", Bytes::from_static(b"equal")).await.unwrap();
        assert_eq!(store.put_if_absent("a", Bytes::from_static(b"equal")).await.unwrap(), Put::Exists);
    }

    #[tokio::test]
    async fn what_no_waiting_mends_is_tried_once() {
        for kind in [ObjectErrorKind::Refused, ObjectErrorKind::NotFound, ObjectErrorKind::DiskFull] {
            assert_eq!(read_failing(kind).await, (kind, 1));
        }
    }
}
