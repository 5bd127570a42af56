//! A manifest that is an object already: below a place that submitters may name, as `s3://bucket/key` or as a key of the
//! fleet's own store, or an upload, as `blobs/SHA256`. It is copied to the scratch folder, because it is read twice, and
//! must not change in between.
//!
//! The store's key reads more than a submitter may: what is not read for him is not asked for, and why it is not is not
//! told, nor what is there.

use diorama_backends::objects::{ObjectError, ObjectReader};
use diorama_core::address::bucket_and_key;
use diorama_core::key::blob_of;
use diorama_core::text;
use tempfile::TempPath;
use tokio::io::AsyncReadExt;

use crate::api::problem::disk;
use crate::api::{Problem, Shared};
use crate::scratch::Scratch;

/// What is read at a time, in bytes.
const PIECE: usize = 1 << 16;

/// Copies the object, of at most `limit` bytes.
pub(super) async fn fetch(api: &Shared, address: &str, limit: u64) -> Result<TempPath, Problem> {
    let failed = |error: ObjectError| {
        if error.may_pass_later() {
            return Problem::from(error);
        }
        tracing::warn!(%error, "a manifest that a submitter names was not read");
        unreadable(address)
    };
    let mut reader =
        open(api, address).await.map_or_else(|| Err(unreadable(address)), |opened| opened.map_err(failed))?;
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

/// Opens what may be read; `None` where nothing is asked for.
async fn open(api: &Shared, address: &str) -> Option<Result<ObjectReader, ObjectError>> {
    let readable = &api.config.readable;
    if !address.contains("://") {
        let may = blob_of(address).is_some() || readable.allows_own(address);
        return if may { Some(api.backends().objects.open(address).await) } else { None };
    }
    let (bucket, key) = bucket_and_key(address).filter(|(bucket, key)| readable.allows(bucket, key))?;
    Some(api.config.remote.as_ref()?.open_in(bucket, key).await)
}

fn unreadable(address: &str) -> Problem {
    let message = format!(
        "manifest_object {} is not read: it is not below a bucket and prefix that this coordinator reads for submitters \
         (s3_readable), or it is not there; ask whoever runs the coordinator, or send the manifest itself",
        text::quoted(address)
    );
    Problem::bad_request("object_refused", message)
}
