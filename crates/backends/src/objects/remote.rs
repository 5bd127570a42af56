//! Objects that are not Diorama's own: what users refer to as `s3://bucket/key`, for reading only.

use async_trait::async_trait;

use super::{ObjectError, ObjectReader};

/// The bucket and the key of `s3://bucket/key`; `None` for what is not of that form.
pub fn bucket_and_key(address: &str) -> Option<(&str, &str)> {
    let (bucket, key) = address.strip_prefix("s3://")?.split_once('/')?;
    (!bucket.is_empty() && !key.is_empty()).then_some((bucket, key))
}

/// Buckets that the store's credentials open, the fleet's own among them.
#[async_trait]
pub trait RemoteObjects: Send + Sync {
    /// Opens the object `key` of `bucket` for reading piece by piece. A key of another program may be anything.
    async fn open_in(&self, bucket: &str, key: &str) -> Result<ObjectReader, ObjectError>;
}
