//! A large file, in parts: one part in memory at a time, each signed and tried again by itself, so that a fault near the
//! end costs a part and not the file. A file that cannot be sent leaves no parts behind, as long as the store can be told.
//!
//! The end of an upload is not the same when it is asked for twice: the second time, the store knows of no such upload. So
//! each upload has a name of its own, which the object carries, and an end without a good answer is looked for.

use std::path::Path;

use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use diorama_core::id::AttemptId;
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

/// How often an upload that the store forgets is begun anew.
const BEGINNINGS: usize = 3;

/// What the object says about the upload that it came from.
const UPLOAD: &str = "diorama-upload";

/// An upload that has begun.
struct Upload<'a> {
    store: &'a S3Objects,
    key: &'a str,
    full: &'a str,
    id: String,
    /// Ours alone.
    name: String,
}

/// How an upload without an error ended.
#[derive(PartialEq)]
enum Sent {
    /// The object is there.
    Whole,
    /// The store does not know the upload, and the object is not ours.
    Forgotten,
}

impl S3Objects {
    /// Sends the file, which has `bytes` bytes, in parts.
    pub(super) async fn put_parts(&self, key: &str, full: &str, file: &Path, bytes: u64) -> Result<(), ObjectError> {
        for _ in 0..BEGINNINGS {
            let upload = self.begin(key, full).await?;
            let sent = upload.send(file, bytes).await;
            if sent.is_err() {
                upload.abandon().await;
            }
            if sent? == Sent::Whole {
                return Ok(());
            }
            tracing::warn!(object = self.name(key), "the store forgot an unfinished upload; it is restarted");
        }
        let problem = format!("the store forgot the upload before its end, {BEGINNINGS} times");
        Err(ObjectError::new(ObjectErrorKind::Away, "writing", self.name(key), problem))
    }

    async fn begin<'a>(&'a self, key: &'a str, full: &'a str) -> Result<Upload<'a>, ObjectError> {
        let name = AttemptId::generate().to_string();
        let patience = Patience::long();
        let begun = patience.exhaust(|| async {
            let begun = self.client.create_multipart_upload().bucket(&self.bucket).key(full);
            self.answered("writing", key, begun.metadata(UPLOAD, &name).send().await)
        });
        let nameless = || ObjectError::damaged(full, "the store began an upload without naming it");
        let id = begun.await?.upload_id.ok_or_else(nameless)?;
        Ok(Upload { store: self, key, full, id, name })
    }
}

impl Upload<'_> {
    async fn send(&self, path: &Path, bytes: u64) -> Result<Sent, ObjectError> {
        let size = self.store.multipart_bytes.max(bytes.div_ceil(MOST_PARTS));
        let mut file = File::open(path).await.map_err(|error| S3Objects::local(path, &error))?;
        let mut parts = CompletedMultipartUpload::builder();
        let mut left = bytes;
        for number in 1.. {
            let length = size.min(left);
            let mut part = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
            file.read_exact(&mut part).await.map_err(|error| S3Objects::local(path, &error))?;
            let part = Bytes::from(part);
            match Patience::long().exhaust(|| self.send_part(number, part.clone())).await {
                Ok(sent) => parts = parts.parts(sent),
                // Only the store says so here: it does not know the upload.
                Err(error) if error.kind == ObjectErrorKind::NotFound => return Ok(Sent::Forgotten),
                Err(error) => return Err(error),
            }
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
    async fn join(&self, parts: CompletedMultipartUpload, bytes: u64) -> Result<Sent, ObjectError> {
        let store = self.store;
        let time = store.time_for(bytes / (JOINED / super::SLOWEST));
        let request = store.client.complete_multipart_upload().bucket(&store.bucket).key(self.full);
        let request = request.upload_id(&self.id).multipart_upload(parts).customize().config_override(time);
        match store.answered("writing", self.key, request.send().await) {
            Ok(_) => Ok(Sent::Whole),
            Err(error) if matches!(error.kind, ObjectErrorKind::Transient | ObjectErrorKind::NotFound) => {
                if self.is_there(bytes).await? {
                    return Ok(Sent::Whole);
                }
                if error.kind == ObjectErrorKind::NotFound { Ok(Sent::Forgotten) } else { Err(error) }
            }
            Err(error) => Err(error),
        }
    }

    /// Whether the object is the one of this upload.
    async fn is_there(&self, bytes: u64) -> Result<bool, ObjectError> {
        let store = self.store;
        let found = store.client.head_object().bucket(&store.bucket).key(self.full).send().await;
        match store.answered("looking at", self.key, found) {
            Ok(found) => {
                let name = found.metadata().and_then(|metadata| metadata.get(UPLOAD));
                Ok(name == Some(&self.name) && super::length(found.content_length()) == bytes)
            }
            Err(error) if error.kind == ObjectErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes the parts. Where even that fails, they stay until [`Objects::abort_stale_uploads`](crate::objects::Objects)
    /// or a lifecycle rule of the bucket removes them.
    async fn abandon(&self) {
        if let Err(error) = self.store.abort_upload(self.full, &self.id, Patience::brief()).await {
            tracing::warn!(
                %error,
                "the parts of an unfinished upload are left behind; a lifecycle rule on the bucket removes them \
                 (docs/operations.md)"
            );
        }
    }
}
