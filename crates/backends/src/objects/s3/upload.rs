//! A large file, in parts: one part in memory at a time, each signed and tried again by itself, so that a fault near the
//! end costs a part and not the file. A file that cannot be sent leaves no parts behind, as long as the store can be told.

use std::path::Path;

use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use tokio::fs::File;
use tokio::io::AsyncReadExt;

use super::S3Objects;
use crate::objects::retrying::Patience;
use crate::objects::{ObjectError, ObjectErrorKind};

/// The smallest part that S3 takes, except as the last one.
pub(super) const SMALLEST_PART: u64 = 5 << 20;

/// The most parts that S3 takes.
const MOST_PARTS: u64 = 10_000;

/// How fast a store puts the parts together at the least, in bytes a second.
const JOINED: u64 = 64 << 20;

/// An upload that has begun.
struct Upload<'a> {
    store: &'a S3Objects,
    key: &'a str,
    full: &'a str,
    id: String,
}

impl S3Objects {
    /// Sends the file, which has `bytes` bytes, in parts.
    pub(super) async fn put_parts(&self, key: &str, full: &str, file: &Path, bytes: u64) -> Result<(), ObjectError> {
        let patience = Patience::long();
        let begun = patience.exhaust(|| async {
            let begun = self.client.create_multipart_upload().bucket(&self.bucket).key(full).send().await;
            self.answered("writing", key, begun)
        });
        let nameless = || ObjectError::damaged(full, "the store began an upload without naming it");
        let id = begun.await?.upload_id.ok_or_else(nameless)?;
        let upload = Upload { store: self, key, full, id };
        let sent = upload.send(file, bytes).await;
        if sent.is_err() {
            upload.abandon().await;
        }
        sent
    }
}

impl Upload<'_> {
    async fn send(&self, path: &Path, bytes: u64) -> Result<(), ObjectError> {
        let size = self.store.multipart_bytes.max(bytes.div_ceil(MOST_PARTS));
        let mut file = File::open(path).await.map_err(|error| S3Objects::local(path, &error))?;
        let mut parts = CompletedMultipartUpload::builder();
        let mut left = bytes;
        for number in 1.. {
            let length = size.min(left);
            let mut part = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
            file.read_exact(&mut part).await.map_err(|error| S3Objects::local(path, &error))?;
            let part = Bytes::from(part);
            parts = parts.parts(Patience::long().exhaust(|| self.send_part(number, part.clone())).await?);
            left -= length;
            if left == 0 {
                break;
            }
        }
        let parts = parts.build();
        Patience::long().exhaust(|| self.join(parts.clone(), bytes)).await
    }

    async fn send_part(&self, number: i32, part: Bytes) -> Result<CompletedPart, ObjectError> {
        let store = self.store;
        let time = store.time_for(part.len() as u64);
        let request = store.client.upload_part().bucket(&store.bucket).key(self.full).upload_id(&self.id);
        let sent = request.part_number(number).body(part.into()).customize().config_override(time).send().await;
        let sent = store.answered("writing", self.key, sent)?;
        Ok(CompletedPart::builder().part_number(number).set_e_tag(sent.e_tag).build())
    }

    /// Has the store put the parts together: only then there is an object.
    async fn join(&self, parts: CompletedMultipartUpload, bytes: u64) -> Result<(), ObjectError> {
        let store = self.store;
        let time = store.time_for(bytes / (JOINED / super::SLOWEST));
        let request = store.client.complete_multipart_upload().bucket(&store.bucket).key(self.full);
        let request = request.upload_id(&self.id).multipart_upload(parts).customize().config_override(time);
        store.answered("writing", self.key, request.send().await).map(drop)
    }

    /// Removes the parts. Where even that fails, they stay until a lifecycle rule of the bucket removes them.
    async fn abandon(&self) {
        let store = self.store;
        let patience = Patience::brief();
        let abandoned = patience.exhaust(|| async {
            let request = store.client.abort_multipart_upload().bucket(&store.bucket).key(self.full);
            store.answered("abandoning", self.key, request.upload_id(&self.id).send().await)
        });
        match abandoned.await {
            Err(error) if error.kind != ObjectErrorKind::NotFound => tracing::warn!(
                %error,
                "the parts of an unfinished upload stay behind; a lifecycle rule of the bucket removes them \
                 (docs/operations.md)"
            ),
            _ => {}
        }
    }
}
