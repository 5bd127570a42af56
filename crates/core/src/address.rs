//! Addresses that users write for what lies in an object store.

/// The bucket and the key of `s3://bucket/key`; `None` for what is not of that form.
pub fn bucket_and_key(address: &str) -> Option<(&str, &str)> {
    let (bucket, key) = address.strip_prefix("s3://")?.split_once('/')?;
    (!bucket.is_empty() && !key.is_empty()).then_some((bucket, key))
}
