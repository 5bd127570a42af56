//! An uploaded reference goes when no run names it any more, and never under a run that does.

use diorama_core::key::SharedKey;
use diorama_core::task::Reference;

use super::unkind::{Hook, Hooked, MemoryObjects};
use super::*;
use crate::{Collected, Grace, collect, delete};

const GRACE: Grace = Grace(Duration::from_secs(24 * 3600));

/// More operations than a submission or a collection has here.
const ENOUGH: usize = 100;

fn picture(name: &str) -> Sha256Hex {
    Sha256Hex::of(name.as_bytes())
}

fn key(name: &str) -> String {
    ObjectKey::Blob(picture(name)).path(&RunRoot::Own)
}

/// A submission of a row for each of these pictures.
async fn submit_naming(bench: &Bench, run: &str, names: &[&str]) -> Result<RunStore, CoordinatorError> {
    let spec = RunSpec { run: RunId::new(run).unwrap(), ..spec(names.len() as u64, 2) };
    let store = RunStore::shared(bench.backends.objects.clone(), &spec.run);
    let row = |(index, name): (usize, &&str)| {
        Ok(Task { reference: Some(Reference::Blob(picture(name))), ..task(index as u64) })
    };
    let tasks: Vec<_> = names.iter().enumerate().map(row).collect();
    let note = SharedKey::Submitted(spec.run.clone()).to_string();
    bench.backends.objects.put(&note, Bytes::new()).await?;
    let submission = Submission { spec, tasks: Box::new(tasks.into_iter()), invalid: Vec::new() };
    submit(&bench.backends, &store, "test", submission).await.map(|_| store)
}

async fn upload(objects: &MemoryObjects, name: &str) {
    objects.put(&key(name), name.to_owned().into()).await.unwrap();
}

async fn collects(bench: &Bench, dry: bool) -> Collected {
    collect(&bench.backends, "test", GRACE, dry).await.unwrap()
}

#[tokio::test]
async fn a_blob_goes_when_it_is_old_and_no_run_names_it_any_more() {
    let objects = Arc::new(MemoryObjects::default());
    let bench = Bench::shared(objects.clone());
    for name in ["both", "first", "second", "nobody"] {
        upload(&objects, name).await;
    }
    let first = submit_naming(&bench, "one", &["both", "first", "both"]).await.unwrap();
    submit_naming(&bench, "two", &["second", "both"]).await.unwrap();
    assert!(collects(&bench, false).await.is_empty(), "they are young");

    objects.grow_old(25);
    let said = collects(&bench, true).await;
    assert_eq!((said.blobs, said.keys.clone()), (1, vec![key("nobody")]));
    assert!(objects.all().contains_key(&key("nobody")), "a dry run removes nothing");
    assert_eq!(collects(&bench, false).await, said);
    assert!(!objects.all().contains_key(&key("nobody")));
    assert!(collects(&bench, false).await.is_empty());

    let run = RunId::new("one").unwrap();
    let mut history = first.history().await.unwrap();
    bench.backends.decide(&first, &run, &mut history, "test", Act::Cancelled).await.unwrap();
    drive_to_its_end(&bench.backends, &first, &first.spec().await.unwrap().unwrap(), bench.scratch()).await;
    assert!(collects(&bench, false).await.is_empty(), "an ended run can be retried");
    let mut history = first.history().await.unwrap();
    delete::delete(&bench.backends, &first, &run, &mut history, "test").await.unwrap();
    delete::carry_out(&bench.backends, &first, &run).await.unwrap();
    let said = collects(&bench, false).await;
    assert_eq!((said.blobs, said.keys), (1, vec![key("first")]), "the other run has the rest");
}

#[tokio::test]
async fn a_manifest_that_names_what_is_not_there_becomes_no_run() {
    let objects = Arc::new(MemoryObjects::default());
    let bench = Bench::shared(objects.clone());
    upload(&objects, "there").await;
    let Err(error) = submit_naming(&bench, "one", &["there", "gone", "lost"]).await else { panic!("it was taken") };
    assert!(matches!(&error, CoordinatorError::UnknownBlobs { count: 2, first } if first.len() == 2), "{error}");
    assert!(error.to_string().contains(picture("gone").as_str()), "{error}");
    let store = RunStore::shared(objects.clone(), &RunId::new("one").unwrap());
    assert!(!store.history().await.unwrap().is_submitted());
    upload(&objects, "gone").await;
    upload(&objects, "lost").await;
    submit_naming(&bench, "one", &["there", "gone", "lost"]).await.unwrap();
}

#[tokio::test]
async fn a_blob_that_was_uploaded_again_while_it_was_about_to_be_removed_stays() {
    let objects = Arc::new(MemoryObjects::default());
    upload(&objects, "again").await;
    objects.grow_old(25);
    let uploaded = objects.clone();
    let upload_again: Hook = Box::new(move |operation, what| {
        let (objects, now) = (uploaded.clone(), operation == "put" && what.starts_with(SharedKey::COLLECTING));
        Box::pin(async move {
            if now {
                upload(&objects, "again").await;
            }
        })
    });
    let bench = Bench::shared(Arc::new(Hooked::before(objects.clone(), upload_again)));
    assert!(collects(&bench, false).await.is_empty());
    assert!(objects.all().contains_key(&key("again")));
    assert!(!objects.all().keys().any(|key| key.starts_with(SharedKey::COLLECTING)), "the note is gone");
}

/// A run that was taken has its reference; one that was refused is taken when it is sent again, with its reference.
async fn ends_well(objects: &Arc<MemoryObjects>, submitted: Result<RunStore, CoordinatorError>, place: &str) {
    match submitted {
        Ok(_) => {}
        Err(CoordinatorError::UnknownBlobs { .. } | CoordinatorError::BlobsGoing) => {
            let bench = Bench::shared(objects.clone());
            upload(objects, "old").await;
            let again = submit_naming(&bench, "one", &["old"]).await;
            assert!(again.is_ok(), "{place}: {:?}", again.err());
        }
        Err(error) => panic!("{place}: {error}"),
    }
    assert!(objects.all().contains_key(&key("old")), "{place}: a run names it, and it is gone");
}

async fn an_old_blob() -> Arc<MemoryObjects> {
    let objects = Arc::new(MemoryObjects::default());
    upload(&objects, "old").await;
    objects.grow_old(25);
    objects
}

#[tokio::test]
async fn a_collection_that_stands_still_anywhere_takes_no_reference_of_a_run_that_is_submitted_meanwhile() {
    let (mut taken, mut refused) = (0, 0);
    for number in 0..ENOUGH {
        let objects = an_old_blob().await;
        let (frozen, gate) = Hooked::frozen_at(objects.clone(), number);
        let bench = Bench::shared(Arc::new(frozen));
        let mut collecting = tokio::spawn(async move { collects(&bench, false).await });
        let stands_still = tokio::select! {
            biased;
            () = gate.reached() => true,
            done = &mut collecting => { done.unwrap(); false }
        };
        let submitted = submit_naming(&Bench::shared(objects.clone()), "one", &["old"]).await;
        match submitted {
            Ok(_) => taken += 1,
            Err(_) => refused += 1,
        }
        if !stands_still {
            ends_well(&objects, submitted, "when it is over").await;
            break;
        }
        gate.open();
        within(collecting).await.unwrap();
        ends_well(&objects, submitted, &format!("standing still before operation {number}")).await;
        assert!(number + 1 < ENOUGH, "it does not end");
    }
    assert!(taken > 0 && refused > 0, "both come about: {taken} taken, {refused} refused");
}

#[tokio::test]
async fn a_submission_that_stands_still_anywhere_keeps_its_references_or_is_refused() {
    for number in 0..ENOUGH {
        let objects = an_old_blob().await;
        let (frozen, gate) = Hooked::frozen_at(objects.clone(), number);
        let bench = Bench::shared(Arc::new(frozen));
        let mut submitting = tokio::spawn(async move { submit_naming(&bench, "one", &["old"]).await });
        let ended = tokio::select! {
            biased;
            () = gate.reached() => None,
            done = &mut submitting => Some(done.unwrap()),
        };
        collects(&Bench::shared(objects.clone()), false).await;
        let stands_still = ended.is_none();
        gate.open();
        let submitted = match ended {
            Some(submitted) => submitted,
            None => within(submitting).await.unwrap(),
        };
        ends_well(&objects, submitted, &format!("standing still before operation {number}")).await;
        if !stands_still {
            break;
        }
        assert!(number + 1 < ENOUGH, "it does not end");
    }
}

#[tokio::test]
async fn who_names_no_reference_does_not_depend_on_what_collections_note() {
    let objects = Arc::new(MemoryObjects::default());
    let bench = Bench::shared(objects.clone());
    upload(&objects, "there").await;
    objects.put("index/collecting/strange", Bytes::from_static(b"somebody else's")).await.unwrap();
    let named = submit_naming(&bench, "one", &["there"]).await.err();
    assert!(named.is_some_and(|error| error.to_string().contains("index/collecting/strange")), "it may name any");
    bench.submit(&spec(4, 2)).await;
    assert!(bench.history().await.is_submitted());
}
