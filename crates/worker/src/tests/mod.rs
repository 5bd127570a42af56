//! Whole workers on embedded services, with a generator that a test can watch and hold.

mod accepting;
mod decisions;
mod deliveries;
pub(crate) mod flat;
mod handing_back;
mod poisoning;
mod spans;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use diorama_backends::objects::embedded::FolderObjects;
use diorama_backends::objects::faulty::{Fault, FaultyObjects, Rule};
use diorama_backends::objects::{Objects, list_all};
use diorama_backends::progress::embedded::EmbeddedProgress;
use diorama_backends::queue::QueueDepth;
use diorama_backends::queue::embedded::EmbeddedQueue;
use diorama_core::generator::{BatchKey, Generated, Generator, GeneratorError, Job};
use diorama_core::id::{AttemptId, CustomId, Pool, Round, RunId, Seed, Sha256Hex, ShardId, TaskIndex, WorkerId};
use diorama_core::key::ObjectKey;
use diorama_core::marker::CommitMarker;
use diorama_core::measure::Measurer;
use diorama_core::message::ShardMessage;
use diorama_core::outcome::{ErrorCode, Outcome, TaskError};
use diorama_core::record::GeneratorInfo;
use diorama_core::retry::RetryPolicy;
use diorama_core::round::RoundInfo;
use diorama_core::run::{OutputFormat, RunSpec};
use diorama_core::settings::{Method, Settings};
use diorama_core::task::Task;
use diorama_protocol::decision::Act;
use diorama_protocol::history::History;
use diorama_protocol::{Backends, Exclusive, RunStore};
use jiff::Timestamp;
use prometheus::Registry;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::flat::FlatGenerator;
use crate::device::Engine;
use crate::{Device, Layout, Metrics, Worker, WorkerConfig, WorkerError, WorkerReport};

/// Whatever a test waits for comes sooner.
const LONG: Duration = Duration::from_secs(60);

/// Waits until `condition` holds.
async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let wait = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(LONG, wait).await.is_ok(), "waited in vain: {what}");
}

/// Services with runs, and workers on them.
struct Bench {
    folder: tempfile::TempDir,
    backends: Backends,
    made: Arc<Mutex<Vec<String>>>,
    /// Batches that a device may begin; all of them at first.
    allowed: Arc<watch::Sender<usize>>,
    begun: Arc<AtomicUsize>,
}

fn shard(index: u32) -> ShardId {
    ShardId { round: Round(0), index }
}

pub(crate) fn run_id(name: &str) -> RunId {
    RunId::new(name).unwrap()
}

fn pool() -> Pool {
    Pool::new("pool").unwrap()
}

fn task(index: u64) -> Task {
    let settings = Settings { method: Some(Method::Txt2img), ..Settings::default() };
    Task {
        index: TaskIndex(index),
        custom_id: CustomId::new(format!("t{index}")).unwrap(),
        reference: None,
        region: None,
        prompt: "a duck".to_owned(),
        subjects: None,
        seed: Seed::new(index + 1).unwrap(),
        settings,
        extra: Default::default(),
    }
}

pub(crate) fn spec(run: &RunId, format: OutputFormat, tasks: u64) -> RunSpec {
    RunSpec {
        version: 1,
        owner: None,
        request_sha256: None,
        run: run.clone(),
        name: None,
        labels: Default::default(),
        pool: pool(),
        priority: 0,
        weight: 1,
        submitted_at: Timestamp::UNIX_EPOCH,
        manifest: "manifest.jsonl".to_owned(),
        manifest_sha256: Sha256Hex::of(b"manifest"),
        reference_root: ".".to_owned(),
        settings: task(0).settings,
        seed: Seed::new(1).unwrap(),
        compare: Vec::new(),
        measures: Vec::new(),
        accept: None,
        format,
        shard_size: tasks as u32,
        tasks,
        invalid_rows: 0,
        retry: RetryPolicy::default(),
        keep_references: false,
        stop_if: None,
        model: None,
    }
}

impl Bench {
    fn new() -> Self {
        Self::with_rule(Box::new(|_, _| Fault::None))
    }

    fn with_rule(rule: Rule) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let objects = FaultyObjects::new(FolderObjects::open(folder.path()).unwrap(), rule);
        let backends = Backends {
            queue: Arc::new(EmbeddedQueue::default()),
            progress: Arc::new(EmbeddedProgress::default()),
            objects: Arc::new(objects),
            exclusive: Exclusive::ConditionalPut,
        };
        let allowed = Arc::new(watch::Sender::new(usize::MAX));
        Self { folder, backends, made: Arc::default(), allowed, begun: Arc::default() }
    }

    fn store(&self, run: &RunId) -> RunStore {
        RunStore::shared(self.backends.objects.clone(), run)
    }

    /// Submits a run of one shard and publishes it.
    async fn submit(&self, name: &str, format: OutputFormat, tasks: u64) -> RunId {
        let run = run_id(name);
        self.submit_spec(spec(&run, format, tasks)).await;
        self.publish(&run).await;
        run
    }

    async fn submit_spec(&self, spec: RunSpec) {
        let (run, store, writer) = (spec.run.clone(), self.store(&spec.run), AttemptId::new("w").unwrap());
        let tasks: Vec<Task> = (0..spec.tasks).map(task).collect();
        let round = RoundInfo::first(1, spec.tasks, writer.clone(), Timestamp::UNIX_EPOCH);
        self.backends.write_spec(&store, spec).await.unwrap();
        store.write_input(shard(0), &writer, &tasks).await.unwrap();
        self.decide(&run, Act::Submitted { round }).await;
    }

    async fn publish(&self, run: &RunId) {
        let message = ShardMessage { run: run.clone(), shard: shard(0) };
        self.backends.queue.publish(&pool(), &message).await.unwrap();
    }

    async fn decide(&self, run: &RunId, act: Act) {
        let mut history = self.history(run).await;
        self.backends.decide(&self.store(run), run, &mut history, "a test", act).await.unwrap();
    }

    async fn history(&self, run: &RunId) -> History {
        self.store(run).history().await.unwrap()
    }

    /// Lets devices begin this many batches and no more, from now on.
    fn allow(&self, batches: usize) {
        self.allowed.send_replace(batches);
    }

    async fn has_begun(&self, batches: usize) {
        until("batches begin", async || self.begun.load(Ordering::SeqCst) >= batches).await;
    }

    fn generator(&self, model: &str) -> Watched {
        let inner = FlatGenerator::new(2);
        let info = GeneratorInfo { model_sha256: model.to_owned(), ..inner.info().clone() };
        let (made, allowed, begun) = (self.made.clone(), self.allowed.subscribe(), self.begun.clone());
        Watched { inner, info, made, allowed, begun, misfit: false, fails: false }
    }

    fn config(&self, name: &str) -> WorkerConfig {
        let scratch = self.folder.path().join("scratch");
        std::fs::create_dir_all(&scratch).unwrap();
        let config = WorkerConfig::new(WorkerId::new(name).unwrap(), pool(), Layout::Shared, scratch);
        // What is decided counts from the next batch on.
        WorkerConfig { heard_within: Duration::ZERO, ..config }
    }

    /// Submits a run of one shard of six batches, of which a worker has made one and begun the next, that it may not end
    /// before [`Self::allow`].
    async fn in_the_middle(&self, format: OutputFormat, name: &str) -> (RunId, Running) {
        let run = self.submit("r", format, 12).await;
        self.allow(1);
        let worker = self.worker(name).await;
        self.has_begun(2).await;
        (run, worker)
    }

    async fn worker(&self, name: &str) -> Running {
        self.start(self.generator("m"), self.config(name)).await
    }

    async fn start(&self, generator: Watched, config: WorkerConfig) -> Running {
        self.start_with(generator, None, config).await
    }

    async fn start_with(
        &self,
        generator: Watched,
        measurer: Option<Box<dyn Measurer>>,
        config: WorkerConfig,
    ) -> Running {
        let (device, _) = Device::start(Box::new(move || {
            let generator: Box<dyn Generator> = Box::new(generator);
            Ok(Engine { generator, measurer })
        }))
        .await
        .unwrap();
        let (drain, registry) = (CancellationToken::new(), Registry::new());
        let loaded_in = Duration::from_secs(1);
        let metrics = Metrics::register(&registry, &config.worker, &config.pool, device.info(), loaded_in).unwrap();
        let worker = Worker::new(self.backends.clone(), device, WorkerConfig { metrics: Some(metrics), ..config });
        Running { task: tokio::spawn(worker.run(drain.clone())), drain, registry }
    }

    async fn marker(&self, run: &RunId) -> CommitMarker {
        until("the shard is committed", async || self.store(run).marker(shard(0)).await.unwrap().is_some()).await;
        self.store(run).marker(shard(0)).await.unwrap().unwrap()
    }

    /// Every object of the run below a folder.
    async fn objects(&self, run: &RunId, folder: &str) -> Vec<String> {
        let store = self.store(run);
        let listed = list_all(store.objects(), &store.relative(folder)).await.unwrap();
        listed.iter().map(|object| store.within(&object.key).to_owned()).collect()
    }

    async fn depth(&self) -> QueueDepth {
        self.backends.queue.depth(&pool()).await.unwrap()
    }

    /// The bytes of each task's files, wherever its outcome says that they are.
    async fn files(&self, run: &RunId) -> BTreeMap<(String, String), Vec<u8>> {
        let store = self.store(run);
        let mut files = BTreeMap::new();
        for outcome in self.marker(run).await.outcomes {
            let Outcome::Done { archive, files: by_role, .. } = outcome.outcome else { continue };
            for (role, file) in by_role {
                let bytes = match &archive {
                    None => store.objects().get(&store.relative(&file.path)).await.unwrap().to_vec(),
                    Some(archive) => member(&store.objects().get(&store.relative(archive)).await.unwrap(), &file.path),
                };
                assert_eq!(Sha256Hex::of(&bytes), file.sha256);
                files.insert((outcome.custom_id.to_string(), role), bytes);
            }
        }
        files
    }
}

fn member(archive: &[u8], path: &str) -> Vec<u8> {
    let mut archive = tar::Archive::new(archive);
    let mut entries = archive.entries().unwrap().map(Result::unwrap);
    let mut entry = entries.find(|entry| entry.path().unwrap().to_str() == Some(path)).unwrap();
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
    bytes
}

/// A worker that runs.
struct Running {
    task: JoinHandle<Result<WorkerReport, WorkerError>>,
    drain: CancellationToken,
    registry: Registry,
}

impl Running {
    /// Waits until this many shards ended like this.
    async fn has_ended(&self, shards: u64, ending: &str) {
        let count = || {
            let families = self.registry.gather();
            let family = families.iter().find(|family| family.name() == "diorama_worker_shards_total")?;
            let is_it = |metric: &&prometheus::proto::Metric| metric.get_label()[0].value() == ending;
            Some(family.get_metric().iter().find(is_it)?.get_counter().get_value() as u64)
        };
        until(ending, async || count().unwrap_or_default() >= shards).await;
    }

    /// What Prometheus would read.
    fn metrics(&self) -> String {
        prometheus::TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap()
    }

    /// Drains it and waits for its end.
    async fn end(self) -> WorkerReport {
        self.drain.cancel();
        tokio::time::timeout(LONG, self.task).await.expect("the worker does not end").unwrap().unwrap()
    }
}

/// Makes flat pictures, says which, and begins no more batches than it may.
struct Watched {
    inner: FlatGenerator,
    info: GeneratorInfo,
    made: Arc<Mutex<Vec<String>>>,
    allowed: watch::Receiver<usize>,
    begun: Arc<AtomicUsize>,
    /// No settings fit.
    misfit: bool,
    /// Only single pictures can be made.
    fails: bool,
}

impl Generator for Watched {
    fn info(&self) -> &GeneratorInfo {
        &self.info
    }

    fn check(&self, task: &Task) -> Result<BatchKey, TaskError> {
        if self.misfit {
            return Err(TaskError::permanent(ErrorCode::InvalidSettings, "too large"));
        }
        self.inner.check(task)
    }

    fn generate(
        &mut self,
        batch: &[Job],
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Vec<Result<Generated, TaskError>>, GeneratorError> {
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        while *self.allowed.borrow() < number {
            if stop() {
                return Err(GeneratorError::Stopped);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        if self.fails && batch.len() > 1 {
            return Err(GeneratorError::Failed("too many".to_owned()));
        }
        let made = self.inner.generate(batch, stop)?;
        self.made.lock().unwrap().extend(batch.iter().map(|job| job.task.custom_id.to_string()));
        Ok(made)
    }
}

fn attempt(name: &str) -> AttemptId {
    AttemptId::new(name).unwrap()
}

/// What lies under a key, for a test that damages it.
async fn damage(objects: &dyn Objects, store: &RunStore, key: &ObjectKey) {
    objects.put(&store.path(key), "{ damaged".into()).await.unwrap();
}
