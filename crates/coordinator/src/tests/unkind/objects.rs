//! An object store in memory, so that time stands still while it is asked, and one that stops, lies or is slow where a
//! test says so.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use diorama_backends::objects::{ObjectError, ObjectErrorKind, ObjectMeta, ObjectReader, Objects, Page, Put};
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;

/// Objects in memory.
#[derive(Default)]
pub(crate) struct MemoryObjects {
    all: Mutex<BTreeMap<String, Bytes>>,
    written: Mutex<BTreeMap<String, Timestamp>>,
    /// Uploads that began long ago and were never finished.
    pub(crate) unfinished: AtomicU64,
}

impl MemoryObjects {
    /// All of them, to be looked at or damaged.
    pub(crate) fn all(&self) -> MutexGuard<'_, BTreeMap<String, Bytes>> {
        self.all.lock().unwrap()
    }

    /// Everything that is there was written that many hours ago.
    pub(crate) fn grow_old(&self, hours: i64) {
        let at = Timestamp::now() - SignedDuration::from_hours(hours);
        *self.written.lock().unwrap() = self.all().keys().map(|key| (key.clone(), at)).collect();
    }

    fn meta(&self, key: &str, bytes: &Bytes) -> ObjectMeta {
        let modified = self.written.lock().unwrap().get(key).copied();
        ObjectMeta { key: key.to_owned(), bytes: bytes.len() as u64, modified }
    }

    fn write(&self, all: &mut BTreeMap<String, Bytes>, key: &str, bytes: Bytes) {
        self.written.lock().unwrap().insert(key.to_owned(), Timestamp::now());
        all.insert(key.to_owned(), bytes);
    }
}

#[async_trait]
impl Objects for MemoryObjects {
    async fn get(&self, key: &str) -> Result<Bytes, ObjectError> {
        self.all().get(key).cloned().ok_or_else(|| {
            ObjectError::new(ObjectErrorKind::NotFound, "reading", key.to_owned(), "there is none".to_owned())
        })
    }

    async fn open(&self, key: &str) -> Result<ObjectReader, ObjectError> {
        let bytes = self.get(key).await?;
        Ok(ObjectReader { bytes: bytes.len() as u64, body: Box::pin(std::io::Cursor::new(bytes)) })
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, ObjectError> {
        Ok(self.all().get(key).map(|bytes| self.meta(key, bytes)))
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, ObjectError> {
        let all = self.all();
        let from = after.filter(|after| *after >= prefix).map_or(Bound::Included(prefix), Bound::Excluded);
        let keys = all.range::<str, _>((from, Bound::Unbounded)).take_while(|(key, _)| key.starts_with(prefix));
        let mut objects: Vec<_> = keys.take(limit + 1).map(|(key, bytes)| self.meta(key, bytes)).collect();
        let more = objects.len() > limit;
        objects.truncate(limit);
        let next = objects.last().filter(|_| more).map(|last| last.key.clone());
        Ok(Page { objects, next })
    }

    async fn put(&self, key: &str, bytes: Bytes) -> Result<(), ObjectError> {
        self.write(&mut self.all(), key, bytes);
        Ok(())
    }

    async fn put_if_absent(&self, key: &str, bytes: Bytes) -> Result<Put, ObjectError> {
        let mut all = self.all();
        if all.contains_key(key) {
            return Ok(Put::Exists);
        }
        self.write(&mut all, key, bytes);
        Ok(Put::Created)
    }

    async fn put_file(&self, key: &str, file: &Path) -> Result<(), ObjectError> {
        let bytes = std::fs::read(file).map_err(|error| ObjectError::io("reading", key, &error))?;
        self.put(key, bytes.into()).await
    }

    async fn delete(&self, key: &str) -> Result<(), ObjectError> {
        self.all().remove(key);
        Ok(())
    }

    async fn abort_stale_uploads(&self, _prefix: &str, _older_than: Duration) -> Result<u64, ObjectError> {
        Ok(self.unfinished.swap(0, Ordering::SeqCst))
    }
}

/// What a test does before an operation: it is told its name, as [`diorama_backends::objects::faulty::Rule`] has them, and
/// its key.
pub(crate) type Hook = Box<dyn Fn(&'static str, &str) -> BoxFuture<'static, ()> + Send + Sync>;

/// A store before whose operations a test does something.
pub(crate) struct Hooked {
    inner: Arc<dyn Objects>,
    before: Hook,
    /// Keys of which a conditional put is said to find an object, also where it made that object: its answer was lost,
    /// and something in between tried again.
    denied: &'static str,
}

impl Hooked {
    pub(crate) fn before(inner: Arc<dyn Objects>, before: Hook) -> Self {
        Self { inner, before, denied: "nothing at all" }
    }

    pub(crate) fn denying(inner: Arc<dyn Objects>, denied: &'static str) -> Self {
        Self { denied, ..Self::before(inner, Box::new(|_, _| Box::pin(std::future::ready(())))) }
    }

    /// Whoever uses it stands still before its operation with this number, from 0, until the gate opens.
    pub(crate) fn frozen_at(inner: Arc<dyn Objects>, number: usize) -> (Self, Gate) {
        let (gate, passed) = (Gate::default(), AtomicUsize::new(0));
        let closed = gate.clone();
        let before: Hook = Box::new(move |_, _| {
            let stops = passed.fetch_add(1, Ordering::SeqCst) == number;
            let gate = closed.clone();
            Box::pin(async move {
                if stops {
                    gate.pass().await;
                }
            })
        });
        (Self::before(inner, before), gate)
    }
}

/// Where somebody stands still until a test lets him go on.
#[derive(Clone, Default)]
pub(crate) struct Gate {
    reached: watch::Sender<bool>,
    open: watch::Sender<bool>,
}

impl Gate {
    pub(crate) async fn pass(&self) {
        self.reached.send_replace(true);
        self.open.subscribe().wait_for(|open| *open).await.unwrap();
    }

    pub(crate) async fn reached(&self) {
        self.reached.subscribe().wait_for(|reached| *reached).await.unwrap();
    }

    pub(crate) fn open(&self) {
        self.open.send_replace(true);
    }
}

macro_rules! hooked {
    ($self:ident, $operation:literal, $key:expr, $call:expr) => {{
        ($self.before)($operation, $key).await;
        $call.await
    }};
}

#[async_trait]
impl Objects for Hooked {
    async fn get(&self, key: &str) -> Result<Bytes, ObjectError> {
        hooked!(self, "get", key, self.inner.get(key))
    }

    async fn open(&self, key: &str) -> Result<ObjectReader, ObjectError> {
        hooked!(self, "open", key, self.inner.open(key))
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, ObjectError> {
        hooked!(self, "head", key, self.inner.head(key))
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, ObjectError> {
        hooked!(self, "list", prefix, self.inner.list(prefix, after, limit))
    }

    async fn put(&self, key: &str, bytes: Bytes) -> Result<(), ObjectError> {
        hooked!(self, "put", key, self.inner.put(key, bytes))
    }

    async fn put_if_absent(&self, key: &str, bytes: Bytes) -> Result<Put, ObjectError> {
        let put = hooked!(self, "put_if_absent", key, self.inner.put_if_absent(key, bytes))?;
        Ok(if key.contains(self.denied) { Put::Exists } else { put })
    }

    async fn put_file(&self, key: &str, file: &Path) -> Result<(), ObjectError> {
        hooked!(self, "put_file", key, self.inner.put_file(key, file))
    }

    async fn delete(&self, key: &str) -> Result<(), ObjectError> {
        hooked!(self, "delete", key, self.inner.delete(key))
    }

    async fn delete_all(&self, keys: &[String]) -> Result<(), ObjectError> {
        let first = keys.first().map_or("", String::as_str);
        hooked!(self, "delete_all", first, self.inner.delete_all(keys))
    }
}
