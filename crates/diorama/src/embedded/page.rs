//! The dashboard of a run on this machine (`diorama run --serve`): the API and the page of a coordinator, over the services
//! in this process. Not a second code path: the folder is shown as the store of a fleet that has this one run.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use axum::extract::Request;
use axum::http::Method;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use diorama_backends::objects::{ObjectError, ObjectErrorKind, ObjectMeta, ObjectReader, Objects, Page, Put};
use diorama_coordinator::api::{self, Api, ApiConfig, ApiMetrics, Problem, Role};
use diorama_core::id::RunId;
use diorama_core::key::{ObjectKey, RUNS, RunRoot, SharedKey, blob_of};
use diorama_protocol::{Backends, RunStore};
use diorama_runtime::http::{self, Limits};
use prometheus::Registry;
use tokio::sync::{OnceCell, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::RunFolder;
use crate::exit::Failure;
use crate::output;

/// A page that is served; gone with this value.
pub(crate) struct RunPage {
    address: SocketAddr,
    _serving: AbortOnDropHandle<()>,
}

impl RunPage {
    /// Serves the page of the run in `folder`, which runs on `services`, at a loopback address.
    pub(crate) async fn open(listen: SocketAddr, folder: &RunFolder, services: &Backends) -> Result<Self, Failure> {
        if !listen.ip().is_loopback() {
            let message = format!(
                "--serve {listen} can be reached from elsewhere, and a run on this machine knows no tokens: listen on \
                 127.0.0.1, or run a coordinator (`diorama serve --tokens-file`)"
            );
            return Err(Failure::usage(anyhow::anyhow!(message)));
        }
        let listener = crate::listen::listen("--serve", &listen.to_string()).await?;
        let address = listener.local_addr().map_err(Failure::permanent)?;
        let objects = Arc::new(OneRun::new(services.objects.clone()));
        let api = Api::new(ApiConfig {
            name: "this process".to_owned(),
            backends: Backends { objects: objects.clone(), ..services.clone() },
            remote: None,
            readable: diorama_core::address::Readable::default(),
            scratch: folder.scratch(),
            // What the run's own rows name, wherever it lies: whoever runs it may read it.
            reference_root: Some(PathBuf::from("/")),
            plain_http: false,
            tokens: None,
            role_without_tokens: Role::Submitter,
            max_manifest_bytes: 0,
            max_blob_bytes: 0,
            limits: Default::default(),
            leading: watch::channel(true).1,
            pools: Vec::new(),
            prices: Vec::new(),
            metrics: ApiMetrics::register(Registry::new()).map_err(Failure::permanent)?,
        });
        let router = api::router(api.clone()).layer(from_fn_with_state(objects, check));
        let crowded = api::crowded(api);
        let serving = tokio::spawn(http::serve(listener, router, crowded, Limits::default(), CancellationToken::new()));
        output::error_line(&format!("diorama: the run's page is at http://{address}"));
        Ok(Self { address, _serving: AbortOnDropHandle::new(serving) })
    }

    /// Says that the page goes on.
    pub(crate) fn tell_that_it_stays(&self) {
        output::error_line(&format!("diorama: the page stays at http://{}; Ctrl-C closes it", self.address));
    }
}

/// Refuses what one run cannot do: there is no other run, and once this one has ended, nobody here would go on with it.
async fn check(
    axum::extract::State(objects): axum::extract::State<Arc<OneRun>>,
    request: Request,
    next: Next,
) -> Response {
    let refuse = |code: &str, detail: &str| {
        let (code, title, detail) = (code.to_owned(), "Forbidden".to_owned(), detail.to_owned());
        Problem { status: 403, code, title, detail, issues: None, issue_count: None }.into_response()
    };
    let path = request.uri().path();
    if matches!(*request.method(), Method::GET | Method::HEAD) || !path.starts_with("/v1/runs") {
        return next.run(request).await;
    }
    if path.trim_end_matches('/') == "/v1/runs" {
        return refuse("one_run", "this page shows one run; submit others to a coordinator (`diorama serve`)");
    }
    if objects.has_ended().await {
        let message =
            "the run has ended, and this process now only shows it; run the same command again, or `diorama retry`";
        return refuse("run_has_ended", message);
    }
    next.run(request).await
}

/// The folder of one run, as the store of a fleet.
struct OneRun {
    folder: Arc<dyn Objects>,
    run: OnceCell<RunId>,
}

/// Where an object lies.
enum Place {
    /// In the folder, under this key.
    Folder(String),
    /// That the run was submitted, or has not ended: an object that is only a name.
    Name,
    Nowhere,
}

impl OneRun {
    fn new(folder: Arc<dyn Objects>) -> Self {
        Self { folder, run: OnceCell::new() }
    }

    /// The run, once it is submitted.
    async fn run(&self) -> Result<Option<RunId>, ObjectError> {
        let read = || async {
            let spec = RunStore::new(self.folder.clone(), RunRoot::Own).spec().await.map_err(Some)?;
            spec.map(|spec| spec.run).ok_or(None)
        };
        match self.run.get_or_try_init(read).await {
            Ok(run) => Ok(Some(run.clone())),
            Err(None) => Ok(None),
            Err(Some(error)) => Err(error),
        }
    }

    async fn has_ended(&self) -> bool {
        let summary = ObjectKey::Summary.path(&RunRoot::Own);
        self.folder.head(&summary).await.is_ok_and(|found| found.is_some())
    }

    async fn place(&self, key: &str) -> Result<Place, ObjectError> {
        let Some(run) = self.run().await? else { return Ok(Place::Nowhere) };
        if let Some(own) = key.strip_prefix(&root(&run)) {
            return Ok(Place::Folder(own.to_owned()));
        }
        if blob_of(key).is_some() {
            return Ok(Place::Folder(key.to_owned()));
        }
        let is_name = key == SharedKey::Submitted(run.clone()).to_string()
            || key == SharedKey::Active(run).to_string() && !self.has_ended().await;
        Ok(if is_name { Place::Name } else { Place::Nowhere })
    }

    /// Where an object is read.
    async fn read(&self, key: &str) -> Result<String, ObjectError> {
        match self.place(key).await? {
            Place::Folder(own) => Ok(own),
            Place::Name | Place::Nowhere => {
                Err(ObjectError::new(ObjectErrorKind::NotFound, "reading", key, "there is no such object"))
            }
        }
    }

    /// Where an object is written.
    async fn written(&self, key: &str) -> Result<String, ObjectError> {
        match self.place(key).await? {
            Place::Folder(own) => Ok(own),
            Place::Name | Place::Nowhere => {
                Err(ObjectError::new(ObjectErrorKind::Refused, "writing", key, "this process has one run only"))
            }
        }
    }
}

/// What the keys of the run's objects begin with in a shared store.
fn root(run: &RunId) -> String {
    format!("{RUNS}{run}/")
}

#[async_trait]
impl Objects for OneRun {
    async fn get(&self, key: &str) -> Result<Bytes, ObjectError> {
        self.folder.get(&self.read(key).await?).await
    }

    async fn open(&self, key: &str) -> Result<ObjectReader, ObjectError> {
        self.folder.open(&self.read(key).await?).await
    }

    async fn read_range(&self, key: &str, from: u64, length: u64) -> Result<Bytes, ObjectError> {
        self.folder.read_range(&self.read(key).await?, from, length).await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, ObjectError> {
        match self.place(key).await? {
            Place::Folder(own) => {
                let found = self.folder.head(&own).await?;
                Ok(found.map(|meta| ObjectMeta { key: key.to_owned(), ..meta }))
            }
            Place::Name => Ok(Some(ObjectMeta { key: key.to_owned(), bytes: 0, modified: None })),
            Place::Nowhere => Ok(None),
        }
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, ObjectError> {
        let nothing = Page { objects: Vec::new(), next: None };
        let Some(run) = self.run().await? else { return Ok(nothing) };
        let root = root(&run);
        if let Some(own) = prefix.strip_prefix(&root) {
            let after = after.and_then(|after| after.strip_prefix(&root));
            let page = self.folder.list(own, after, limit).await?;
            let whole = |key: String| format!("{root}{key}");
            let objects = page.objects.into_iter().map(|meta| ObjectMeta { key: whole(meta.key), ..meta });
            return Ok(Page { objects: objects.collect(), next: page.next.map(whole) });
        }
        let names = [SharedKey::Submitted(run.clone()), SharedKey::Active(run)].map(|key| key.to_string());
        let mut objects = Vec::new();
        for name in
            names.iter().filter(|name| name.starts_with(prefix) && after.is_none_or(|after| name.as_str() > after))
        {
            objects.extend(self.head(name).await?);
        }
        Ok(Page { objects, next: None })
    }

    async fn put(&self, key: &str, bytes: Bytes) -> Result<(), ObjectError> {
        match self.place(key).await? {
            // It is there, as far as it is true.
            Place::Name => Ok(()),
            _ => self.folder.put(&self.written(key).await?, bytes).await,
        }
    }

    async fn put_if_absent(&self, key: &str, bytes: Bytes) -> Result<Put, ObjectError> {
        self.folder.put_if_absent(&self.written(key).await?, bytes).await
    }

    async fn put_file(&self, key: &str, file: &Path) -> Result<(), ObjectError> {
        self.folder.put_file(&self.written(key).await?, file).await
    }

    async fn delete(&self, key: &str) -> Result<(), ObjectError> {
        match self.place(key).await? {
            Place::Folder(own) => self.folder.delete(&own).await,
            Place::Name | Place::Nowhere => Ok(()),
        }
    }
}
