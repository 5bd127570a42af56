//! A worker as the protocol has it, without pictures: what it makes of a task is its outcome.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use diorama_backends::progress::Holder;
use diorama_backends::queue::{Delivery, Settlement};
use diorama_core::clock;
use diorama_core::id::{AttemptId, Pool, Sha256Hex, ShardId, WorkerId};
use diorama_core::key::{Folder, ObjectKey, RunRoot};
use diorama_core::marker::{CommitMarker, settings_digest};
use diorama_core::outcome::{ErrorCode, FileRef, Outcome, TaskError, TaskOutcome};
use diorama_core::run::{ModelIdentity, RunState};
use diorama_core::task::Task;
use diorama_protocol::count::count_marker;
use diorama_protocol::decision::Act;
use diorama_protocol::history::History;
use diorama_protocol::mutant::{Mutant, is_back};
use diorama_protocol::{Backends, RunStore};

use crate::world::World;

/// How long a worker keeps a shard that another one's model is wanted for.
const MISFIT: Duration = Duration::from_secs(1);

/// A worker.
pub(crate) struct Worker {
    pub(crate) world: Arc<World>,
    pub(crate) backends: Backends,
    pub(crate) name: String,
    pub(crate) pool: Pool,
    pub(crate) model: ModelIdentity,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Worker {
    /// Takes shards until it is dropped.
    pub(crate) async fn work(self) {
        let mut consumer = loop {
            match self.backends.queue.consume(&self.pool, 2).await {
                Ok(consumer) => break consumer,
                Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
            }
        };
        loop {
            let Ok(delivery) = consumer.next().await else { continue };
            let settlement = self.attempt(&delivery).await.unwrap_or(Settlement::HandBack);
            // Whoever has it by now finds the marker.
            let _ = delivery.settle(settlement).await;
        }
    }

    async fn attempt(&self, delivery: &Delivery) -> Result<Settlement, Failure> {
        let Self { world, backends, name, .. } = self;
        let (run, shard) = (&delivery.message.run, delivery.message.shard);
        let store = RunStore::shared(backends.objects.clone(), run);
        let Some(spec) = store.spec().await? else { return Ok(Settlement::Ack) };
        let mut history = store.history().await?;
        if !history.wants_work() || !history.is_under_way(shard) || store.marker(shard).await?.is_some() {
            return Ok(Settlement::Ack);
        }
        if !self.fits(&store, &mut history, delivery).await? {
            tokio::time::sleep(MISFIT).await;
            return Ok(Settlement::HandBack);
        }
        let Some(round) = history.round(shard.round).cloned() else { return Ok(Settlement::Ack) };
        let Some(tasks) = store.input(shard, &round.inputs).await? else { return Err("no input".into()) };
        let attempt = AttemptId::generate();
        let worker = WorkerId::new(name.as_str())?;
        let holder = Holder { worker: worker.clone(), attempt: attempt.clone(), done: 0, failed: 0 };
        let started_at = clock::now();
        for _ in 0..1 + world.roll(4) {
            let _ = backends.progress.hold(run, shard, &holder, Duration::from_secs(15)).await;
            tokio::time::sleep(Duration::from_millis(200 + world.roll(3000))).await;
            // Heard as by a real worker: through the progress service, or the log where that is away.
            let head = backends.progress.head(run).await;
            let state = match head {
                Ok(Some(head)) => Some(head.state),
                _ => store.history().await?.state(),
            };
            if state != Some(RunState::Running) {
                let _ = backends.progress.release(run, shard, &attempt).await;
                return Ok(Settlement::Ack);
            }
        }
        let made = self.make(&tasks, shard, &attempt, &RunRoot::Shared(run.clone()));
        for (path, bytes) in &made.files {
            backends.objects.put(&store.relative(path), bytes.clone()).await?;
        }
        let marker = CommitMarker {
            version: 2,
            run: run.clone(),
            shard,
            attempt: attempt.clone(),
            worker,
            model: Some(self.model.clone()),
            settings: settings_digest(&spec),
            archives: Vec::new(),
            outcomes: made.outcomes,
            started_at,
            committed_at: clock::now(),
            device_seconds: 1.0,
        };
        let winner = backends.commit(&store, marker).await?;
        let _ = count_marker(&*backends.progress, run, &winner, history.budget(shard.round, &spec.retry)).await;
        if winner.attempt != attempt {
            for (path, _) in &made.files {
                backends.objects.delete(&store.relative(path)).await?;
            }
        }
        let _ = backends.progress.release(run, shard, &attempt).await;
        Ok(Settlement::Ack)
    }

    /// Whether the run is bound to our model, as it is by the first worker. Where it is not, it is paused with the reason,
    /// unless its owner had it go on all the same.
    async fn fits(&self, store: &RunStore, history: &mut History, delivery: &Delivery) -> Result<bool, Failure> {
        let run = &delivery.message.run;
        let bind = Act::Bound { model: self.model.clone() };
        self.backends.decide(store, run, history, &self.name, bind).await?;
        if history.model() == Some(&self.model) || is_back(Mutant::ModelIsNotChecked) {
            return Ok(true);
        }
        let reason = format!("a worker serves {}", self.model);
        if !history.was_resumed_after(&reason) {
            let pause = Act::Paused { reason: Some(reason) };
            self.backends.decide(store, run, history, &self.name, pause).await?;
        }
        Ok(false)
    }

    /// Some tasks have a picture then, some have failed.
    fn make(&self, tasks: &[Task], shard: ShardId, attempt: &AttemptId, root: &RunRoot) -> Made {
        let shared = is_back(Mutant::FilesShareNames);
        let folder = if shared { AttemptId::new("all").unwrap() } else { attempt.clone() };
        let bytes = Bytes::from(attempt.to_string());
        let mut made = Made { files: Vec::new(), outcomes: Vec::new() };
        for task in tasks {
            let id = task.custom_id.clone();
            let outcome = match self.world.roll(10) {
                0 => Outcome::Failed(TaskError::transient(ErrorCode::ModelError, "busy")),
                1 => Outcome::Failed(TaskError::permanent(ErrorCode::NoSubject, "no noun")),
                _ => {
                    let path = ObjectKey::File(shard, folder.clone(), Folder::Images, id.clone(), ".png".to_owned());
                    let path = path.relative(root);
                    made.files.push((path.clone(), bytes.clone()));
                    let image = FileRef { path, sha256: Sha256Hex::of(&bytes), bytes: bytes.len() as u64 };
                    Outcome::Done {
                        archive: None,
                        files: [("image".to_owned(), image)].into(),
                        mask_coverage: None,
                        scores: [].into(),
                        warnings: Vec::new(),
                    }
                }
            };
            made.outcomes.push(TaskOutcome { task: task.index, custom_id: id, seed: task.seed, outcome });
        }
        made
    }
}

/// What came of a shard.
struct Made {
    files: Vec<(String, Bytes)>,
    outcomes: Vec<TaskOutcome>,
}
