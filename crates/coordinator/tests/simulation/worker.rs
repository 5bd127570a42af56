//! A worker as the protocol has it, without pictures: what it makes of a task is its outcome.

use std::time::Duration;

use bytes::Bytes;
use diorama_backends::progress::Holder;
use diorama_backends::queue::{Delivery, Settlement};
use diorama_core::id::{AttemptId, Pool, Sha256Hex, WorkerId};
use diorama_core::key::{Folder, ObjectKey, RunRoot};
use diorama_core::marker::{CommitMarker, settings_digest};
use diorama_core::outcome::{ErrorCode, FileRef, Outcome, TaskError, TaskOutcome};
use diorama_core::run::{ModelIdentity, RunState};
use diorama_core::task::Task;
use diorama_protocol::count::count_marker;
use diorama_protocol::decision::Act;
use diorama_protocol::{Backends, RunStore};
use jiff::Timestamp;

use crate::store::World;

/// Takes shards until it is dropped.
pub(crate) async fn work(world: std::sync::Arc<World>, backends: Backends, name: String, pool: Pool) {
    let Ok(mut consumer) = backends.queue.consume(&pool, 2).await else { return };
    loop {
        let Ok(delivery) = consumer.next().await else { continue };
        let settlement = match attempt(&world, &backends, &name, &delivery).await {
            Ok(settlement) => settlement,
            Err(_) => Settlement::HandBack,
        };
        // Whoever has it by now finds the marker.
        let _ = delivery.settle(settlement).await;
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn attempt(world: &World, backends: &Backends, name: &str, delivery: &Delivery) -> Result<Settlement, Failure> {
    let (run, shard) = (&delivery.message.run, delivery.message.shard);
    let store = RunStore::shared(backends.objects.clone(), run);
    let Some(spec) = store.spec().await? else { return Ok(Settlement::Ack) };
    let mut history = store.history().await?;
    if !history.wants_work() || !history.is_under_way(shard) || store.marker(shard).await?.is_some() {
        return Ok(Settlement::Ack);
    }
    let model = ModelIdentity { sha256: "model".to_owned(), dtype: "f32".to_owned() };
    backends.decide(&store, run, &mut history, name, Act::Bound { model: model.clone() }).await?;
    let Some(round) = history.round(shard.round).cloned() else { return Ok(Settlement::Ack) };
    let Some(tasks) = store.input(shard, &round.inputs).await? else { return Err("no input".into()) };
    let attempt = AttemptId::generate();
    let worker = WorkerId::new(name)?;
    let holder = Holder { worker: worker.clone(), attempt: attempt.clone(), done: 0, failed: 0 };
    let started_at = Timestamp::now();
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
    let root = RunRoot::Shared(run.clone());
    let file = |task: &Task| {
        let id = task.custom_id.clone();
        ObjectKey::File(shard, attempt.clone(), Folder::Images, id, ".png".to_owned()).relative(&root)
    };
    let bytes = Bytes::from(attempt.to_string());
    let outcome = |task: &Task| TaskOutcome {
        task: task.index,
        custom_id: task.custom_id.clone(),
        seed: task.seed,
        outcome: match world.roll(10) {
            0 => Outcome::Failed(TaskError::transient(ErrorCode::ModelError, "busy")),
            1 => Outcome::Failed(TaskError::permanent(ErrorCode::NoSubject, "no noun")),
            _ => {
                let image = FileRef { path: file(task), sha256: Sha256Hex::of(&bytes), bytes: bytes.len() as u64 };
                Outcome::Done {
                    archive: None,
                    files: [("image".to_owned(), image)].into(),
                    mask_coverage: None,
                    scores: [].into(),
                    warnings: Vec::new(),
                }
            }
        },
    };
    let outcomes: Vec<TaskOutcome> = tasks.iter().map(outcome).collect();
    for task in &tasks {
        backends.objects.put(&store.relative(&file(task)), bytes.clone()).await?;
    }
    let marker = CommitMarker {
        version: 2,
        run: run.clone(),
        shard,
        attempt: attempt.clone(),
        worker,
        model: Some(model),
        settings: settings_digest(&spec),
        archives: Vec::new(),
        outcomes,
        started_at,
        committed_at: Timestamp::now(),
        device_seconds: 1.0,
    };
    let winner = backends.commit(&store, marker).await?;
    let _ = count_marker(&*backends.progress, run, &winner, history.budget(shard.round, &spec.retry)).await;
    if winner.attempt != attempt {
        for task in &tasks {
            backends.objects.delete(&store.relative(&file(task))).await?;
        }
    }
    let _ = backends.progress.release(run, shard, &attempt).await;
    Ok(Settlement::Ack)
}
