//! A decorator that makes a store fail, or the process that uses it "die", at a chosen operation. For tests.

use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use super::{ObjectError, ObjectErrorKind, ObjectMeta, ObjectReader, Objects, Page, Put};

/// What happens to one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It goes through.
    None,
    /// It fails without having done anything.
    Fail(ObjectErrorKind),
    /// It is done, and its answer is lost: it fails all the same.
    LoseAnswer(ObjectErrorKind),
    /// The process dies before it.
    DieBefore,
    /// The process dies when it is done.
    DieAfter,
}

/// Which operation: its name (`get`, `open`, `head`, `list`, `put`, `put_if_absent`, `put_file`,
/// `delete`, `delete_all`, `abort_stale_uploads`) and its key.
pub type Rule = Box<dyn FnMut(&'static str, &str) -> Fault + Send>;

/// A store with faults. From its death on, no operation ever comes back.
pub struct FaultyObjects<O> {
    inner: O,
    rule: Mutex<Rule>,
    dead: watch::Sender<bool>,
}

impl<O: Objects> FaultyObjects<O> {
    /// `rule` decides about each operation, in the order in which they begin.
    pub fn new(inner: O, rule: Rule) -> Self {
        Self { inner, rule: Mutex::new(rule), dead: watch::Sender::new(false) }
    }

    /// Becomes true when the process has "died": then drop everything that uses this store.
    pub fn death(&self) -> watch::Receiver<bool> {
        self.dead.subscribe()
    }

    /// What befalls the operation once it is done.
    async fn decide(&self, operation: &'static str, key: &str) -> Result<Fault, ObjectError> {
        if *self.dead.borrow() {
            return self.hang().await;
        }
        let fault = (self.rule.lock().expect("no test panics in its rule"))(operation, key);
        match fault {
            Fault::None | Fault::DieAfter | Fault::LoseAnswer(_) => Ok(fault),
            Fault::DieBefore => self.hang().await,
            Fault::Fail(kind) => Err(injected(kind, operation, key)),
        }
    }

    async fn hang<T>(&self) -> T {
        self.dead.send_replace(true);
        std::future::pending().await
    }
}

fn injected(kind: ObjectErrorKind, doing: &'static str, key: &str) -> ObjectError {
    ObjectError::new(kind, doing, key, "injected")
}

macro_rules! faulty {
    ($self:ident, $operation:literal, $key:expr, $call:expr) => {{
        let fault = $self.decide($operation, $key).await?;
        let result = $call.await;
        match fault {
            Fault::DieAfter => $self.hang().await,
            Fault::LoseAnswer(kind) => Err(injected(kind, $operation, $key)),
            _ => result,
        }
    }};
}

#[async_trait]
impl<O: Objects> Objects for FaultyObjects<O> {
    async fn get(&self, key: &str) -> Result<Bytes, ObjectError> {
        faulty!(self, "get", key, self.inner.get(key))
    }

    async fn open(&self, key: &str) -> Result<ObjectReader, ObjectError> {
        faulty!(self, "open", key, self.inner.open(key))
    }

    async fn read_range(&self, key: &str, from: u64, length: u64) -> Result<Bytes, ObjectError> {
        faulty!(self, "read_range", key, self.inner.read_range(key, from, length))
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, ObjectError> {
        faulty!(self, "head", key, self.inner.head(key))
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, ObjectError> {
        faulty!(self, "list", prefix, self.inner.list(prefix, after, limit))
    }

    async fn put(&self, key: &str, bytes: Bytes) -> Result<(), ObjectError> {
        faulty!(self, "put", key, self.inner.put(key, bytes))
    }

    async fn put_if_absent(&self, key: &str, bytes: Bytes) -> Result<Put, ObjectError> {
        faulty!(self, "put_if_absent", key, self.inner.put_if_absent(key, bytes))
    }

    async fn put_file(&self, key: &str, file: &Path) -> Result<(), ObjectError> {
        faulty!(self, "put_file", key, self.inner.put_file(key, file))
    }

    async fn delete(&self, key: &str) -> Result<(), ObjectError> {
        faulty!(self, "delete", key, self.inner.delete(key))
    }

    async fn delete_all(&self, keys: &[String]) -> Result<(), ObjectError> {
        let first = keys.first().map_or("", String::as_str);
        faulty!(self, "delete_all", first, self.inner.delete_all(keys))
    }

    async fn abort_stale_uploads(&self, prefix: &str, older_than: Duration) -> Result<u64, ObjectError> {
        faulty!(self, "abort_stale_uploads", prefix, self.inner.abort_stale_uploads(prefix, older_than))
    }
}
