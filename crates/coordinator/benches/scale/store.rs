//! A store in memory that counts requests and takes its time for each, by tokio's clock. What a run of ten million tasks
//! keeps would fill it: commit markers and inputs are rendered when they are read.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use diorama_backends::objects::{ObjectError, ObjectErrorKind, ObjectMeta, ObjectReader, Objects, Page, Put};

use crate::shards::Template;

/// What an object holds.
#[derive(Clone)]
pub(crate) enum Content {
    Bytes(Bytes),
    /// The marker of the shard of round 0 with this index, all of whose tasks have a picture.
    Marker(u32),
    /// The same shard's tasks.
    Input(u32),
}

/// Objects that an S3 store removes in one request.
const DELETED_AT_ONCE: usize = 1000;

#[derive(Default)]
pub(crate) struct Store {
    all: Mutex<BTreeMap<String, Content>>,
    template: Option<Template>,
    delay: Duration,
    requests: AtomicU64,
}

impl Store {
    /// One that answers after `delay`, with the shards of `template`.
    pub(crate) fn new(delay: Duration, template: Option<Template>) -> Self {
        Self { delay, template, ..Self::default() }
    }

    pub(crate) fn all(&self) -> MutexGuard<'_, BTreeMap<String, Content>> {
        self.all.lock().unwrap()
    }

    /// Requests so far.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    async fn request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
    }

    fn render(&self, content: &Content) -> Bytes {
        let template = || self.template.as_ref().expect("a store with shards has their template");
        match content {
            Content::Bytes(bytes) => bytes.clone(),
            Content::Marker(index) => template().marker(*index),
            Content::Input(index) => template().input(*index),
        }
    }
}

/// The length of what is rendered is nothing that anybody asks for.
fn meta(key: &str, content: &Content) -> ObjectMeta {
    let bytes = if let Content::Bytes(bytes) = content { bytes.len() as u64 } else { 1 };
    ObjectMeta { key: key.to_owned(), bytes, modified: None }
}

#[async_trait]
impl Objects for Store {
    async fn get(&self, key: &str) -> Result<Bytes, ObjectError> {
        self.request().await;
        let found = self.all().get(key).cloned();
        let absent =
            || ObjectError::new(ObjectErrorKind::NotFound, "reading", key.to_owned(), "there is none".to_owned());
        found.map(|content| self.render(&content)).ok_or_else(absent)
    }

    async fn open(&self, key: &str) -> Result<ObjectReader, ObjectError> {
        let bytes = self.get(key).await?;
        Ok(ObjectReader { bytes: bytes.len() as u64, body: Box::pin(std::io::Cursor::new(bytes)) })
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, ObjectError> {
        self.request().await;
        Ok(self.all().get(key).map(|content| meta(key, content)))
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, ObjectError> {
        self.request().await;
        let all = self.all();
        let from = after.filter(|after| *after >= prefix).map_or(Bound::Included(prefix), Bound::Excluded);
        let keys = all.range::<str, _>((from, Bound::Unbounded)).take_while(|(key, _)| key.starts_with(prefix));
        let mut objects: Vec<_> = keys.take(limit + 1).map(|(key, content)| meta(key, content)).collect();
        let more = objects.len() > limit;
        objects.truncate(limit);
        let next = objects.last().filter(|_| more).map(|last| last.key.clone());
        Ok(Page { objects, next })
    }

    async fn put(&self, key: &str, bytes: Bytes) -> Result<(), ObjectError> {
        self.request().await;
        self.all().insert(key.to_owned(), Content::Bytes(bytes));
        Ok(())
    }

    async fn put_if_absent(&self, key: &str, bytes: Bytes) -> Result<Put, ObjectError> {
        self.request().await;
        let mut all = self.all();
        if all.contains_key(key) {
            return Ok(Put::Exists);
        }
        all.insert(key.to_owned(), Content::Bytes(bytes));
        Ok(Put::Created)
    }

    /// The file's content is not kept: of a large run it is gigabytes.
    async fn put_file(&self, key: &str, file: &Path) -> Result<(), ObjectError> {
        self.request().await;
        std::fs::metadata(file).map_err(|error| ObjectError::io("reading", key, &error))?;
        self.all().insert(key.to_owned(), Content::Bytes(Bytes::new()));
        Ok(())
    }

    async fn delete(&self, key: &str) -> Result<(), ObjectError> {
        self.request().await;
        self.all().remove(key);
        Ok(())
    }

    async fn delete_all(&self, keys: &[String]) -> Result<(), ObjectError> {
        for some in keys.chunks(DELETED_AT_ONCE) {
            self.request().await;
            let mut all = self.all();
            some.iter().for_each(|key| drop(all.remove(key)));
        }
        Ok(())
    }
}
