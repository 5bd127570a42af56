//! References from elsewhere, against a real HTTP server on a free port of the loopback interface.

mod keeping;
mod limits;
mod tries;

use std::io::Cursor;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, Response, StatusCode};
use axum::response::IntoResponse;
use diorama_backends::objects::embedded::FolderObjects;
use diorama_core::address::Readable;
use diorama_core::key::RunRoot;
use image::{ImageFormat, Rgb, RgbImage};
use tempfile::TempDir;
use tokio_util::task::AbortOnDropHandle;

use super::*;

/// How the server answers the `n`-th request (from 0) for a path.
type Answers = dyn Fn(&str, usize, &HeaderMap) -> Response<Body> + Send + Sync;

/// A server that remembers what it was asked.
struct Server {
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
    _serving: AbortOnDropHandle<()>,
}

impl Server {
    async fn start(answers: impl Fn(&str, usize, &HeaderMap) -> Response<Body> + Send + Sync + 'static) -> Self {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (answers, asked): (Arc<Answers>, Arc<Mutex<Vec<String>>>) = (Arc::new(answers), Arc::default());
        let remembered = asked.clone();
        let router = axum::Router::new().fallback(move |request: Request| {
            let path = request.uri().path().to_owned();
            let n = {
                let mut asked = remembered.lock().unwrap_or_else(PoisonError::into_inner);
                asked.push(path.clone());
                asked.iter().filter(|before| **before == path).count() - 1
            };
            let answer = answers(&path, n, request.headers());
            async move { answer }
        });
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, asked, _serving: AbortOnDropHandle::new(serving) }
    }

    /// One that answers everything with a picture.
    async fn of_pictures() -> Self {
        Self::start(|_, _, _| picture().into_response()).await
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

/// A PNG of 12×8 pixels.
fn picture() -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    RgbImage::from_pixel(12, 8, Rgb([9, 8, 7])).write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn status(status: StatusCode) -> Response<Body> {
    status.into_response()
}

fn redirect(to: &str) -> Response<Body> {
    Response::builder().status(302).header("location", to).body(Body::empty()).unwrap()
}

/// References of a run in a folder of its own.
struct Case {
    folder: TempDir,
    config: RemoteConfig,
}

impl Case {
    /// Private addresses are allowed, nothing is cached.
    fn new() -> Self {
        let readable = Readable::new(vec!["bucket".parse().unwrap()], None);
        let timeout = Duration::from_secs(20);
        let config = RemoteConfig { allow_private: true, timeout, readable, ..RemoteConfig::default() };
        Self { folder: tempfile::tempdir().unwrap(), config }
    }

    fn cached() -> Self {
        let mut case = Self::new();
        let folder = case.folder.path().join("cache");
        case.config.cache = Some(CacheConfig { folder, bytes: 1 << 20, max_age: Duration::from_secs(3600) });
        case
    }

    fn references(&self) -> References {
        self.references_with(Arc::new(FolderObjects::open(self.folder.path()).unwrap()), None)
    }

    fn references_with(
        &self,
        objects: Arc<dyn diorama_backends::objects::Objects>,
        remote: Option<Arc<dyn diorama_backends::objects::RemoteObjects>>,
    ) -> References {
        References {
            root: self.folder.path().to_owned(),
            store: RunStore::new(objects, RunRoot::Own),
            limits: PictureLimits::default(),
            remote: Some(Arc::new(Remote::new(self.config.clone(), remote))),
            metrics: None,
        }
    }

    async fn load(&self, url: &str) -> Result<ReferencePicture, TaskError> {
        load(&self.references(), url).await
    }

    /// The error of a reference that cannot be had, without secrets.
    #[track_caller]
    fn refused(loaded: Result<ReferencePicture, TaskError>, code: ErrorCode, retryable: bool, why: &str) {
        let error = loaded.unwrap_err();
        assert_eq!((error.code, error.retryable), (code, retryable), "{error}");
        assert!(error.message.contains(why), "{error}");
    }
}

async fn load(references: &References, url: &str) -> Result<ReferencePicture, TaskError> {
    let reference = match url.starts_with("s3://") {
        true => Reference::S3(url.to_owned()),
        false => Reference::Https(url.to_owned()),
    };
    references.load(&reference).await.unwrap()
}
