//! The fleet in one process, with the synthetic generator, against every fault of the store that one process can
//! simulate. What a real SIGKILL leaves behind is tested in `tests/system/faults.rs`.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use diorama_backends::objects::ObjectErrorKind;
use diorama_backends::objects::faulty::{Fault, FaultyObjects, Rule};
use diorama_core::generator::{BatchKey, Generated, Generator, GeneratorError, Job};
use diorama_core::id::{CustomId, Pool, RunId, Seed, Sha256Hex, TaskIndex};
use diorama_core::marker::CommitMarker;
use diorama_core::outcome::TaskError;
use diorama_core::record::GeneratorInfo;
use diorama_core::retry::RetryPolicy;
use diorama_core::run::{Labels, OutputFormat, RunSummary};
use diorama_core::settings::{Method, Settings};
use diorama_core::task::Task;
use diorama_engine::{SyntheticGenerator, SyntheticOptions};
use diorama_runtime::logging::{self, LogFormat};
use diorama_worker::device::Engine;
use jiff::Timestamp;
use serde_json::Value;

use super::*;

const TASKS: u64 = 5;

const SHARD_SIZE: u64 = 2;

/// Makes synthetic pictures of batches that a test looks at first.
struct Watched<F> {
    inner: SyntheticGenerator,
    look: F,
}

impl<F: FnMut(&[Job]) + Send> Watched<F> {
    fn new(look: F) -> Self {
        let options = SyntheticOptions { batch_size: 2, ..SyntheticOptions::default() };
        Self { inner: SyntheticGenerator::new(options), look }
    }
}

impl<F: FnMut(&[Job]) + Send> Generator for Watched<F> {
    fn info(&self) -> &GeneratorInfo {
        self.inner.info()
    }

    fn check(&self, task: &Task) -> Result<BatchKey, TaskError> {
        self.inner.check(task)
    }

    fn generate(
        &mut self,
        batch: &[Job],
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Vec<Result<Generated, TaskError>>, GeneratorError> {
        (self.look)(batch);
        self.inner.generate(batch, stop)
    }
}

/// A run of one folder, as often as it takes.
struct Bench {
    folder: tempfile::TempDir,
    format: OutputFormat,
    made: Arc<Mutex<Vec<String>>>,
}

impl Bench {
    fn new(format: OutputFormat) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), format, made: Arc::default() }
    }

    fn plan(&self) -> Plan {
        let made = self.made.clone();
        let generator = Watched::new(move |batch: &[Job]| {
            made.lock().unwrap().extend(batch.iter().map(|job| job.task.custom_id.to_string()));
        });
        let settings = Settings { method: Some(Method::Txt2img), ..Settings::default() };
        let task = |index: u64| Task {
            index: TaskIndex(index),
            custom_id: CustomId::new(format!("t{index}")).unwrap(),
            reference: None,
            region: None,
            prompt: "a duck".to_owned(),
            subjects: None,
            seed: Seed::new(index + 1).unwrap(),
            settings: Settings { method: Some(Method::Txt2img), ..Settings::default() },
            extra: Default::default(),
        };
        let spec = RunSpec {
            version: 1,
            owner: None,
            request_sha256: None,
            run: RunId::new("run").unwrap(),
            pool: Pool::new("pool").unwrap(),
            submitted_at: Timestamp::UNIX_EPOCH,
            manifest: "manifest.jsonl".to_owned(),
            manifest_sha256: Sha256Hex::of(b"manifest"),
            reference_root: ".".to_owned(),
            settings,
            seed: Seed::new(1).unwrap(),
            compare: Vec::new(),
            measures: Vec::new(),
            accept: None,
            format: self.format,
            shard_size: SHARD_SIZE as u32,
            tasks: TASKS,
            invalid_rows: 0,
            // A simulated death is a death: many of them must not make a shard poison here.
            retry: RetryPolicy { max_rounds: 1, delay_seconds: 0.0, poison_after: 1000 },
            keep_references: false,
            stop_if: None,
            model: Some(ModelIdentity::from(generator.info())),
            name: None,
            labels: Labels::new(),
            priority: 0,
            weight: 1,
        };
        Plan {
            spec,
            tasks: Box::new((0..TASKS).map(move |index| Ok(task(index)))),
            invalid: Vec::new(),
            engine: Box::new(move || Ok(Engine { generator: Box::new(generator), measurer: None })),
            limits: PictureLimits::default(),
            remote: None,
        }
    }

    /// Opens the folder. Of a process that died in a test, unlike one that was killed, a thread may still be writing the
    /// file that it was at.
    async fn open(&self) -> FolderObjects {
        let opened = async {
            loop {
                match FolderObjects::open(self.folder.path()) {
                    Err(error) if error.problem.starts_with("Directory not empty") => tokio::task::yield_now().await,
                    opened => return opened.unwrap(),
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), opened).await.expect("the dead write no more")
    }

    /// Runs to the end, or to the death that `rule` brings; says whether it was the end.
    async fn run(&self, rule: Rule) -> bool {
        self.run_plan(self.plan(), rule).await
    }

    async fn run_plan(&self, plan: Plan, rule: Rule) -> bool {
        let inner = self.open().await;
        let scratch = inner.scratch();
        let faulty = FaultyObjects::new(inner, rule);
        let mut death = faulty.death();
        let objects: Arc<dyn Objects> = Arc::new(Retrying::new(faulty));
        let (progress, _watched) = watch::channel(RunProgress::start(0));
        let run = run_on(services(objects), scratch, plan, CancellationToken::new(), progress);
        let ended = tokio::time::timeout(Duration::from_secs(60), async {
            tokio::select! {
                biased;
                Ok(_) = death.wait_for(|dead| *dead) => None,
                end = run => Some(end),
            }
        });
        match ended.await.expect("the run hangs") {
            None => false,
            Some(end) => {
                assert!(matches!(end.unwrap(), RunEnd::Finished(_)));
                true
            }
        }
    }

    /// The ids of tasks whose shard has its marker.
    fn committed(&self) -> BTreeSet<String> {
        let Ok(markers) = std::fs::read_dir(self.folder.path().join("commits")) else { return BTreeSet::new() };
        markers
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
            .flat_map(|path| {
                let marker: CommitMarker = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
                marker.outcomes.into_iter().map(|outcome| outcome.custom_id.to_string())
            })
            .collect()
    }

    /// What summary.json says, in its counts.
    fn summary(&self) -> (u64, u64, u64) {
        let summary = std::fs::read(self.folder.path().join("summary.json")).unwrap();
        let summary: RunSummary = serde_json::from_slice(&summary).unwrap();
        (summary.tasks, summary.done, summary.failed)
    }

    /// Every outcome without the archive's name, which belongs to the attempt.
    fn results(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.folder.path().join("results.jsonl")).unwrap();
        let line = |line: &str| {
            let mut value: Value = serde_json::from_str(line).unwrap();
            value.as_object_mut().unwrap().remove("archive");
            value
        };
        text.lines().map(line).collect()
    }
}

fn no_fault() -> Rule {
    Box::new(|_, _| Fault::None)
}

/// `fault` at the operation of this number, counted from 0.
fn at(number: usize, fault: Fault) -> Rule {
    let mut count = 0;
    Box::new(move |_, _| {
        count += 1;
        if count == number + 1 { fault } else { Fault::None }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_at_any_operation_of_the_store_loses_nothing_and_repeats_nothing_that_was_committed() {
    for format in [OutputFormat::Files, OutputFormat::Webdataset] {
        let undisturbed = Bench::new(format);
        assert!(undisturbed.run(no_fault()).await);
        let expected = undisturbed.results();
        assert_eq!(expected.len() as u64, TASKS);
        let mut deaths = 0;
        for number in 0.. {
            let mut died = false;
            for fault in [Fault::DieBefore, Fault::DieAfter] {
                let bench = Bench::new(format);
                died |= !bench.run(at(number, fault)).await;
                let committed = bench.committed();
                bench.made.lock().unwrap().clear();
                assert!(bench.run(no_fault()).await, "{format:?}, {fault:?} at operation {number}");
                let again: Vec<String> =
                    bench.made.lock().unwrap().iter().filter(|id| committed.contains(*id)).cloned().collect();
                assert_eq!(again, [""; 0], "{format:?}: committed, and made again after {fault:?} at {number}");
                assert_eq!(bench.results(), expected, "{format:?}, {fault:?} at operation {number}");
                assert_eq!(bench.summary(), (TASKS, TASKS, 0), "{format:?}, {fault:?} at operation {number}");
            }
            if !died {
                break;
            }
            deaths += 1;
        }
        assert!(deaths > 20, "the run has only {deaths} operations");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_that_fails_for_a_moment_is_tried_again_and_changes_nothing() {
    let undisturbed = Bench::new(OutputFormat::Webdataset);
    assert!(undisturbed.run(no_fault()).await);
    let bench = Bench::new(OutputFormat::Webdataset);
    // Each operation on each key fails the first time.
    let mut seen = BTreeSet::new();
    let rule = move |operation: &'static str, key: &str| {
        let first = seen.insert(format!("{operation} {key}"));
        if first { Fault::Fail(ObjectErrorKind::Transient) } else { Fault::None }
    };
    assert!(bench.run(Box::new(rule)).await);
    assert_eq!(bench.results(), undisturbed.results());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_shard_is_fetched_while_the_device_works_on_the_last_one() {
    let bench = Bench::new(OutputFormat::Webdataset);
    let read = Arc::<(Mutex<BTreeSet<String>>, Condvar)>::default();
    let in_vain = Arc::<Mutex<Vec<u64>>>::default();
    let (read_by_now, waited_in_vain) = (read.clone(), in_vain.clone());
    let mut begun = BTreeSet::new();
    // Keeps the device busy with a shard, whichever is first, until the input of another one was read, as long as there
    // is another one.
    let generator = Watched::new(move |batch: &[Job]| {
        let here = batch[0].task.index.0 / SHARD_SIZE;
        begun.insert(here);
        let others: Vec<_> = (0..TASKS.div_ceil(SHARD_SIZE)).filter(|shard| !begun.contains(shard)).collect();
        if others.is_empty() {
            return;
        }
        let (read, changed) = &*read_by_now;
        let is_read = |read: &BTreeSet<String>, shard: &u64| {
            read.iter().any(|key| key.starts_with(&format!("input/r0-{shard:06}.")))
        };
        let missing = |read: &mut BTreeSet<String>| !others.iter().any(|shard| is_read(read, shard));
        let waited = changed.wait_timeout_while(read.lock().unwrap(), Duration::from_secs(30), missing).unwrap();
        if waited.1.timed_out() {
            waited_in_vain.lock().unwrap().push(here);
        }
    });
    let engine: MakeEngine = Box::new(move || Ok(Engine { generator: Box::new(generator), measurer: None }));
    let plan = Plan { engine, ..bench.plan() };
    let rule: Rule = Box::new(move |operation, key| {
        if operation == "get" {
            read.0.lock().unwrap().insert(key.to_owned());
            read.1.notify_all();
        }
        Fault::None
    });
    assert!(bench.run_plan(plan, rule).await);
    assert_eq!(*in_vain.lock().unwrap(), [0; 0], "while the device was busy with these, no other shard was fetched");
}

#[tokio::test]
async fn what_is_there_is_known_by_the_log_and_a_run_that_has_ended_shows_its_summary_again() {
    let bench = Bench::new(OutputFormat::Files);
    let folder = RunFolder::open(bench.folder.path()).unwrap();
    assert_eq!(folder.existing().await.unwrap(), None);
    let (progress, _watched) = watch::channel(RunProgress::start(0));
    let end = folder.run(folder.services(), bench.plan(), CancellationToken::new(), progress).await.unwrap();
    let RunEnd::Finished(summary) = end else { panic!("{end:?}") };
    let existing = folder.existing().await.unwrap().unwrap();
    assert!(existing.history.is_submitted());
    assert_eq!(existing.history.ended().map(|ended| &ended.summary), Some(&summary));

    // As after a crash right behind the decision.
    std::fs::remove_file(bench.folder.path().join("summary.json")).unwrap();
    bench.made.lock().unwrap().clear();
    let (progress, _watched) = watch::channel(RunProgress::start(0));
    let again = folder.run(folder.services(), bench.plan(), CancellationToken::new(), progress).await.unwrap();
    assert_eq!((again, bench.summary()), (RunEnd::Finished(summary), (TASKS, TASKS, 0)));
    assert!(bench.made.lock().unwrap().is_empty(), "it was made again");
}

/// What is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_line_about_a_fault_in_a_worker_names_run_shard_and_worker() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = logging::subscriber(LogFormat::Json, None, move || writer.clone()).unwrap();
    // For the whole process: what other tests log at the same time has other names.
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let bench = Bench::new(OutputFormat::Webdataset);
    // The store knows nothing of runs and shards.
    let mut failed = false;
    let rule = move |_: &'static str, key: &str| {
        let fails = key.starts_with("commits/r0-000001") && !std::mem::replace(&mut failed, true);
        if fails { Fault::Fail(ObjectErrorKind::Transient) } else { Fault::None }
    };
    assert!(bench.run(Box::new(rule)).await);
    let lines = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let mut lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let said = |line: &Value| line["message"] == "the object store failed; trying again" && line["worker"].is_string();
    let fault = lines.find(said).unwrap();
    assert_eq!((&fault["run"], &fault["shard"]), (&"run".into(), &"r0-000001".into()), "{fault}");
    assert!(fault["worker"].as_str().unwrap().starts_with("embedded-"), "{fault}");
}

#[test]
fn a_lock_that_is_a_link_is_not_written_through() {
    let (folder, mine) = (tempfile::tempdir().unwrap(), tempfile::NamedTempFile::new().unwrap());
    std::fs::write(mine.path(), "mine").unwrap();
    std::os::unix::fs::symlink(mine.path(), folder.path().join(".lock")).unwrap();
    assert!(matches!(RunFolder::open(folder.path()), Err(EmbeddedError::Lock { .. })));
    assert_eq!(std::fs::read(mine.path()).unwrap(), b"mine");
}
