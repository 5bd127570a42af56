//! The object store, request by request. Of an object that is read piece by piece, the time until its reader opens.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::Metered;
use crate::objects::{ObjectError, ObjectMeta, ObjectReader, Objects, Page, Put};

#[async_trait]
impl<S: Objects> Objects for Metered<S> {
    async fn get(&self, key: &str) -> Result<Bytes, ObjectError> {
        self.time("get", self.inner.get(key)).await
    }

    async fn open(&self, key: &str) -> Result<ObjectReader, ObjectError> {
        self.time("open", self.inner.open(key)).await
    }

    async fn read_range(&self, key: &str, from: u64, length: u64) -> Result<Bytes, ObjectError> {
        self.time("read_range", self.inner.read_range(key, from, length)).await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, ObjectError> {
        self.time("head", self.inner.head(key)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, ObjectError> {
        self.time("list", self.inner.list(prefix, after, limit)).await
    }

    async fn put(&self, key: &str, bytes: Bytes) -> Result<(), ObjectError> {
        self.time("put", self.inner.put(key, bytes)).await
    }

    async fn put_if_absent(&self, key: &str, bytes: Bytes) -> Result<Put, ObjectError> {
        self.time("put_if_absent", self.inner.put_if_absent(key, bytes)).await
    }

    async fn put_file(&self, key: &str, file: &Path) -> Result<(), ObjectError> {
        self.time("put_file", self.inner.put_file(key, file)).await
    }

    async fn delete(&self, key: &str) -> Result<(), ObjectError> {
        self.time("delete", self.inner.delete(key)).await
    }

    async fn delete_all(&self, keys: &[String]) -> Result<(), ObjectError> {
        self.time("delete_all", self.inner.delete_all(keys)).await
    }

    async fn abort_stale_uploads(&self, prefix: &str, older_than: Duration) -> Result<u64, ObjectError> {
        self.time("abort_stale_uploads", self.inner.abort_stale_uploads(prefix, older_than)).await
    }
}
