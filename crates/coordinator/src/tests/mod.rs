//! The coordinator against a worker that commits whatever a test wants, without a model.

mod blobs;
mod control;
mod damage;
mod driving;
mod ended;
mod forgetful;
mod frozen;
mod garbage;
mod loss;
mod model;
mod pool;
mod pump;
mod scale;
mod service;
mod submission;
pub(crate) mod unkind;
mod verify;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use diorama_backends::objects::Objects;
use diorama_backends::objects::embedded::FolderObjects;
use diorama_backends::objects::list_all;
use diorama_backends::progress::Counts;
use diorama_backends::progress::embedded::EmbeddedProgress;
use diorama_backends::queue::Settlement;
use diorama_backends::queue::embedded::EmbeddedQueue;
use diorama_core::id::{AttemptId, CustomId, Pool, Round, RunId, Seed, Sha256Hex, ShardId, TaskIndex, WorkerId};
use diorama_core::key::{ObjectKey, RunRoot};
use diorama_core::manifest::ManifestIssue;
use diorama_core::marker::{CommitMarker, settings_digest};
use diorama_core::outcome::{ErrorCode, Outcome, TaskError, TaskOutcome};
use diorama_core::retry::RetryPolicy;
use diorama_core::run::{Labels, ModelIdentity, OutputFormat, RunSpec, RunState};
use diorama_core::settings::Settings;
use diorama_core::task::Task;
use diorama_protocol::count::count_marker;
use diorama_protocol::decision::Act;
use diorama_protocol::history::{History, Need, Refused};
use diorama_protocol::{Backends, DecideError, Exclusive, RunStore};
use jiff::Timestamp;
use prometheus::Registry;
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::api::{Api, ApiConfig, ApiMetrics};
use crate::ending::finalise;
use crate::rounds;
use crate::{
    Coordinator, CoordinatorConfig, CoordinatorError, RunEnd, RunProgress, Shares, Submission, is_submitted, reconcile,
    submit,
};

/// A spec of `tasks` tasks in shards of `shard_size`, tried again at once.
pub(crate) fn spec(tasks: u64, shard_size: u32) -> RunSpec {
    RunSpec {
        version: 1,
        owner: None,
        request_sha256: None,
        run: RunId::new("run").unwrap(),
        pool: Pool::new("pool").unwrap(),
        submitted_at: Timestamp::UNIX_EPOCH,
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
        model: Some(ModelIdentity { sha256: "none".to_owned(), dtype: "f32".to_owned(), networks: Default::default() }),
        name: None,
        labels: Labels::new(),
        priority: 0,
        weight: 1,
    }
}

fn task(index: u64) -> Task {
    Task {
        index: TaskIndex(index),
        custom_id: CustomId::new(format!("t{index}")).unwrap(),
        reference: None,
        region: None,
        prompt: "a duck".to_owned(),
        subjects: None,
        seed: Seed::new(index).unwrap(),
        settings: Settings::default(),
        extra: Default::default(),
    }
}

pub(crate) fn submission(spec: &RunSpec) -> Submission {
    let tasks = (0..spec.tasks).map(|index| Ok(task(index)));
    Submission { spec: spec.clone(), tasks: Box::new(tasks), invalid: Vec::new() }
}

/// Decides about a task in a round.
pub(crate) type Decide = Arc<dyn Fn(u64, u32) -> Outcome + Send + Sync>;

pub(crate) fn done() -> Outcome {
    Outcome::Done {
        archive: None,
        files: [].into(),
        mask_coverage: None,
        scores: [].into(),
        measures: Default::default(),
        accepted: None,
        tries: Vec::new(),
        warnings: Vec::new(),
    }
}

pub(crate) fn failed(retryable: bool) -> Outcome {
    let error = TaskError { code: ErrorCode::ModelError, message: "busy".to_owned(), retryable };
    Outcome::Failed(error)
}

pub(crate) struct Bench {
    folder: tempfile::TempDir,
    pub(crate) backends: Backends,
    pub(crate) store: RunStore,
    published_at_once: Arc<AtomicU32>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let objects = Arc::new(FolderObjects::open(folder.path()).unwrap());
        Self::over(folder, objects, RunRoot::Own)
    }

    /// The run of [`spec`] in a store with many, which a test holds.
    pub(crate) fn shared(objects: Arc<dyn Objects>) -> Self {
        Self::over(tempfile::tempdir().unwrap(), objects, RunRoot::Shared(spec(1, 1).run))
    }

    fn over(folder: tempfile::TempDir, objects: Arc<dyn Objects>, root: RunRoot) -> Self {
        let backends = Backends {
            queue: Arc::new(EmbeddedQueue::default()),
            progress: Arc::new(EmbeddedProgress::default()),
            objects,
            exclusive: Exclusive::ConditionalPut,
        };
        let store = RunStore::new(backends.objects.clone(), root);
        Self { folder, backends, store, published_at_once: Arc::default() }
    }

    /// The same run and services, as somebody else sees the store.
    pub(crate) fn through(&self, objects: Arc<dyn Objects>) -> Self {
        let backends = Backends { objects, ..self.backends.clone() };
        let store = RunStore::new(backends.objects.clone(), self.store.root().clone());
        Self { folder: tempfile::tempdir().unwrap(), backends, store, published_at_once: Arc::default() }
    }

    pub(crate) async fn submit(&self, spec: &RunSpec) {
        submit(&self.backends, &self.store, "test", submission(spec)).await.unwrap();
    }

    pub(crate) async fn history(&self) -> History {
        self.store.history().await.unwrap()
    }

    pub(crate) async fn decide(&self, spec: &RunSpec, act: Act) -> Result<Need, DecideError> {
        let mut history = self.history().await;
        self.backends.decide(&self.store, &spec.run, &mut history, "test", act).await
    }

    /// Commits a shard of the round under way, or of an earlier one, and tells nobody.
    pub(crate) async fn commit(&self, spec: &RunSpec, shard: ShardId, decide: &Decide) {
        commit(&self.backends, &self.store, spec, shard, decide).await;
    }

    /// Tells the progress service of a shard that is committed.
    pub(crate) async fn count(&self, spec: &RunSpec, shard: ShardId) {
        let marker = self.store.marker(shard).await.unwrap().unwrap();
        let last_round = self.history().await.budget(shard.round, &spec.retry);
        // A service that is away is not told.
        let _ = count_marker(&*self.backends.progress, &spec.run, &marker, last_round).await;
    }

    /// What the progress service counts.
    pub(crate) async fn counts(&self, spec: &RunSpec) -> Counts {
        self.backends.progress.counted(&spec.run).await.unwrap().counts
    }

    pub(crate) fn scratch(&self) -> &Path {
        self.folder.path()
    }

    /// An API of a coordinator of this store, for everybody.
    pub(crate) fn api(&self) -> Arc<Api> {
        Api::new(ApiConfig {
            name: "test".to_owned(),
            backends: self.backends.clone(),
            remote: None,
            readable: diorama_core::address::Readable::default(),
            scratch: self.scratch().to_owned(),
            reference_root: None,
            plain_http: false,
            tokens: None,
            role_without_tokens: crate::api::Role::Admin,
            max_manifest_bytes: 1 << 20,
            max_blob_bytes: 1 << 10,
            limits: Default::default(),
            leading: watch::channel(true).1,
            pools: Vec::new(),
            metrics: ApiMetrics::register(Registry::new()).unwrap(),
        })
    }

    pub(crate) fn coordinator(
        &self,
        config: impl FnOnce(&mut CoordinatorConfig),
    ) -> (Coordinator, watch::Receiver<RunProgress>) {
        let (sender, receiver) = watch::channel(RunProgress::start(0));
        let mut with = CoordinatorConfig::new(self.scratch().to_owned());
        with.poll = Duration::from_millis(1);
        config(&mut with);
        (Coordinator::new(self.backends.clone(), self.store.clone(), with, sender), receiver)
    }

    /// A worker that commits shards as `decide` says; it ends when the test drops the handle.
    pub(crate) fn worker(&self, spec: &RunSpec, decide: Decide) -> tokio_util::task::AbortOnDropHandle<()> {
        let (bench, spec) = (self.through(self.backends.objects.clone()), spec.clone());
        let most = self.published_at_once.clone();
        tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
            let backends = &bench.backends;
            let mut consumer = backends.queue.consume(&spec.pool, 1).await.unwrap();
            loop {
                let delivery = consumer.next().await.unwrap();
                // This consumer holds one.
                let depth = backends.queue.depth(&spec.pool).await.unwrap();
                most.fetch_max(depth.ready as u32 + 1, Ordering::SeqCst);
                let shard = delivery.message.shard;
                bench.commit(&spec, shard, &decide).await;
                bench.count(&spec, shard).await;
                delivery.settle(Settlement::Ack).await.unwrap();
            }
        }))
    }

    pub(crate) async fn drive(&self, spec: &RunSpec, decide: Decide) -> RunEnd {
        let _worker = self.worker(spec, decide);
        let (coordinator, _) = self.coordinator(|_| ());
        within(coordinator.drive(spec, &CancellationToken::new())).await.unwrap()
    }

    pub(crate) fn lines(&self, name: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.folder.path().join(name)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// Commits a shard as a worker does, unless it is committed.
pub(crate) async fn commit(backends: &Backends, store: &RunStore, spec: &RunSpec, shard: ShardId, decide: &Decide) {
    let history = store.history().await.unwrap();
    let round = history.round(shard.round).expect("a published shard has its round");
    let tasks = store.input(shard, &round.inputs).await.unwrap().expect("a published shard has its input");
    let outcome = |task: &Task| TaskOutcome {
        task: task.index,
        custom_id: task.custom_id.clone(),
        seed: task.seed,
        outcome: decide(task.index.0, shard.round.0),
        extra: task.extra.clone(),
    };
    let marker = CommitMarker {
        version: 2,
        run: spec.run.clone(),
        shard,
        attempt: AttemptId::generate(),
        worker: WorkerId::new("w").unwrap(),
        model: None,
        settings: settings_digest(spec),
        archives: Vec::new(),
        outcomes: tasks.iter().map(outcome).collect(),
        started_at: Timestamp::from_second(100).unwrap(),
        committed_at: Timestamp::from_second(110).unwrap(),
        device_seconds: 2.0,
    };
    backends.commit(store, marker).await.unwrap();
}

/// Brings a run to its end whose shards are committed, or that is cancelled.
pub(crate) async fn drive_to_its_end(backends: &Backends, store: &RunStore, spec: &RunSpec, scratch: &Path) {
    let (watchers, _) = watch::channel(RunProgress::start(spec.tasks));
    let config = CoordinatorConfig::new(scratch.to_owned());
    let coordinator = Coordinator::new(backends.clone(), store.clone(), config, watchers);
    within(coordinator.drive(spec, &CancellationToken::new())).await.unwrap();
}

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("the run ends")
}

pub(crate) fn indices(lines: &[Value]) -> Vec<u64> {
    lines.iter().map(|line| line["task"].as_u64().unwrap()).collect()
}
