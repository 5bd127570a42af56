//! Submission: what is cut off is done again, what differs is refused, what is complete is not touched.

use super::unkind::{Hook, Hooked, MemoryObjects};
use super::*;

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
    assert!(text.contains("; manifest's sha256: ") && text.contains("steps: unset there, 7 requested"), "{text}");
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

#[tokio::test(start_paused = true)]
async fn where_the_store_ignores_conditions_an_idempotency_key_names_one_run_all_the_same() {
    let objects = Arc::new(MemoryObjects::default());
    let there = objects.clone();
    let ignored: Hook = Box::new(move |operation, key| {
        let (there, key) = (there.clone(), key.to_owned());
        Box::pin(async move {
            if operation == "put_if_absent" {
                tokio::time::sleep(Duration::from_millis(100)).await;
                there.all().remove(&key);
            }
        })
    });
    let mut backends = Bench::shared(Arc::new(Hooked::before(objects, ignored))).backends;
    backends.exclusive = Exclusive::Claim;
    let key = Sha256Hex::of(b"key");
    let name = |run: &str| backends.name_run(&key, 0, RunId::new(run).unwrap());
    let (first, second) = tokio::join!(name("a"), name("b"));
    assert_eq!(first.unwrap(), second.unwrap());
}
