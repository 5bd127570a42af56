//! A manifest that is an object already: a key of the fleet's own store, or `s3://bucket/key` wherever the store's
//! credentials reach. It is copied to the scratch folder, because it is read twice, and must not change in between.

use diorama_backends::objects::{ObjectError, ObjectErrorKind, ObjectReader};
use diorama_core::address::bucket_and_key;
use tempfile::TempPath;
use tokio::io::AsyncReadExt;

use crate::api::problem::disk;
use crate::api::{Problem, Shared};
use crate::scratch::Scratch;

/// What is read at a time, in bytes.
const PIECE: usize = 1 << 16;

/// Copies the object; its size is limited as an uploaded manifest's is.
pub(super) async fn fetch(api: &Shared, address: &str) -> Result<TempPath, Problem> {
    let limit = api.config.max_manifest_bytes;
    let mut reader = open(api, address).await.map_err(|error| match error.kind {
        ObjectErrorKind::Refused | ObjectErrorKind::Permission => {
            Problem::bad_request("object_refused", error.to_string())
        }
        _ => error.into(),
    })?;
    if reader.bytes > limit {
        return Err(Problem::too_large("manifest", limit));
    }
    let mut file = Scratch::new(&api.config.scratch);
    let (mut piece, mut bytes) = (vec![0; PIECE], 0);
    loop {
        let read = reader.body.read(&mut piece).await.map_err(|error| ObjectError::broken_off(address, &error))?;
        if read == 0 {
            break;
        }
        bytes += read as u64;
        if bytes > limit {
            return Err(Problem::too_large("manifest", limit));
        }
        file.write(&piece[..read]).await.map_err(disk)?;
    }
    file.into_file().await.map_err(disk)
}

async fn open(api: &Shared, address: &str) -> Result<ObjectReader, ObjectError> {
    if !address.contains("://") {
        return api.backends().objects.open(address).await;
    }
    let refused =
        |problem: &str| ObjectError::new(ObjectErrorKind::Refused, "reading", format!("{address:?}"), problem);
    let (bucket, key) = bucket_and_key(address)
        .ok_or_else(|| refused("manifest_object is a key of the fleet's store or of the form s3://bucket/key"))?;
    let remote = api.config.remote.as_ref().ok_or_else(|| refused("this coordinator's store knows no buckets"))?;
    remote.open_in(bucket, key).await
}
