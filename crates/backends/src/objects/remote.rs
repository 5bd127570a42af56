//! Objects that are not Diorama's own: what users refer to as `s3://bucket/key`, for reading only.

use async_trait::async_trait;

use super::{ObjectError, ObjectReader};

/// Buckets that the store's credentials open, the fleet's own among them.
#[async_trait]
pub trait RemoteObjects: Send + Sync {
    /// Opens the object `key` of `bucket` for reading piece by piece. A key of another program may be anything.
    async fn open_in(&self, bucket: &str, key: &str) -> Result<ObjectReader, ObjectError>;
}
