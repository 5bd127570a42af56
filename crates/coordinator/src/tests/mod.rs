//! The coordinator against a worker that commits whatever a test wants, without a model.

mod blobs;
mod damage;
mod ended;
mod forgetful;
mod frozen;
mod garbage;
mod model;
mod pool;
mod pump;
mod scale;
mod service;
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
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::api::{Api, ApiConfig};
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
        run: RunId::new("run").unwrap(),
        pool: Pool::new("pool").unwrap(),
        submitted_at: Timestamp::UNIX_EPOCH,
        manifest: "manifest.jsonl".to_owned(),
        manifest_sha256: Sha256Hex::of(b"manifest"),
        reference_root: ".".to_owned(),
        settings: Settings::default(),
        seed: Seed::new(1).unwrap(),
        compare: Vec::new(),
        format: OutputFormat::Webdataset,
        shard_size,
        tasks,
        invalid_rows: 0,
        retry: RetryPolicy { max_rounds: 2, delay_seconds: 0.0, poison_after: 2 },
        model: Some(ModelIdentity { sha256: "none".to_owned(), dtype: "f32".to_owned() }),
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
        prompt: "a duck".to_owned(),
        subjects: None,
        seed: Seed::new(index).unwrap(),
        settings: Settings::default(),
    }
}

pub(crate) fn submission(spec: &RunSpec) -> Submission {
    let tasks = (0..spec.tasks).map(|index| Ok(task(index)));
    Submission { spec: spec.clone(), tasks: Box::new(tasks), invalid: Vec::new() }
}

/// Decides about a task in a round.
pub(crate) type Decide = Arc<dyn Fn(u64, u32) -> Outcome + Send + Sync>;

pub(crate) fn done() -> Outcome {
    Outcome::Done { archive: None, files: [].into(), mask_coverage: None, scores: [].into(), warnings: Vec::new() }
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
            scratch: self.scratch().to_owned(),
            reference_root: None,
            plain_http: false,
            tokens: None,
            max_manifest_bytes: 1 << 20,
            max_blob_bytes: 1 << 10,
            leading: watch::channel(true).1,
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

#[tokio::test]
async fn every_task_ends_with_exactly_one_outcome_and_the_last_one_counts() {
    let (bench, spec) = (Bench::new(), spec(23, 4));
    bench.submit(&spec).await;
    // 0 mod 5: permanent. 1 mod 5: heals in round 1. 2 mod 5: heals in round 2. 3 mod 5: never heals. 4 mod 5: good.
    let decide: Decide = Arc::new(|task, round| match (task % 5, round) {
        (0, _) => failed(false),
        (1, 0) | (2, 0 | 1) | (3, _) => failed(true),
        _ => done(),
    });
    let RunEnd::Finished(summary) = bench.drive(&spec, decide).await else { panic!("finished") };

    let (results, errors) = (bench.lines("results.jsonl"), bench.lines("errors.jsonl"));
    let wanted = |residues: &[u64]| (0..23).filter(|task| residues.contains(&(task % 5))).collect::<Vec<_>>();
    assert_eq!(indices(&results), wanted(&[1, 2, 4]));
    assert_eq!(indices(&errors), wanted(&[0, 3]));
    assert_eq!((summary.done, summary.failed, summary.rounds), (14, 9, 2));
    assert_eq!(summary.failures["model_error"], 9);
    // 6 shards, then 14 tasks in 4, then 9 in 3.
    assert_eq!((summary.shards, summary.device_seconds), (6 + 4 + 3, 26.0));
    assert_eq!((summary.wall_seconds, summary.pictures_per_second), (10.0, 1.4));
    let counts = bench.counts(&spec).await;
    assert_eq!((counts.done, counts.failed), (summary.done, summary.failed), "counters agree with the files");
}

#[tokio::test]
async fn the_queue_never_holds_more_than_the_window() {
    let (bench, spec) = (Bench::new(), spec(100, 1));
    bench.submit(&spec).await;
    let _worker = bench.worker(&spec, Arc::new(|_, _| done()));
    let (coordinator, progress) = bench.coordinator(|config| config.shares = Shares::new(3));
    within(coordinator.drive(&spec, &CancellationToken::new())).await.unwrap();
    assert!((1..=3).contains(&bench.published_at_once.load(Ordering::SeqCst)));
    let last = progress.borrow().clone();
    assert_eq!((last.state, last.done, last.failed, last.total), (RunState::Finished, 100, 0, 100));
}

#[tokio::test]
async fn a_submission_that_was_cut_off_is_done_again_and_a_complete_one_is_not_touched() {
    let (bench, spec) = (Bench::new(), spec(10, 4));
    let cut = (0..10).map(|index| if index < 7 { Ok(task(index)) } else { Err("the disk went away".into()) });
    let cut = Submission { spec: spec.clone(), tasks: Box::new(cut), invalid: Vec::new() };
    assert!(matches!(submit(&bench.backends, &bench.store, "test", cut).await, Err(CoordinatorError::Tasks(_))));
    assert!(!is_submitted(&bench.store).await.unwrap());

    bench.submit(&spec).await;
    assert!(is_submitted(&bench.store).await.unwrap());
    let history = bench.history().await;
    for shard in history.rounds()[0].shard_ids() {
        let input = bench.store.input(shard, &history.rounds()[0].inputs).await.unwrap();
        assert_eq!(input.unwrap().len(), if shard.index < 2 { 4 } else { 2 });
    }

    let unread: crate::Tasks = Box::new(std::iter::from_fn(|| panic!("a submitted run reads no manifest")));
    let later = RunSpec { run: RunId::new("other-id").unwrap(), submitted_at: Timestamp::now(), ..spec.clone() };
    let again = Submission { spec: later, tasks: unread, invalid: Vec::new() };
    assert_eq!(submit(&bench.backends, &bench.store, "test", again).await.unwrap(), spec, "the first spec is in force");
}

#[tokio::test]
async fn another_manifest_or_other_settings_are_refused_with_what_differs() {
    let (bench, first) = (Bench::new(), spec(2, 4));
    bench.submit(&first).await;
    let settings = Settings { steps: Some(7), ..Settings::default() };
    let other = RunSpec { manifest_sha256: Sha256Hex::of(b"other"), settings, ..first.clone() };
    let error = submit(&bench.backends, &bench.store, "test", submission(&other)).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("manifest's sha256: there is") && text.contains("steps: there is unset, asked for is 7"),
        "{text}"
    );
    assert!(!error.is_retryable() && !text.contains("guidance"), "{text}");
    assert_eq!(bench.store.spec().await.unwrap(), Some(first), "nothing was changed");
}

#[tokio::test]
async fn a_manifest_that_gives_more_or_fewer_tasks_than_counted_is_refused() {
    for (counted, given) in [(10, 9), (10, 11), (8, 9), (10, 0)] {
        let (bench, spec) = (Bench::new(), spec(counted, 4));
        let tasks = (0..given).map(|index| Ok(task(index)));
        let submission = Submission { spec, tasks: Box::new(tasks), invalid: Vec::new() };
        let error = submit(&bench.backends, &bench.store, "test", submission).await.unwrap_err();
        assert!(matches!(error, CoordinatorError::TaskCount { counted: c, .. } if c == counted), "{error}");
        assert!(!is_submitted(&bench.store).await.unwrap());
    }
}

#[tokio::test]
async fn progress_is_rebuilt_from_the_markers_and_committed_shards_are_not_published_again() {
    let (bench, spec) = (Bench::new(), spec(20, 2));
    bench.submit(&spec).await;
    let earlier: Decide = Arc::new(|_, _| done());
    for index in [0, 3, 4, 9] {
        bench.commit(&spec, ShardId { round: Round(0), index }, &earlier).await;
    }
    bench
        .backends
        .progress
        .commit(&spec.run, ShardId { round: Round(0), index: 7 }, Counts::default(), &[])
        .await
        .unwrap();
    let history = bench.history().await;
    let counts = reconcile(&bench.backends, &bench.store, &spec, &history).await.unwrap();
    assert_eq!((counts.shards, counts.done), (4, 8), "what has no marker is forgotten");

    let seen: Arc<std::sync::Mutex<Vec<u64>>> = Arc::default();
    let log = seen.clone();
    let decide: Decide = Arc::new(move |task, _| {
        log.lock().unwrap().push(task);
        done()
    });
    assert!(matches!(bench.drive(&spec, decide).await, RunEnd::Finished(_)));
    let mut seen = seen.lock().unwrap().clone();
    seen.sort_unstable();
    assert_eq!(seen, [2, 3, 4, 5, 10, 11, 12, 13, 14, 15, 16, 17]);
}

#[tokio::test]
async fn a_lost_message_is_published_again() {
    let (bench, spec) = (Bench::new(), spec(4, 2));
    bench.submit(&spec).await;
    let queue = bench.backends.queue.clone();
    let pool = spec.pool.clone();
    // Takes the first message and loses it.
    let thief = tokio::spawn(async move {
        let mut consumer = queue.consume(&pool, 1).await.unwrap();
        consumer.next().await.unwrap().settle(Settlement::Ack).await.unwrap();
    });
    let (coordinator, _) = bench.coordinator(|config| config.publish_again_after = Duration::from_millis(50));
    let work_after_the_theft = async {
        thief.await.unwrap();
        let _worker = bench.worker(&spec, Arc::new(|_, _| done()));
        while bench.history().await.ended().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let drain = CancellationToken::new();
    let (end, ()) = within(async { tokio::join!(coordinator.drive(&spec, &drain), work_after_the_theft) }).await;
    assert!(matches!(end.unwrap(), RunEnd::Finished(_)));
}

#[tokio::test]
async fn a_forgetful_progress_service_does_not_stop_the_run() {
    let (bench, spec) = (Bench::new(), spec(40, 1));
    bench.submit(&spec).await;
    let progress = bench.backends.progress.clone();
    let run = spec.run.clone();
    let runtime = tokio::runtime::Handle::current();
    let forgotten = AtomicU32::new(0);
    let decide: Decide = Arc::new(move |task, _| {
        if task == 30 && forgotten.fetch_add(1, Ordering::SeqCst) == 0 {
            let (progress, run) = (progress.clone(), run.clone());
            runtime.spawn(async move { progress.forget(&run).await });
        }
        done()
    });
    let _worker = bench.worker(&spec, decide);
    // What was committed but not yet seen when it was forgotten looks lost until then.
    let (coordinator, _) = bench.coordinator(|config| config.publish_again_after = Duration::from_millis(50));
    let end = within(coordinator.drive(&spec, &CancellationToken::new())).await.unwrap();
    let RunEnd::Finished(summary) = end else { panic!("finished") };
    assert_eq!(summary.done, 40);
}

#[tokio::test]
async fn a_paused_run_publishes_nothing_until_it_is_resumed() {
    let (bench, spec) = (Bench::new(), spec(6, 2));
    bench.submit(&spec).await;
    bench.decide(&spec, Act::Paused { reason: None }).await.unwrap();
    let _worker = bench.worker(&spec, Arc::new(|_, _| done()));
    let (coordinator, mut progress) = bench.coordinator(|_| ());
    let drain = CancellationToken::new();
    let resume = async {
        progress.wait_for(|progress| progress.state == RunState::Paused).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(list_all(bench.store.objects(), "commits/").await.unwrap().is_empty());
        bench.decide(&spec, Act::Resumed).await.unwrap();
    };
    let (end, ()) = within(async { tokio::join!(coordinator.drive(&spec, &drain), resume) }).await;
    assert!(matches!(end.unwrap(), RunEnd::Finished(_)));
}

#[tokio::test]
async fn a_cancelled_run_keeps_what_is_committed_and_the_rest_is_cancelled() {
    let (bench, spec) = (Bench::new(), spec(10, 3));
    bench.submit(&spec).await;
    bench.commit(&spec, ShardId { round: Round(0), index: 1 }, &(Arc::new(|_, _| done()) as Decide)).await;
    bench.decide(&spec, Act::Cancelled).await.unwrap();
    let (coordinator, _) = bench.coordinator(|_| ());
    let end = within(coordinator.drive(&spec, &CancellationToken::new())).await.unwrap();
    let RunEnd::Cancelled(summary) = end else { panic!("cancelled") };
    assert_eq!((summary.done, summary.failed, summary.failures["cancelled"]), (3, 7, 7));
    assert_eq!(indices(&bench.lines("results.jsonl")), [3, 4, 5]);
    assert_eq!(indices(&bench.lines("errors.jsonl")), [0, 1, 2, 6, 7, 8, 9]);
}

#[tokio::test]
async fn neither_a_pause_nor_a_resume_at_the_same_moment_undoes_a_cancel() {
    let (bench, spec) = (Bench::new(), spec(4, 2));
    bench.submit(&spec).await;
    let before = bench.history().await;
    bench.decide(&spec, Act::Cancelled).await.unwrap();
    // Both had looked at the run before it was cancelled, and write what they decided after.
    for act in [Act::Resumed, Act::Paused { reason: Some("a fault of its own".to_owned()) }] {
        let mut late = before.clone();
        let refused = bench.backends.decide(&bench.store, &spec.run, &mut late, "late", act).await.unwrap_err();
        assert!(matches!(refused, DecideError::Refused(Refused::Illegal { .. })), "{refused}");
        assert_eq!(late, bench.history().await, "whoever is late learns what was decided");
    }
    let (coordinator, _) = bench.coordinator(|_| ());
    let end = within(coordinator.drive(&spec, &CancellationToken::new())).await.unwrap();
    assert!(matches!(end, RunEnd::Cancelled(_)), "{end:?}");
}

#[tokio::test]
async fn a_drained_coordinator_stops_and_the_next_one_goes_on() {
    let (bench, spec) = (Bench::new(), spec(4, 2));
    bench.submit(&spec).await;
    let (coordinator, _) = bench.coordinator(|_| ());
    let drain = CancellationToken::new();
    drain.cancel();
    assert_eq!(within(coordinator.drive(&spec, &drain)).await.unwrap(), RunEnd::Drained);
    assert!(matches!(bench.drive(&spec, Arc::new(|_, _| done())).await, RunEnd::Finished(_)));
}

#[tokio::test]
async fn a_shard_that_cannot_be_read_ends_the_run_with_its_name() {
    let (bench, spec) = (Bench::new(), spec(4, 2));
    bench.submit(&spec).await;
    let shard = |index| ShardId { round: Round(0), index };
    let input = ObjectKey::Input(shard(1), bench.history().await.rounds()[0].inputs.clone());
    bench.store.objects().put(&bench.store.path(&input), Bytes::from_static(b"{\"index\":")).await.unwrap();
    let queue = bench.backends.queue.clone();
    let pool = spec.pool.clone();
    let dead = async {
        let mut consumer = queue.consume(&pool, 2).await.unwrap();
        for _ in 0..2 {
            consumer.next().await.unwrap().settle(Settlement::DeadLetter).await.unwrap();
        }
    };
    let (coordinator, _) = bench.coordinator(|_| ());
    let drain = CancellationToken::new();
    let (end, ()) = within(async { tokio::join!(coordinator.drive(&spec, &drain), dead) }).await;
    let error = end.unwrap_err().to_string();
    assert!(error.starts_with("shard r0-000001 cannot be used"), "{error}");
    // The other dead letter could be read: its tasks failed, and may be tried again.
    let marker = bench.store.marker(shard(0)).await.unwrap().unwrap();
    assert!(marker.outcomes.iter().all(|o| matches!(&o.outcome, Outcome::Failed(error) if error.retryable)));
}

#[tokio::test]
async fn rows_that_were_refused_end_in_the_errors_and_finalising_twice_gives_the_same() {
    let (bench, mut spec) = (Bench::new(), spec(2, 2));
    spec.invalid_rows = 1;
    let issue = ManifestIssue {
        line: 7,
        code: "wrong_type".to_owned(),
        message: "3 is not a string".to_owned(),
        param: Some("prompt".to_owned()),
        custom_id: None,
    };
    let with_issue = Submission { invalid: vec![issue], ..submission(&spec) };
    submit(&bench.backends, &bench.store, "test", with_issue).await.unwrap();
    bench.store.objects().put("shards/r0-000000.0a.tar", Bytes::from_static(b"orphan")).await.unwrap();
    let RunEnd::Finished(first) = bench.drive(&spec, Arc::new(|_, _| done())).await else { panic!("finished") };
    let errors = bench.lines("errors.jsonl");
    assert_eq!((errors.len(), &errors[0]["status"], &errors[0]["line"]), (1, &"invalid".into(), &7.into()));
    assert!(list_all(bench.store.objects(), "shards/").await.unwrap().is_empty(), "no marker names the orphan");
    let (history, name) = (bench.history().await, AttemptId::generate());
    let again = finalise(&bench.store, &spec, &history, bench.scratch(), &name).await.unwrap();
    assert_eq!((Some(&again), &again.summary), (history.ended(), &first));
    assert_eq!(bench.store.read_json(&ObjectKey::Summary).await.unwrap(), Some(first), "for whoever looks into it");
}

#[tokio::test]
async fn a_run_of_no_tasks_ends_at_once() {
    let (bench, spec) = (Bench::new(), spec(0, 4));
    bench.submit(&spec).await;
    let RunEnd::Finished(summary) = bench.drive(&spec, Arc::new(|_, _| done())).await else { panic!("finished") };
    assert_eq!((summary.tasks, summary.done, summary.pictures_per_second), (0, 0, 0.0));
}

#[tokio::test(start_paused = true)]
async fn the_wait_before_a_round_is_kept_across_a_restart() {
    let (bench, mut spec) = (Bench::new(), spec(1, 1));
    spec.retry.delay_seconds = 3600.0;
    bench.submit(&spec).await;
    let _worker = bench.worker(&spec, Arc::new(|_, round| if round == 0 { failed(true) } else { done() }));
    let half_an_hour = Duration::from_secs(1800);
    for _ in 0..2 {
        let (coordinator, _) = bench.coordinator(|config| config.poll = Duration::from_secs(1));
        let drain = CancellationToken::new();
        tokio::time::timeout(half_an_hour, coordinator.drive(&spec, &drain)).await.expect_err("the round waits");
        assert_eq!(bench.history().await.rounds().len(), 2);
        assert_eq!(bench.store.marker(ShardId { round: Round(1), index: 0 }).await.unwrap(), None);
    }
    let (coordinator, _) = bench.coordinator(|config| config.poll = Duration::from_secs(1));
    let end = tokio::time::timeout(half_an_hour * 3, coordinator.drive(&spec, &CancellationToken::new())).await;
    assert!(matches!(end.unwrap().unwrap(), RunEnd::Finished(_)));
}

#[tokio::test(start_paused = true)]
async fn a_clock_an_hour_ahead_delays_a_round_by_no_more_than_its_delay() {
    let (bench, mut spec) = (Bench::new(), spec(1, 1));
    spec.retry.delay_seconds = 5.0;
    bench.submit(&spec).await;
    let shard = ShardId { round: Round(0), index: 0 };
    bench.commit(&spec, shard, &(Arc::new(|_, _| failed(true)) as Decide)).await;
    let mut round = rounds::next(&bench.store, &spec, &bench.history().await).await.unwrap().unwrap();
    round.not_before += jiff::SignedDuration::from_hours(1);
    bench.decide(&spec, Act::RoundOpened { round }).await.unwrap();
    let begun = tokio::time::Instant::now();
    assert!(matches!(bench.drive(&spec, Arc::new(|_, _| done())).await, RunEnd::Finished(_)));
    assert!((5..8).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
}
