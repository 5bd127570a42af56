//! s3s-fs with what it does in two steps done in one, and with uploads that can be listed and are known to be gone.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::TryStreamExt;
use s3s::dto::*;
use s3s::{Body, S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};
use s3s_fs::FileSystem;
use tokio::sync::Mutex;

use crate::listing::list;
use crate::small::{SMALL, SmallObjects};
use crate::uploads::Uploads;

/// Locks for conditional puts: two keys seldom share one.
const LOCKS: usize = 256;

/// The buckets of a folder.
pub(crate) struct Store {
    inner: FileSystem,
    small: SmallObjects,
    folder: PathBuf,
    conditional: Vec<Mutex<()>>,
    uploads: Uploads,
    tokens: AtomicU64,
}

impl Store {
    pub(crate) fn new(folder: PathBuf) -> Self {
        let inner = FileSystem::new(&folder).expect("the folder of the objects is there");
        Self {
            inner,
            small: SmallObjects::new(folder.clone()),
            uploads: Uploads::new(folder.clone()),
            tokens: AtomicU64::new(0),
            folder,
            conditional: (0..LOCKS).map(|_| Mutex::new(())).collect(),
        }
    }

    fn has_bucket(&self, bucket: &str) -> S3Result<()> {
        if self.folder.join(bucket).is_dir() { Ok(()) } else { Err(s3_error!(NoSuchBucket)) }
    }

    /// A prefix of keys is a folder here, which s3s-fs would answer with 500.
    fn is_object(&self, bucket: &str, key: &str) -> S3Result<()> {
        self.has_bucket(bucket)?;
        if self.folder.join(bucket).join(key).is_dir() { Err(s3_error!(NoSuchKey)) } else { Ok(()) }
    }

    /// What goes on behind `after`; no client may take it for a key, and no two are the same.
    fn token(&self, after: &str) -> String {
        format!("{}:{after}", self.tokens.fetch_add(1, Ordering::Relaxed))
    }

    fn lock(&self, key: &str) -> &Mutex<()> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        &self.conditional[hasher.finish() as usize % LOCKS]
    }
}

/// The body in one piece, if it is small; else as it comes.
async fn small(body: Option<StreamingBlob>, length: Option<i64>) -> S3Result<Result<Bytes, Option<StreamingBlob>>> {
    if length.is_none_or(|length| length.unsigned_abs() > SMALL) {
        return Ok(Err(body));
    }
    let Some(body) = body else { return Ok(Ok(Bytes::new())) };
    let mut pieces: Vec<Bytes> =
        body.try_collect().await.map_err(|error| S3Error::with_source(S3ErrorCode::IncompleteBody, error))?;
    Ok(Ok(if pieces.len() == 1 { pieces.swap_remove(0) } else { pieces.concat().into() }))
}

/// What the token of a listing says.
fn after_token(token: &str) -> S3Result<&str> {
    let after = token.split_once(':').map(|(_, after)| after);
    after.ok_or_else(|| s3_error!(InvalidArgument, "no such continuation token"))
}

fn failed(error: std::io::Error) -> S3Error {
    s3_error!(error, InternalError)
}

macro_rules! through {
    ($($method:ident($input:ident $(knows $upload:ident)?) -> $output:ident),* $(,)?) => {
        #[async_trait::async_trait]
        impl S3 for Store {
            async fn put_object(&self, mut request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
                self.has_bucket(&request.input.bucket)?;
                // s3s-fs looks and then writes; a store that honours the condition does both in one step.
                let _one_at_a_time = match request.input.if_none_match {
                    Some(_) => Some(self.lock(&request.input.key).lock().await),
                    None => None,
                };
                match small(request.input.body.take(), request.input.content_length).await? {
                    Ok(body) => {
                        let input = &request.input;
                        let if_absent = input.if_none_match.is_some();
                        if !self.small.put(&input.bucket, &input.key, &body, if_absent).map_err(failed)? {
                            return Err(s3_error!(PreconditionFailed, "the object is there"));
                        }
                        Ok(S3Response::new(PutObjectOutput::default()))
                    }
                    Err(large) => {
                        request.input.body = large;
                        self.inner.put_object(request).await
                    }
                }
            }

            async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
                self.is_object(&request.input.bucket, &request.input.key)?;
                let input = &request.input;
                let small = if input.range.is_none() { self.small.get(&input.bucket, &input.key) } else { Ok(None) };
                match small.map_err(failed)? {
                    Some((body, modified)) => Ok(S3Response::new(GetObjectOutput {
                        content_length: i64::try_from(body.len()).ok(),
                        last_modified: Some(modified.into()),
                        body: Some(Body::from(body).into()),
                        ..GetObjectOutput::default()
                    })),
                    None => self.inner.get_object(request).await,
                }
            }

            async fn head_object(&self, request: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
                self.is_object(&request.input.bucket, &request.input.key)?;
                self.inner.head_object(request).await
            }

            async fn list_objects_v2(
                &self,
                request: S3Request<ListObjectsV2Input>,
            ) -> S3Result<S3Response<ListObjectsV2Output>> {
                let input = request.input;
                self.has_bucket(&input.bucket)?;
                if input.delimiter.is_some() {
                    return Err(s3_error!(NotImplemented, "listings by folder"));
                }
                let folder = self.folder.join(&input.bucket);
                let prefix = input.prefix.clone().unwrap_or_default();
                let token = input.continuation_token.as_deref().map(after_token).transpose()?;
                let after = token.map(str::to_owned).or(input.start_after).unwrap_or_default();
                let limit = usize::try_from(input.max_keys.unwrap_or(1000)).unwrap_or_default();
                // One more than asked for, to know whether there is more.
                let from = after.clone();
                let listed = tokio::task::spawn_blocking(move || list(&folder, &prefix, &from, limit + 1)).await;
                let listed = listed.map_err(|error| s3_error!(error, InternalError))?;
                let mut entries = listed.map_err(|error| s3_error!(error, InternalError))?;
                let more = entries.len() > limit;
                entries.truncate(limit);
                // An empty page goes on where it began.
                let last = entries.last().map_or(after, |last| last.key.clone());
                let token = more.then(|| self.token(&last));
                let object = |entry: crate::listing::Entry| Object {
                    key: Some(entry.key),
                    size: i64::try_from(entry.bytes).ok(),
                    last_modified: Some(entry.modified.into()),
                    ..Object::default()
                };
                Ok(S3Response::new(ListObjectsV2Output {
                    name: Some(input.bucket),
                    prefix: input.prefix,
                    max_keys: input.max_keys,
                    key_count: i32::try_from(entries.len()).ok(),
                    is_truncated: Some(more),
                    next_continuation_token: token,
                    contents: Some(entries.into_iter().map(object).collect()),
                    ..ListObjectsV2Output::default()
                }))
            }

            async fn create_multipart_upload(
                &self,
                request: S3Request<CreateMultipartUploadInput>,
            ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
                let (bucket, key) = (request.input.bucket.clone(), request.input.key.clone());
                self.has_bucket(&bucket)?;
                let begun = self.inner.create_multipart_upload(request).await?;
                self.uploads.begin(begun.output.upload_id.as_deref().unwrap_or_default(), &bucket, &key).map_err(failed)?;
                Ok(begun)
            }

            async fn list_multipart_uploads(
                &self,
                request: S3Request<ListMultipartUploadsInput>,
            ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
                let input = request.input;
                self.has_bucket(&input.bucket)?;
                let prefix = input.prefix.unwrap_or_default();
                let limit = usize::try_from(input.max_uploads.unwrap_or(1000)).unwrap_or_default();
                let after = (input.key_marker.unwrap_or_default(), input.upload_id_marker.unwrap_or_default());
                let mut uploads = self.uploads.list(&input.bucket, &prefix, &after).map_err(failed)?;
                let more = uploads.len() > limit;
                uploads.truncate(limit);
                let last = uploads.last().filter(|_| more).cloned();
                Ok(S3Response::new(ListMultipartUploadsOutput {
                    bucket: Some(input.bucket),
                    is_truncated: Some(more),
                    next_key_marker: last.as_ref().and_then(|last| last.key.clone()),
                    next_upload_id_marker: last.and_then(|last| last.upload_id),
                    uploads: Some(uploads),
                    ..ListMultipartUploadsOutput::default()
                }))
            }

            $(async fn $method(&self, request: S3Request<$input>) -> S3Result<S3Response<$output>> {
                self.has_bucket(&request.input.bucket)?;
                $(if !self.uploads.is_known(&request.input.$upload) {
                    return Err(s3_error!(NoSuchUpload));
                })?
                self.inner.$method(request).await
            })*
        }
    };
}

through! {
    head_bucket(HeadBucketInput) -> HeadBucketOutput,
    delete_object(DeleteObjectInput) -> DeleteObjectOutput,
    delete_objects(DeleteObjectsInput) -> DeleteObjectsOutput,
    upload_part(UploadPartInput knows upload_id) -> UploadPartOutput,
    complete_multipart_upload(CompleteMultipartUploadInput knows upload_id) -> CompleteMultipartUploadOutput,
    abort_multipart_upload(AbortMultipartUploadInput knows upload_id) -> AbortMultipartUploadOutput,
}
