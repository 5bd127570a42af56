//! An S3 server over a folder, for tests and for `make fleet`: s3s-fs, with faults that a file switches.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use diorama_tests::services::s3::Faults;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::dto::*;
use s3s::service::S3ServiceBuilder;
use s3s::{S3, S3Request, S3Response, S3Result};
use s3s_fs::FileSystem;
use tokio::net::TcpListener;
use tokio::sync::Mutex;

/// The file system, behind the faults.
struct Faulty {
    inner: FileSystem,
    folder: PathBuf,
    conditional: Mutex<()>,
    faults: Arc<FaultFile>,
}

impl Faulty {
    /// A prefix of keys is a folder here, which s3s-fs would answer with 500.
    fn is_object(&self, bucket: &str, key: &str) -> S3Result<()> {
        let is_folder = self.folder.join(bucket).join(key).is_dir();
        if is_folder { Err(s3s::s3_error!(NoSuchKey)) } else { Ok(()) }
    }
}

struct FaultFile {
    path: PathBuf,
    requests: AtomicU64,
}

impl FaultFile {
    fn now(&self) -> Faults {
        let text = std::fs::read(&self.path).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Waits and refuses as the file says; evenly spread, so that a test does not depend on luck.
    async fn pass(&self) -> S3Result<()> {
        let faults = self.now();
        if faults.delay_ms > 0 {
            tokio::time::sleep(Duration::from_millis(faults.delay_ms)).await;
        }
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let refused = |number: u64| (number as f64 * faults.refuse) as u64;
        if refused(number + 1) > refused(number) {
            Err(s3s::s3_error!(SlowDown, "refused by the test"))
        } else {
            Ok(())
        }
    }
}

macro_rules! through {
    ($($method:ident($input:ident) -> $output:ident),* $(,)?) => {
        #[async_trait::async_trait]
        impl S3 for Faulty {
            async fn put_object(&self, mut request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
                self.faults.pass().await?;
                if !self.folder.join(&request.input.bucket).is_dir() {
                    return Err(s3s::s3_error!(NoSuchBucket));
                }
                if self.faults.now().ignore_conditions {
                    request.input.if_none_match = None;
                }
                // s3s-fs looks and then writes; a store that honours the condition does both in one step.
                let _one_at_a_time = match request.input.if_none_match {
                    Some(_) => Some(self.conditional.lock().await),
                    None => None,
                };
                self.inner.put_object(request).await
            }
            async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
                self.faults.pass().await?;
                self.is_object(&request.input.bucket, &request.input.key)?;
                self.inner.get_object(request).await
            }
            async fn head_object(&self, request: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
                self.faults.pass().await?;
                self.is_object(&request.input.bucket, &request.input.key)?;
                self.inner.head_object(request).await
            }
            $(async fn $method(&self, request: S3Request<$input>) -> S3Result<S3Response<$output>> {
                self.faults.pass().await?;
                self.inner.$method(request).await
            })*
        }
    };
}

through! {
    head_bucket(HeadBucketInput) -> HeadBucketOutput,
    list_objects_v2(ListObjectsV2Input) -> ListObjectsV2Output,
    delete_object(DeleteObjectInput) -> DeleteObjectOutput,
    create_multipart_upload(CreateMultipartUploadInput) -> CreateMultipartUploadOutput,
    upload_part(UploadPartInput) -> UploadPartOutput,
    complete_multipart_upload(CompleteMultipartUploadInput) -> CompleteMultipartUploadOutput,
    abort_multipart_upload(AbortMultipartUploadInput) -> AbortMultipartUploadOutput,
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let given: BTreeMap<&str, &str> =
        arguments.chunks(2).filter_map(|pair| Some((pair.first()?.as_str(), pair.get(1)?.as_str()))).collect();
    let argument = |name: &str| given.get(name).copied().unwrap_or_else(|| panic!("{name} is missing"));
    let inner = FileSystem::new(argument("--folder")).expect("the folder of the objects is there");
    let faults = Arc::new(FaultFile { path: argument("--faults").into(), requests: AtomicU64::new(0) });
    let mut service = S3ServiceBuilder::new(Faulty {
        inner,
        folder: argument("--folder").into(),
        conditional: Mutex::new(()),
        faults,
    });
    service.set_auth(SimpleAuth::from_single(argument("--access-key"), argument("--secret-key")));
    let service = service.build();
    let address = format!("127.0.0.1:{}", argument("--port"));
    let listener = TcpListener::bind(&address).await.unwrap_or_else(|error| panic!("{address}: {error}"));
    let server = Builder::new(TokioExecutor::new());
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        let _ = socket.set_nodelay(true);
        let connection = server.serve_connection(TokioIo::new(socket), service.clone()).into_owned();
        // One task a connection; all of them end with this process, which nothing outlives.
        tokio::spawn(async move {
            let _ = connection.await;
            Ok::<(), Infallible>(())
        });
    }
}
