//! The object store: the truth of a run. One small trait over a folder and S3.
//!
//! A key is a relative path of `[A-Za-z0-9._-]` components; every key of Diorama comes out of
//! [`diorama_core::key::ObjectKey`]. An object is either there as a whole or not at all, whatever dies when.

use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncReadExt};

#[cfg(any(test, feature = "testing"))]
#[allow(clippy::unwrap_used, reason = "a suite panics where a guarantee is broken")]
pub mod conformance;
pub mod diagnose;
pub mod embedded;
mod error;
#[cfg(any(test, feature = "testing"))]
pub mod faulty;
mod remote;
pub mod retrying;
pub mod s3;

pub use error::{ObjectError, ObjectErrorKind};
pub use remote::RemoteObjects;

/// Objects that are removed at a time, where each wants its own request.
const DELETIONS: usize = 16;

/// What a listing says about an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    pub key: String,
    pub bytes: u64,
    /// When it was written last, by the store's clock; `None` where the store does not say.
    pub modified: Option<Timestamp>,
}

/// One page of a listing, in the order of the keys' bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub objects: Vec<ObjectMeta>,
    /// What to give as `after` for the next page; `None` at the end.
    pub next: Option<String>,
}

/// An object that is read piece by piece.
pub struct ObjectReader {
    pub bytes: u64,
    pub body: Pin<Box<dyn AsyncRead + Send>>,
}

/// Whether a conditional put was the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// The object was absent and is now what was given.
    Created,
    /// The object was there and is as it was.
    Exists,
}

/// Named bytes that outlive everybody.
#[async_trait]
pub trait Objects: Send + Sync {
    /// The whole object; [`ObjectErrorKind::NotFound`] where there is none.
    async fn get(&self, key: &str) -> Result<Bytes, ObjectError>;

    /// Opens the object for reading piece by piece, so that its size does not matter to our memory;
    /// [`ObjectErrorKind::NotFound`] where there is none. A reader sees one version of the object or fails.
    async fn open(&self, key: &str) -> Result<ObjectReader, ObjectError>;

    /// Bytes `from..from + length` of the object, fewer where it ends before; [`ObjectErrorKind::NotFound`] where there
    /// is none.
    async fn read_range(&self, key: &str, from: u64, length: u64) -> Result<Bytes, ObjectError> {
        range_by_reading(self, key, from, length).await
    }

    /// Whether the object is there, and how long it is.
    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, ObjectError>;

    /// Up to `limit` objects whose keys start with `prefix` and sort behind `after`. There may be fewer, and still a next
    /// page; none at all only at the end.
    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, ObjectError>;

    /// Writes the object, whether it was there or not. After `Ok` it survives a power cut.
    async fn put(&self, key: &str, bytes: Bytes) -> Result<(), ObjectError>;

    /// Writes the object only where there is none: of any number of callers at once, exactly one sees
    /// [`Put::Created`], and the object is that caller's. [`probe_conditional_put`] says whether a store can do that.
    ///
    /// Where an answer was lost, [`retrying::Retrying`] takes an object with exactly our bytes for ours. So bytes that
    /// decide something between callers carry something of the caller's own: an attempt, a nonce.
    async fn put_if_absent(&self, key: &str, bytes: Bytes) -> Result<Put, ObjectError>;

    /// Writes the object from a local file without reading it into memory as a whole. The file is consumed: on
    /// success it may be gone.
    async fn put_file(&self, key: &str, file: &Path) -> Result<(), ObjectError>;

    /// Removes the object; one that is not there is no error.
    async fn delete(&self, key: &str) -> Result<(), ObjectError>;

    /// Removes objects, in few requests where the store can do that. After an error some of them may be gone.
    async fn delete_all(&self, keys: &[String]) -> Result<(), ObjectError> {
        delete_each(self, keys).await
    }

    /// Ends uploads of files below `prefix` that began longer ago than `older_than` and were never finished, because
    /// whoever sent them died; how many. A store whose unfinished writes cost nothing has none.
    async fn abort_stale_uploads(&self, _prefix: &str, _older_than: Duration) -> Result<u64, ObjectError> {
        Ok(0)
    }
}

/// A range of an object, where the store reads from the beginning only.
async fn range_by_reading<O: Objects + ?Sized>(
    objects: &O,
    key: &str,
    from: u64,
    length: u64,
) -> Result<Bytes, ObjectError> {
    let mut body = objects.open(key).await?.body;
    let mut read = Vec::new();
    let skipped = async {
        tokio::io::copy(&mut (&mut body).take(from), &mut tokio::io::sink()).await?;
        body.take(length).read_to_end(&mut read).await
    };
    skipped.await.map_err(|error| ObjectError::io("reading", key.to_owned(), &error))?;
    Ok(read.into())
}

/// Removes objects one by one, several at a time.
async fn delete_each<O: Objects + ?Sized>(objects: &O, keys: &[String]) -> Result<(), ObjectError> {
    let delete = |key: &String| {
        let key = key.clone();
        async move { objects.delete(&key).await }
    };
    stream::iter(keys.iter().map(delete)).buffer_unordered(DELETIONS).try_collect().await
}

/// Refuses a key that could leave the store's root or name something hidden.
pub fn check_key(key: &str) -> Result<(), ObjectError> {
    let component_is_fine = |component: &str| {
        !component.is_empty()
            && !component.starts_with('.')
            && component.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    };
    if key.len() <= 1024 && key.split('/').all(component_is_fine) { Ok(()) } else { Err(ObjectError::invalid_key(key)) }
}

/// What the keys of all objects begin with that a store is tried with.
pub const PROBES: &str = "probe/";

/// Whether the store honours the condition of [`Objects::put_if_absent`]: tries it below [`PROBES`].
pub async fn probe_conditional_put(objects: &dyn Objects) -> Result<bool, ObjectError> {
    let key = format!("{PROBES}{}", diorama_core::id::AttemptId::generate());
    let first = objects.put_if_absent(&key, Bytes::from_static(b"first")).await?;
    let second = objects.put_if_absent(&key, Bytes::from_static(b"second")).await;
    objects.delete(&key).await?;
    Ok(first == Put::Created && second? == Put::Exists)
}

/// Objects that are listed at a time.
const PAGE: usize = 1000;

/// Every object under `prefix`; as [`each_listed`].
pub async fn list_all(objects: &dyn Objects, prefix: &str) -> Result<Vec<ObjectMeta>, ObjectError> {
    let mut all = Vec::new();
    each_listed(objects, prefix, |object| all.push(object)).await?;
    Ok(all)
}

/// Visits every object under `prefix`, with one page of them in memory. Those whose names [`check_key`] refuses are none of
/// ours, and nobody could read or remove them: they are left out. A console makes some, `runs/` where somebody asked for a
/// folder of that name.
pub async fn each_listed(
    objects: &dyn Objects,
    prefix: &str,
    mut visit: impl FnMut(ObjectMeta),
) -> Result<(), ObjectError> {
    let mut after = None;
    loop {
        let page = objects.list(prefix, after.as_deref(), PAGE).await?;
        page.objects.into_iter().filter(|object| check_key(&object.key).is_ok()).for_each(&mut visit);
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(()),
        }
    }
}
