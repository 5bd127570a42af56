//! The store as its clients see it: every request passes the faults first, and may be held, done late, or done and its
//! answer lost. What is done is done by the honest store behind it.

use std::sync::Arc;
use std::time::Duration;

use diorama_tests::services::s3::{Faults, Lie};
use futures::TryStreamExt;
use s3s::dto::*;
use s3s::{Body, S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result};

use crate::faults::{FaultFile, Passed, answer, stalled};
use crate::store::Store;

/// A store that may lie.
pub(crate) struct Liar {
    store: Arc<Store>,
    faults: Arc<FaultFile>,
}

impl Liar {
    pub(crate) fn new(store: Store, faults: FaultFile) -> Self {
        Self { store: Arc::new(store), faults: Arc::new(faults) }
    }
}

/// What the faults need to know of a request, and do to it.
trait Input {
    /// Its key, its prefix, or its keys, one a line.
    fn key(&self) -> String;

    /// Its body, which does not come any more once it is answered.
    fn body(&mut self) -> Option<&mut Option<StreamingBlob>> {
        None
    }

    /// Changes what is asked for.
    fn bend(&mut self, _faults: &Faults, _lie: Option<&Lie>) {}
}

impl Input for PutObjectInput {
    fn key(&self) -> String {
        self.key.clone()
    }

    fn body(&mut self) -> Option<&mut Option<StreamingBlob>> {
        Some(&mut self.body)
    }

    fn bend(&mut self, faults: &Faults, _lie: Option<&Lie>) {
        if faults.ignore_conditions {
            self.if_none_match = None;
        }
    }
}

impl Input for UploadPartInput {
    fn key(&self) -> String {
        self.key.clone()
    }

    fn body(&mut self) -> Option<&mut Option<StreamingBlob>> {
        Some(&mut self.body)
    }
}

impl Input for ListObjectsV2Input {
    fn key(&self) -> String {
        self.prefix.clone().unwrap_or_default()
    }

    fn bend(&mut self, _faults: &Faults, lie: Option<&Lie>) {
        if let Some(Lie::Page { most }) = lie {
            self.max_keys = Some(self.max_keys.unwrap_or(1000).min(*most));
        }
    }
}

impl Input for ListMultipartUploadsInput {
    fn key(&self) -> String {
        self.prefix.clone().unwrap_or_default()
    }
}

impl Input for DeleteObjectsInput {
    fn key(&self) -> String {
        self.delete.objects.iter().map(|object| object.key.as_str()).collect::<Vec<_>>().join("\n")
    }
}

impl Input for HeadBucketInput {
    fn key(&self) -> String {
        String::new()
    }
}

macro_rules! keyed {
    ($($input:ident),*) => { $(impl Input for $input {
        fn key(&self) -> String {
            self.key.clone()
        }
    })* };
}

keyed!(
    GetObjectInput,
    HeadObjectInput,
    DeleteObjectInput,
    CreateMultipartUploadInput,
    CompleteMultipartUploadInput,
    AbortMultipartUploadInput
);

/// Takes the whole body in before the request is answered.
async fn take_in(input: &mut impl Input) -> S3Result<()> {
    let Some(body) = input.body() else { return Ok(()) };
    let Some(coming) = body.take() else { return Ok(()) };
    let pieces: Vec<bytes::Bytes> =
        coming.try_collect().await.map_err(|error| S3Error::with_source(S3ErrorCode::IncompleteBody, error))?;
    *body = Some(Body::from(bytes::Bytes::from(pieces.concat())).into());
    Ok(())
}

macro_rules! lying {
    ($($method:ident($input:ident) -> $output:ident),* $(,)?) => {
        #[async_trait::async_trait]
        impl S3 for Liar {
            async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
                let passed = self.faults.pass("get_object", &request.input.key()).await?;
                let mut got = self.store.get_object(request).await?;
                if let Some(bytes) = passed.faults.stall_after {
                    got.output.body = got.output.body.map(|body| stalled(body, bytes));
                }
                Ok(got)
            }

            $(async fn $method(&self, mut request: S3Request<$input>) -> S3Result<S3Response<$output>> {
                let passed = self.faults.pass(stringify!($method), &request.input.key()).await?;
                let Passed { faults, rule } = passed;
                let lie = rule.as_ref().map(|rule| rule.lie.clone());
                request.input.bend(&faults, lie.as_ref());
                match lie {
                    Some(Lie::LoseAnswer { code }) => {
                        self.store.$method(request).await?;
                        Err(answer(&code))
                    }
                    Some(Lie::Late { code, after_ms }) => {
                        take_in(&mut request.input).await?;
                        let (store, faults) = (self.store.clone(), self.faults.clone());
                        // It ends with this process, as a late write of a store does.
                        tokio::spawn(async move {
                            match after_ms {
                                Some(after) => tokio::time::sleep(Duration::from_millis(after)).await,
                                None => faults.until_over(rule.as_ref()).await,
                            }
                            // Whoever asked is gone.
                            let _ = store.$method(request).await;
                        });
                        Err(answer(&code))
                    }
                    Some(Lie::Refuse { .. } | Lie::Hold | Lie::Page { .. }) | None => self.store.$method(request).await,
                }
            })*
        }
    };
}

lying! {
    put_object(PutObjectInput) -> PutObjectOutput,
    head_object(HeadObjectInput) -> HeadObjectOutput,
    list_objects_v2(ListObjectsV2Input) -> ListObjectsV2Output,
    head_bucket(HeadBucketInput) -> HeadBucketOutput,
    delete_object(DeleteObjectInput) -> DeleteObjectOutput,
    delete_objects(DeleteObjectsInput) -> DeleteObjectsOutput,
    create_multipart_upload(CreateMultipartUploadInput) -> CreateMultipartUploadOutput,
    upload_part(UploadPartInput) -> UploadPartOutput,
    complete_multipart_upload(CompleteMultipartUploadInput) -> CompleteMultipartUploadOutput,
    abort_multipart_upload(AbortMultipartUploadInput) -> AbortMultipartUploadOutput,
    list_multipart_uploads(ListMultipartUploadsInput) -> ListMultipartUploadsOutput,
}
