//! Coordinators as `diorama serve` makes them, over a store that takes its time.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use bytes::Bytes;
use diorama_backends::progress::embedded::EmbeddedProgress;
use diorama_backends::queue::embedded::EmbeddedQueue;
use diorama_coordinator::api::{Api, ApiConfig, ApiMetrics, Role, router};
use diorama_coordinator::{CoordinatorConfig, Grace, Service, ServiceConfig, Shares};
use diorama_core::id::{AttemptId, Pool, Round, RunId, Seed, Sha256Hex, ShardId};
use diorama_core::key::{ObjectKey, SharedKey};
use diorama_core::retry::RetryPolicy;
use diorama_core::round::RoundInfo;
use diorama_core::run::{Labels, ModelIdentity, OutputFormat, RunSpec};
use diorama_core::settings::Settings;
use diorama_protocol::count::counts_of_void;
use diorama_protocol::decision::Act;
use diorama_protocol::history::History;
use diorama_protocol::{Backends, Exclusive, RunStore};
use jiff::Timestamp;
use prometheus::Registry;
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::shards::Template;
use crate::store::{Content, Store};

/// Shards of a pool that are out at a time, as `diorama serve` has it by itself.
pub(crate) const WINDOW: usize = 256;

/// Longer than anything here takes.
const FOR_EVER: Duration = Duration::from_secs(24 * 3600);

pub(crate) struct World {
    pub(crate) store: Arc<Store>,
    pub(crate) backends: Backends,
    scratch: tempfile::TempDir,
}

/// A spec of `tasks` tasks.
pub(crate) fn spec(run: &str, tasks: u64, shard_size: u32) -> RunSpec {
    RunSpec {
        version: 1,
        owner: None,
        request_sha256: None,
        run: RunId::new(run).unwrap(),
        name: None,
        labels: Labels::new(),
        pool: Pool::new("default").unwrap(),
        priority: 0,
        weight: 1,
        submitted_at: Timestamp::from_second(1_700_000_000).unwrap(),
        manifest: "manifest.jsonl".to_owned(),
        manifest_sha256: Sha256Hex::of(b"manifest"),
        reference_root: ".".to_owned(),
        settings: Settings::default(),
        seed: Seed::new(1).unwrap(),
        compare: Vec::new(),
        measures: Vec::new(),
        accept: None,
        format: OutputFormat::Webdataset,
        shard_size,
        tasks,
        invalid_rows: 0,
        retry: RetryPolicy { max_rounds: 2, delay_seconds: 0.0, poison_after: 2 },
        keep_references: false,
        stop_if: None,
        model: Some(ModelIdentity { sha256: "0".repeat(64), dtype: "f32".to_owned(), networks: Default::default() }),
    }
}

impl World {
    /// One whose store answers after `delay`; `large` is the run whose shards it renders.
    pub(crate) fn new(delay: Duration, large: Option<&RunSpec>) -> Self {
        let store = Arc::new(Store::new(delay, large.map(Template::new)));
        let backends = Backends {
            queue: Arc::new(EmbeddedQueue::default()),
            progress: Arc::new(EmbeddedProgress::default()),
            objects: store.clone(),
            exclusive: Exclusive::ConditionalPut,
        };
        Self { store, backends, scratch: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn run_store(&self, run: &RunId) -> RunStore {
        RunStore::shared(self.backends.objects.clone(), run)
    }

    /// A submitted run, of whose shards the first `committed` have their markers. Its inputs are rendered.
    pub(crate) async fn add_run(&self, spec: &RunSpec, committed: u32) -> History {
        let store = self.run_store(&spec.run);
        let inputs = AttemptId::generate();
        {
            let mut all = self.store.all();
            for index in 0..spec.shards() {
                let shard = ShardId { round: Round(0), index };
                all.insert(store.path(&ObjectKey::Input(shard, inputs.clone())), Content::Input(index));
                if index < committed {
                    all.insert(store.path(&ObjectKey::Commit(shard)), Content::Marker(index));
                    let archive = format!("shards/{shard}.0123456789ab.tar");
                    all.insert(store.relative(&archive), Content::Bytes(Bytes::new()));
                    all.insert(store.path(&ObjectKey::FirstAttempt(shard)), Content::Bytes(Bytes::new()));
                }
            }
            for key in [SharedKey::Submitted(spec.run.clone()), SharedKey::Active(spec.run.clone())] {
                all.insert(key.to_string(), Content::Bytes(Bytes::new()));
            }
            let invalid = store.path(&ObjectKey::InvalidRows(inputs.clone()));
            all.insert(invalid, Content::Bytes(Bytes::new()));
        }
        self.backends.write_spec(&store, spec.clone()).await.unwrap();
        let round = RoundInfo::first(spec.shards(), spec.tasks, inputs, Timestamp::UNIX_EPOCH);
        let mut history = History::default();
        self.decide(&spec.run, &mut history, Act::Submitted { round }).await;
        history
    }

    pub(crate) async fn decide(&self, run: &RunId, history: &mut History, act: Act) {
        self.backends.decide(&self.run_store(run), run, history, "bench", act).await.unwrap();
    }

    /// Tells the progress service of the first `committed` shards.
    pub(crate) async fn count(&self, spec: &RunSpec, history: &History, committed: u32) {
        let round = &history.rounds()[0];
        let counts = |index| {
            let counts = counts_of_void(round, index, spec.shard_size);
            let counts = diorama_backends::progress::Counts { done: counts.failed, failed: 0, ..counts };
            (ShardId { round: Round(0), index }, counts)
        };
        let all: Vec<_> = (0..committed).map(counts).collect();
        self.backends.progress.commit_many(&spec.run, &all).await.unwrap();
        let generation = self.backends.progress.generation(&spec.run).await.unwrap();
        self.backends.progress.complete(&spec.run, &generation, committed.into()).await.unwrap();
    }

    pub(crate) fn service(&self) -> Service {
        let runs = CoordinatorConfig {
            name: "bench".to_owned(),
            shares: Shares::new(WINDOW),
            poll: Duration::from_millis(200),
            control_poll: Duration::from_secs(1),
            publish_again_after: Duration::from_secs(60),
            ..CoordinatorConfig::new(self.scratch.path().to_owned())
        };
        let (lease, grace) = (Duration::from_secs(10), Grace::default());
        let config = ServiceConfig { owner: "bench".to_owned(), lease, grace, runs };
        Service::new(self.backends.clone(), config).0
    }

    pub(crate) fn api(&self) -> (Arc<Api>, Router) {
        let api = Api::new(ApiConfig {
            name: "bench".to_owned(),
            backends: self.backends.clone(),
            remote: None,
            readable: diorama_core::address::Readable::default(),
            scratch: self.scratch.path().to_owned(),
            reference_root: None,
            plain_http: false,
            tokens: None,
            role_without_tokens: Role::Admin,
            max_manifest_bytes: 1 << 30,
            max_blob_bytes: 1 << 20,
            limits: Default::default(),
            leading: watch::channel(true).1,
            pools: Vec::new(),
            metrics: ApiMetrics::register(Registry::new()).unwrap(),
        });
        let router = router(api.clone());
        (api, router)
    }

    /// The service and the API's look for `/metrics` work while `work` does.
    pub(crate) async fn serving<T>(&self, work: impl Future<Output = T>) -> T {
        let (drain, (api, _)) = (CancellationToken::new(), self.api());
        let work = async {
            let done = tokio::time::timeout(FOR_EVER, work).await.expect("what is measured ends");
            drain.cancel();
            done
        };
        let (done, (), ()) = tokio::join!(work, self.service().run(drain.clone()), api.keep_metrics(drain.clone()));
        done
    }

    /// Waits until the run has ended.
    pub(crate) async fn ended(&self, run: &RunId) -> History {
        let quiet = self.quietly();
        until(async || quiet.run_store(run).history().await.unwrap().ended().is_some()).await;
        quiet.run_store(run).history().await.unwrap()
    }

    /// Waits until shards wait in the queue.
    pub(crate) async fn published(&self, pool: &Pool) {
        until(async || self.backends.queue.depth(pool).await.unwrap().ready > 0).await;
    }

    /// The same objects for who measures: without waiting, and counted by nobody.
    pub(crate) fn quietly(&self) -> Quiet {
        Quiet(self.store.clone())
    }
}

/// See [`World::quietly`].
pub(crate) struct Quiet(Arc<Store>);

impl Quiet {
    pub(crate) fn run_store(&self, run: &RunId) -> RunStore {
        let copy = Store::default();
        let prefix = format!("runs/{run}/decisions/");
        let all = self.0.all();
        let log = all.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix));
        *copy.all() = log.map(|(key, content)| (key.clone(), content.clone())).collect();
        RunStore::shared(Arc::new(copy), run)
    }
}

pub(crate) async fn until(holds: impl AsyncFn() -> bool) {
    while !holds().await {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What the API answers.
pub(crate) async fn request(router: &Router, method: &str, path: &str) -> (StatusCode, Value) {
    let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    let value = serde_json::from_slice(&body).unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&body)));
    (status, value)
}
