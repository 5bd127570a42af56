//! Uploads in parts that nobody finishes: their parts cost space and are in no listing of objects.

use std::time::Duration;

use aws_sdk_s3::types::MultipartUpload;
use jiff::Timestamp;

use super::{S3Objects, timestamp};
use crate::objects::retrying::Patience;
use crate::objects::{ObjectError, ObjectErrorKind};

impl S3Objects {
    /// Ends uploads below `prefix` that began longer ago than `older_than`, by the store's clock against ours; how many.
    pub(super) async fn abort_stale(&self, prefix: &str, older_than: Duration) -> Result<u64, ObjectError> {
        let (now, patience) = (Timestamp::now(), Patience::long());
        let is_stale = |upload: &MultipartUpload| {
            let begun = upload.initiated().and_then(timestamp);
            // One of an unknown age may be at work.
            begun.is_some_and(|begun| Duration::try_from(now.duration_since(begun)).is_ok_and(|age| age >= older_than))
        };
        let full = format!("{}{prefix}", self.prefix);
        let mut place: (Option<String>, Option<String>) = (None, None);
        let mut aborted = 0;
        loop {
            let listed = patience.exhaust(|| async {
                let request = self.client.list_multipart_uploads().bucket(&self.bucket).prefix(&full);
                let request = request.set_key_marker(place.0.clone()).set_upload_id_marker(place.1.clone());
                self.answered("listing the uploads of", prefix, request.send().await)
            });
            let listed = listed.await?;
            for upload in listed.uploads().iter().filter(|upload| is_stale(upload)) {
                let (Some(key), Some(id)) = (upload.key(), upload.upload_id()) else { continue };
                aborted += u64::from(self.abort_upload(key, id, patience).await?);
            }
            let next = (listed.next_key_marker, listed.next_upload_id_marker);
            if !listed.is_truncated.unwrap_or(false) || next == place {
                return Ok(aborted);
            }
            place = next;
        }
    }

    /// Ends one upload, by its key in the bucket; whether it was there.
    pub(super) async fn abort_upload(&self, full: &str, id: &str, patience: Patience) -> Result<bool, ObjectError> {
        let key = full.strip_prefix(&self.prefix).unwrap_or(full);
        let aborted = patience.exhaust(|| async {
            let request = self.client.abort_multipart_upload().bucket(&self.bucket).key(full).upload_id(id);
            self.answered("abandoning", key, request.send().await)
        });
        match aborted.await {
            Ok(_) => Ok(true),
            Err(error) if error.kind == ObjectErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}
