//! s3s-fs behind the faults, with what it does in two steps done in one.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;

use bytes::Bytes;
use futures::TryStreamExt;
use s3s::dto::*;
use s3s::{Body, S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};
use s3s_fs::FileSystem;
use tokio::sync::Mutex;

use crate::faults::{FaultFile, stalled};
use crate::listing::list;
use crate::small::{SMALL, SmallObjects};

/// Locks for conditional puts: two keys seldom share one.
const LOCKS: usize = 256;

/// The buckets of a folder.
pub(crate) struct Store {
    inner: FileSystem,
    small: SmallObjects,
    folder: PathBuf,
    conditional: Vec<Mutex<()>>,
    faults: FaultFile,
}

impl Store {
    pub(crate) fn new(folder: PathBuf, faults: FaultFile) -> Self {
        let inner = FileSystem::new(&folder).expect("the folder of the objects is there");
        Self {
            inner,
            small: SmallObjects::new(folder.clone()),
            folder,
            conditional: (0..LOCKS).map(|_| Mutex::new(())).collect(),
            faults,
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

fn failed(error: std::io::Error) -> S3Error {
    s3_error!(error, InternalError)
}

macro_rules! through {
    ($($method:ident($input:ident) -> $output:ident),* $(,)?) => {
        #[async_trait::async_trait]
        impl S3 for Store {
            async fn put_object(&self, mut request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
                let faults = self.faults.pass("put_object").await?;
                self.has_bucket(&request.input.bucket)?;
                if faults.ignore_conditions {
                    request.input.if_none_match = None;
                }
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
                let faults = self.faults.pass("get_object").await?;
                self.is_object(&request.input.bucket, &request.input.key)?;
                let input = &request.input;
                let small = if input.range.is_none() { self.small.get(&input.bucket, &input.key) } else { Ok(None) };
                let mut got = match small.map_err(failed)? {
                    Some((body, modified)) => S3Response::new(GetObjectOutput {
                        content_length: i64::try_from(body.len()).ok(),
                        last_modified: Some(modified.into()),
                        body: Some(Body::from(body).into()),
                        ..GetObjectOutput::default()
                    }),
                    None => self.inner.get_object(request).await?,
                };
                if let Some(bytes) = faults.stall_after {
                    got.output.body = got.output.body.map(|body| stalled(body, bytes));
                }
                Ok(got)
            }

            async fn head_object(&self, request: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
                self.faults.pass("head_object").await?;
                self.is_object(&request.input.bucket, &request.input.key)?;
                self.inner.head_object(request).await
            }

            async fn list_objects_v2(
                &self,
                request: S3Request<ListObjectsV2Input>,
            ) -> S3Result<S3Response<ListObjectsV2Output>> {
                self.faults.pass("list_objects_v2").await?;
                let input = request.input;
                self.has_bucket(&input.bucket)?;
                if input.delimiter.is_some() {
                    return Err(s3_error!(NotImplemented, "listings by folder"));
                }
                let folder = self.folder.join(&input.bucket);
                let prefix = input.prefix.clone().unwrap_or_default();
                let after = input.continuation_token.or(input.start_after).unwrap_or_default();
                let limit = usize::try_from(input.max_keys.unwrap_or(1000)).unwrap_or_default();
                // One more than asked for, to know whether there is more.
                let listed = tokio::task::spawn_blocking(move || list(&folder, &prefix, &after, limit + 1)).await;
                let listed = listed.map_err(|error| s3_error!(error, InternalError))?;
                let mut entries = listed.map_err(|error| s3_error!(error, InternalError))?;
                let more = entries.len() > limit;
                entries.truncate(limit);
                let last = entries.last().filter(|_| more).map(|last| last.key.clone());
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
                    next_continuation_token: last,
                    contents: Some(entries.into_iter().map(object).collect()),
                    ..ListObjectsV2Output::default()
                }))
            }

            $(async fn $method(&self, request: S3Request<$input>) -> S3Result<S3Response<$output>> {
                self.faults.pass(stringify!($method)).await?;
                self.has_bucket(&request.input.bucket)?;
                self.inner.$method(request).await
            })*
        }
    };
}

through! {
    head_bucket(HeadBucketInput) -> HeadBucketOutput,
    delete_object(DeleteObjectInput) -> DeleteObjectOutput,
    delete_objects(DeleteObjectsInput) -> DeleteObjectsOutput,
    create_multipart_upload(CreateMultipartUploadInput) -> CreateMultipartUploadOutput,
    upload_part(UploadPartInput) -> UploadPartOutput,
    complete_multipart_upload(CompleteMultipartUploadInput) -> CompleteMultipartUploadOutput,
    abort_multipart_upload(AbortMultipartUploadInput) -> AbortMultipartUploadOutput,
}
