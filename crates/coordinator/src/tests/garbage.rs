//! What belongs to nobody is collected once it is old, and nothing else is.

use std::collections::BTreeSet;

use diorama_core::key::SharedKey;

use super::unkind::{Hook, Hooked, MemoryObjects};
use super::verify::{commit_round, pictures_spec, submit_pictures};
use super::*;
use crate::{Collected, Grace, collect, delete, verify};

const GRACE: Grace = Grace(Duration::from_secs(24 * 3600));

struct Store {
    objects: Arc<MemoryObjects>,
    bench: Bench,
    spec: RunSpec,
}

impl Store {
    /// A store with an ended run that is in the index.
    async fn new(format: OutputFormat) -> Self {
        let objects = Arc::new(MemoryObjects::default());
        let (bench, spec) = (Bench::shared(objects.clone()), pictures_spec(format));
        submit_pictures(&bench, &spec).await;
        commit_round(&bench, &spec).await;
        let (coordinator, _) = bench.coordinator(|_| ());
        within(coordinator.drive(&spec, &CancellationToken::new())).await.unwrap();
        let store = Self { objects, bench, spec };
        store.put(&SharedKey::Submitted(store.spec.run.clone()).to_string(), "").await;
        store
    }

    async fn put(&self, key: &str, content: &str) {
        self.bench.backends.objects.put(key, content.to_owned().into()).await.unwrap();
    }

    fn keys(&self) -> BTreeSet<String> {
        self.objects.all().keys().cloned().collect()
    }

    async fn collect(&self, dry: bool) -> Collected {
        collect(&self.bench.backends, "test", GRACE, dry).await.unwrap()
    }

    /// Nothing of what was added since `before` is removed while it is young; then a dry run names what is removed, and
    /// all of it is, whatever was there before stays.
    async fn collects(&self, before: &BTreeSet<String>, what: &str) -> Collected {
        let with_garbage = self.keys();
        assert!(self.collect(false).await.is_empty(), "{what}: it is young");
        assert_eq!(self.keys(), with_garbage, "{what}: it is young");
        self.objects.grow_old(25);
        let said = self.collect(true).await;
        assert!(!said.is_empty(), "{what}");
        assert_eq!(self.keys(), with_garbage, "{what}: a dry run changes nothing");
        assert_eq!(self.collect(false).await, said, "{what}");
        assert_eq!(self.keys(), *before, "{what}");
        assert_eq!(self.collect(false).await, Collected::default(), "{what}: there is nothing left");
        self.is_whole().await;
        said
    }

    async fn is_whole(&self) {
        let bench = &self.bench;
        let found = verify(&bench.backends, &bench.store, &self.spec, &bench.history().await, None).await.unwrap();
        assert_eq!((found.problems, found.ended), (vec![], true));
    }
}

#[tokio::test]
async fn what_attempts_rounds_and_endings_left_that_do_not_count_is_collected_when_it_is_old() {
    for format in [OutputFormat::Webdataset, OutputFormat::Files] {
        let store = Store::new(format).await;
        let (before, other) = (store.keys(), AttemptId::generate());
        let shard = |round| ShardId { round: Round(round), index: 0 };
        let id = CustomId::new("t0").unwrap();
        let left = [
            ObjectKey::Results(other.clone()),
            ObjectKey::Errors(other.clone()),
            ObjectKey::Void(other.clone()),
            ObjectKey::Input(shard(1), other.clone()),
            ObjectKey::Input(shard(2), other.clone()),
            ObjectKey::InvalidRows(other.clone()),
            ObjectKey::Archive(shard(0), other.clone()),
            ObjectKey::Part(shard(1), other.clone()),
            ObjectKey::Journal(shard(0), other.clone(), 3),
            ObjectKey::File(shard(0), other, diorama_core::key::Folder::Images, id, ".png".to_owned()),
        ];
        for key in &left {
            store.put(&store.bench.store.path(key), "left behind").await;
        }
        let said = store.collects(&before, "leftovers").await;
        assert_eq!((said.runs, said.leftovers, said.idempotency), (0, 10, 0));
        assert_eq!(said.keys.len(), 10);
    }
}

#[tokio::test]
async fn what_appears_under_the_name_of_a_deleted_run_is_collected_when_it_is_old() {
    let store = Store::new(OutputFormat::Webdataset).await;
    let before = store.keys();
    let spec = RunSpec { run: RunId::new("deleted").unwrap(), ..spec(2, 1) };
    let run = RunStore::shared(store.bench.backends.objects.clone(), &spec.run);
    store.put(&SharedKey::Submitted(spec.run.clone()).to_string(), "").await;
    submit(&store.bench.backends, &run, "test", submission(&spec)).await.unwrap();
    let mut history = run.history().await.unwrap();
    let backends = &store.bench.backends;
    backends.decide(&run, &spec.run, &mut history, "test", Act::Cancelled).await.unwrap();
    let coordinator = CoordinatorConfig::new(store.bench.scratch().to_owned());
    let (watchers, _) = watch::channel(RunProgress::start(2));
    Coordinator::new(backends.clone(), run.clone(), coordinator, watchers)
        .drive(&spec, &CancellationToken::new())
        .await
        .unwrap();
    delete::delete(backends, &run, &spec.run, &mut history, "test").await.unwrap();
    delete::carry_out(backends, &run, &spec.run).await.unwrap();
    assert!(run.history().await.unwrap().is_deleted(), "a late worker learns from the log that it is gone");

    for key in ["shards/r0-000000.0a.tar", "commits/r0-000000.json"] {
        store.put(&run.relative(key), "late").await;
    }
    let said = store.collects(&before, "a deleted run").await;
    assert_eq!((said.runs, said.leftovers), (1, 0));
}

#[tokio::test]
async fn objects_of_a_run_that_nobody_knows_are_collected_when_all_of_them_are_old() {
    let store = Store::new(OutputFormat::Webdataset).await;
    let before = store.keys();
    store.put("runs/stray/shards/r0-000000.0a.tar", "late").await;
    store.objects.grow_old(25);
    store.put("runs/stray/shards/r0-000001.0a.tar", "later").await;
    let said = store.collects(&before, "a stray run").await;
    assert_eq!((said.runs, said.keys), (1, vec!["runs/stray/".to_owned()]));
}

#[tokio::test]
async fn a_submission_that_was_never_completed_is_collected_when_it_is_old() {
    let store = Store::new(OutputFormat::Webdataset).await;
    let before = store.keys();
    let spec = RunSpec { run: RunId::new("half").unwrap(), ..spec(2, 1) };
    let run = RunStore::shared(store.bench.backends.objects.clone(), &spec.run);
    store.put(&SharedKey::Submitted(spec.run.clone()).to_string(), "").await;
    let cut = Box::new([Ok(task(0)), Err("the disk went away".into())].into_iter());
    let cut = Submission { spec, tasks: cut, invalid: Vec::new() };
    submit(&store.bench.backends, &run, "test", cut).await.unwrap_err();

    assert!(store.collect(false).await.is_empty(), "it is young");
    store.objects.grow_old(25);
    assert_eq!(store.collect(true).await.runs, 1);
    assert_eq!(store.collect(false).await.runs, 1);
    assert!(run.history().await.unwrap().is_deleted(), "its sender, should he live, learns that it is gone");
    let left: BTreeSet<_> = store.keys().difference(&before).cloned().collect();
    assert_eq!(left, ["index/deleted/half", "runs/half/decisions/000000.json"].map(str::to_owned).into());
    // Until the note of it is old, too.
    store.objects.grow_old(25);
    assert_eq!(store.collect(false).await.runs, 1);
    assert_eq!(store.keys(), before);
}

#[tokio::test]
async fn entries_that_lead_from_a_key_to_a_run_that_is_gone_are_collected_and_others_stay() {
    let store = Store::new(OutputFormat::Webdataset).await;
    let entry = |key: &[u8]| SharedKey::Idempotency(Sha256Hex::of(key), 0).to_string();
    store.put(&entry(b"live"), store.spec.run.as_str()).await;
    let before = store.keys();
    store.put(&entry(b"gone"), "gone").await;
    let said = store.collects(&before, "an idempotency entry").await;
    assert_eq!((said.idempotency, said.keys), (1, vec![entry(b"gone")]));
}

#[tokio::test]
async fn a_key_leads_to_a_run_no_longer_than_its_log_says_that_it_was_deleted() {
    let store = Store::new(OutputFormat::Webdataset).await;
    let (backends, run) = (&store.bench.backends, RunId::new("deleted").unwrap());
    let deleted = RunStore::shared(backends.objects.clone(), &run);
    let entry = SharedKey::Idempotency(Sha256Hex::of(b"key"), 0).to_string();
    store.put(&entry, run.as_str()).await;
    delete::delete(backends, &deleted, &run, &mut History::default(), "test").await.unwrap();
    delete::carry_out(backends, &deleted, &run).await.unwrap();
    store.objects.grow_old(25);
    // Whoever sends the same submission again while it is collected, or after the collector died, must get another id.
    let (log, all) = (deleted.path(&ObjectKey::Decision(0)), store.objects.clone());
    let watched: Hook = Box::new(move |_, key| {
        let there = |key: &str| all.all().contains_key(key);
        assert!(there(&log) || !there(&entry), "before {key}: the key leads to a run of which nobody knows");
        Box::pin(std::future::ready(()))
    });
    let objects = Arc::new(Hooked::before(backends.objects.clone(), watched));
    let said = collect(&Backends { objects, ..backends.clone() }, "test", GRACE, false).await.unwrap();
    assert_eq!((said.runs, said.idempotency), (1, 1));
    assert!(!store.keys().iter().any(|key| key.contains("deleted")), "{:?}", store.keys());
}

#[tokio::test]
async fn a_damaged_run_stays_as_it_is_and_does_not_keep_garbage_from_being_collected() {
    let store = Store::new(OutputFormat::Webdataset).await;
    store.put(&SharedKey::Submitted(RunId::new("damaged").unwrap()).to_string(), "").await;
    store.put("runs/damaged/decisions/000000.json", "{").await;
    let (before, blob) = (store.keys(), ObjectKey::Blob(Sha256Hex::of(b"x")).path(&RunRoot::Own));
    store.put("runs/stray/shards/r0-000000.0a.tar", "late").await;
    store.objects.grow_old(25);
    let said = store.collect(false).await;
    assert_eq!((said.runs, said.damaged.len()), (1, 1), "{said:?}");
    assert!(said.damaged[0].contains("runs/damaged/decisions/000000.json"), "{said:?}");
    assert_eq!(store.keys(), before);
    // It may name any blob.
    store.put(&blob, "x").await;
    store.objects.grow_old(25);
    let said = store.collect(false).await;
    assert_eq!((said.blobs, said.damaged.len()), (0, 2), "{said:?}");
    assert!(store.keys().contains(&blob));
}

#[tokio::test]
async fn what_a_process_tried_the_store_with_before_it_died_is_collected_when_it_is_old() {
    let store = Store::new(OutputFormat::Webdataset).await;
    let before = store.keys();
    store.put("probe/0a", "first").await;
    let said = store.collects(&before, "a probe").await;
    assert_eq!((said.leftovers, said.keys), (1, vec!["probe/0a".to_owned()]));
}

#[tokio::test]
async fn unfinished_uploads_end_by_a_collection_and_not_by_a_dry_run() {
    let store = Store::new(OutputFormat::Webdataset).await;
    store.objects.unfinished.store(3, Ordering::SeqCst);
    assert_eq!(store.collect(true).await.uploads, 0);
    assert_eq!(store.collect(false).await.uploads, 3);
    assert!(store.collect(false).await.is_empty());
}

#[tokio::test]
async fn a_run_that_lost_its_entry_in_the_index_is_no_garbage_and_is_listed_again() {
    for noted in [false, true] {
        let store = Store::new(OutputFormat::Webdataset).await;
        let before = store.keys();
        let (run, all) = (&store.spec.run, &store.bench.backends.objects);
        all.delete(&SharedKey::Submitted(run.clone()).to_string()).await.unwrap();
        if noted {
            // Whoever was to delete it was refused, and died.
            store.put(&SharedKey::Deleted(run.clone()).to_string(), "").await;
        }
        store.objects.grow_old(25);
        let said = store.collect(true).await;
        assert_eq!((said.count(), said.damaged.len()), (0, 1), "{said:?}");
        store.collect(false).await;
        assert!(store.keys().is_superset(&before), "{:?}", before.difference(&store.keys()));
        store.is_whole().await;
    }
}

#[tokio::test]
async fn archives_that_cut_off_results_no_longer_name_are_no_garbage() {
    let store = Store::new(OutputFormat::Webdataset).await;
    store.objects.grow_old(25);
    let results = store.keys().into_iter().find(|key| key.ends_with("/results.jsonl")).unwrap();
    let first = |text: &Bytes| text.slice(..text.iter().position(|byte| *byte == b'\n').unwrap() + 1);
    store.objects.all().entry(results.clone()).and_modify(|text| *text = first(text));
    let before = store.keys();
    let said = store.collect(false).await;
    assert!(said.is_empty() && said.damaged[0].contains(&results), "{said:?}");
    assert_eq!(store.keys(), before);
}
