use diorama_backends::objects::embedded::FolderObjects;
use diorama_backends::objects::list_all;
use diorama_core::id::Round;
use diorama_core::key::ObjectKey;

use super::*;
use crate::journal::Journal;
use crate::tests::{run_id, spec};

struct Case {
    folder: tempfile::TempDir,
    objects: Arc<dyn Objects>,
    store: RunStore,
}

const SHARD: ShardId = ShardId { round: Round(0), index: 0 };

fn attempt(name: &str) -> AttemptId {
    AttemptId::new(name).unwrap()
}

impl Case {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("scratch")).unwrap();
        let objects: Arc<dyn Objects> = Arc::new(FolderObjects::open(&folder.path().join("objects")).unwrap());
        let store = RunStore::shared(objects.clone(), &run_id("r"));
        store
            .write_json(&ObjectKey::Spec, &spec(&run_id("r"), diorama_core::run::OutputFormat::Files, 2))
            .await
            .unwrap();
        Self { folder, objects, store }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("scratch")
    }

    /// A worker's folder, with an attempt in flight.
    async fn open(&self, name: &str) -> Scratch {
        let scratch = Scratch::open(&self.root(), &WorkerId::new(name).unwrap()).unwrap();
        scratch.note(&run_id("r"), SHARD, &attempt(name)).await;
        fs::write(scratch.path().join("archive-1"), "half an archive").unwrap();
        scratch
    }

    /// Kills the worker: its lock is freed, and nothing is cleared.
    fn kill(&self, mut scratch: Scratch) -> PathBuf {
        drop(scratch.lock.take());
        scratch.path().to_owned()
    }

    async fn sweep(&self) -> u32 {
        Scratch::sweep(&self.root(), self.objects.clone()).await.unwrap()
    }

    async fn deaths(&self) -> usize {
        list_all(&*self.objects, "runs/r/journal/").await.unwrap().len()
    }
}

#[tokio::test]
async fn what_a_killed_worker_left_is_collected_and_its_attempts_are_proven_dead() {
    let case = Case::new().await;
    let killed = case.kill(case.open("killed").await);
    let living = case.open("living").await;
    assert_eq!(case.sweep().await, 1);
    assert!(!killed.exists() && living.path().join("archive-1").exists());
    assert_eq!(case.deaths().await, 1);
    let worker = WorkerId::new("w").unwrap();
    let exclusive = diorama_protocol::Exclusive::ConditionalPut;
    Journal::begin(&case.store, SHARD, &attempt("first"), &worker, exclusive).await.unwrap();
    let journal = Journal::begin(&case.store, SHARD, &attempt("ours"), &worker, exclusive).await.unwrap();
    assert_eq!(journal.traces(false).iter().filter(|trace| trace.is_dead).count(), 1);
}

#[tokio::test]
async fn a_machine_that_went_down_proves_nothing() {
    let case = Case::new().await;
    let killed = case.kill(case.open("killed").await);
    fs::write(killed.join(LOCK), "another boot").unwrap();
    assert_eq!(case.sweep().await, 1);
    assert!(!killed.exists());
    assert_eq!(case.deaths().await, 0);
}

#[tokio::test]
async fn nothing_is_said_of_a_shard_that_is_committed_or_of_a_run_that_is_gone() {
    let case = Case::new().await;
    case.kill(case.open("killed").await);
    case.store.delete(&ObjectKey::Spec).await.unwrap();
    assert_eq!(case.sweep().await, 1);
    assert_eq!(case.deaths().await, 0);
}

#[tokio::test]
async fn a_worker_that_ends_leaves_nothing_and_an_attempt_that_ends_no_note() {
    let case = Case::new().await;
    let scratch = case.open("w").await;
    let path = scratch.path().to_owned();
    scratch.forget(&attempt("w")).await;
    assert!(!scratch.note_of(&attempt("w")).exists() && path.exists());
    drop(scratch);
    assert!(!path.exists());
    assert_eq!(case.sweep().await, 0);
}

#[test]
fn a_folder_that_was_taken_for_an_abandoned_one_is_not_used() {
    let root = tempfile::tempdir().unwrap();
    let sweeping = root.path().join(LOCK);
    let _theirs = lock_new(root.path()).unwrap();
    fs::remove_file(&sweeping).unwrap();
    let ours = lock_new(root.path()).unwrap();
    assert!(sweeping.exists());
    drop(ours);
    // Two that make the same one: the second learns it.
    assert!(lock_new(root.path()).is_err());
}
