//! One damaged or lost object, whichever it is, is named where anybody meets it and spoils nothing else: the list, other
//! runs, the leading coordinator, the collection of garbage.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use diorama_core::key::SharedKey;
use diorama_core::message::ShardMessage;
use serde_json::json;
use tower::ServiceExt;

use super::service::until;
use super::unkind::MemoryObjects;
use super::*;
use crate::api::{Api, router};
use crate::service::hand_over;
use crate::{Grace, collect, delete, verify};

/// What is damaged or lost.
const VICTIM: &str = "victim";

/// Names of which none is Diorama's, and a run of which there is only its name.
const STRANGE: [&str; 9] = [
    "blobs/strange",
    "index/active/not a run",
    "index/collecting/strange",
    "index/deleted/not a run",
    "index/idempotency/strange",
    "index/submitted/ghost",
    "index/submitted/not a run",
    "runs/0 not a run/strange",
    "runs/victim/input/blobs.strange",
];

/// A store with two runs of one pool, of which one is whole and goes on, and the other one has ended, or has not.
async fn store(ended: bool) -> Arc<MemoryObjects> {
    let objects = Arc::new(MemoryObjects::default());
    let bench = Bench::shared(objects.clone());
    bench.submit(&spec(4, 1)).await;
    let victim = RunSpec { run: RunId::new(VICTIM).unwrap(), ..spec(3, 1) };
    let victims = Bench { store: RunStore::shared(objects.clone(), &victim.run), ..Bench::shared(objects.clone()) };
    victims.submit(&victim).await;
    let (shard, attempt) = (|index| ShardId { round: Round(0), index }, AttemptId::new("0a").unwrap());
    victims.commit(&victim, shard(0), &(Arc::new(|_, _| done()) as Decide)).await;
    if ended {
        victims.decide(&victim, Act::Cancelled).await.unwrap();
        drive_to_its_end(&victims.backends, &victims.store, &victim, victims.scratch()).await;
    }
    let keys = [
        ObjectKey::FirstAttempt(shard(1)),
        ObjectKey::Journal(shard(1), attempt.clone(), 0),
        ObjectKey::Part(shard(1), attempt.clone()),
        ObjectKey::Archive(shard(1), attempt),
    ];
    let mut more = vec![
        ObjectKey::Blob(Sha256Hex::of(b"x")).path(&RunRoot::Own),
        SharedKey::Idempotency(Sha256Hex::of(b"k"), 0).to_string(),
    ];
    more.extend(keys.iter().map(|key| victims.store.path(key)));
    for run in [&victim.run, &spec(1, 1).run] {
        more.push(SharedKey::Submitted(run.clone()).to_string());
        more.push(SharedKey::Active(run.clone()).to_string());
    }
    for key in more {
        objects.put(&key, VICTIM.into()).await.unwrap();
    }
    objects
}

async fn get(api: &Arc<Api>, path: &str) -> (StatusCode, Value) {
    let request = Request::builder().uri(path).body(Body::empty()).unwrap();
    let response = router(api.clone()).oneshot(request).await.unwrap();
    let status = response.status();
    let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap())
}

/// Everything that is not the damaged run goes its way.
async fn the_rest_goes_on(objects: Arc<MemoryObjects>, damage: &str) {
    let (bench, spec) = (Bench::shared(objects.clone()), spec(4, 1));
    let api = bench.api();
    let in_list = async || {
        let (status, page) = get(&api, "/v1/runs").await;
        assert_eq!(status, StatusCode::OK, "{damage}: {page}");
        let runs = |part: &str| {
            let runs = page[part].as_array().into_iter().flatten();
            runs.map(|run| (run["run"].clone(), run["problem"].clone())).collect::<Vec<_>>()
        };
        (runs("runs"), runs("damaged"))
    };
    let (runs, damaged) = in_list().await;
    assert!(runs.iter().any(|(run, _)| *run == json!(spec.run)), "{damage}: {runs:?}");
    assert_eq!(get(&api, &format!("/v1/runs/{}", spec.run)).await.0, StatusCode::OK, "{damage}");
    for (run, problem) in damaged {
        assert_eq!(run, VICTIM, "{damage}");
        let what = damage.rsplit(' ').next().unwrap();
        assert!(problem.as_str().unwrap().contains(what), "{damage}: {problem}");
    }

    // The queue gave up a shard of the damaged run.
    let message = ShardMessage { run: RunId::new(VICTIM).unwrap(), shard: ShardId { round: Round(0), index: 1 } };
    bench.backends.queue.publish(&spec.pool, &message).await.unwrap();
    let mut consumer = bench.backends.queue.consume(&spec.pool, 1).await.unwrap();
    consumer.next().await.unwrap().settle(Settlement::DeadLetter).await.unwrap();
    drop(consumer);
    let _worker = bench.worker(&spec, Arc::new(|_, _| done()));
    until(&bench, Grace::default(), damage, async || bench.history().await.ended().is_some()).await;
    let history = bench.history().await;
    let found = verify(&bench.backends, &bench.store, &spec, &history, None).await.unwrap();
    assert_eq!((found.problems, found.done), (vec![], 4), "{damage}");
    in_list().await;

    objects.grow_old(25);
    let collected = collect(&bench.backends, "test", Grace::default(), false).await;
    let collected = collected.unwrap_or_else(|error| panic!("{damage}: {error}"));
    let left = collected.damaged.join("\n");
    assert!(collected.blobs > 0 || left.contains(VICTIM) || !damage.contains(VICTIM), "{damage}: {collected:?}");
    let victims: Vec<_> = objects.all().keys().filter(|key| key.contains("/victim/commits/")).cloned().collect();
    assert!(!victims.is_empty() || damage.contains("/commits/"), "{damage}: what is committed is gone");
}

/// A store with this content, but for one object, which is damaged or lost.
fn with(content: &BTreeMap<String, Bytes>, key: &str, bytes: Option<&'static [u8]>) -> Arc<MemoryObjects> {
    let objects = Arc::new(MemoryObjects::default());
    *objects.all() = content.clone();
    match bytes {
        Some(bytes) => drop(objects.all().insert(key.to_owned(), Bytes::from_static(bytes))),
        None => drop(objects.all().remove(key)),
    }
    objects
}

#[tokio::test(start_paused = true)]
async fn a_run_that_cannot_be_ended_says_why_and_can_be_deleted_or_restored() {
    let content = store(false).await.all().clone();
    // Whoever cannot read the log or the spec knows of no run that could be cancelled.
    let unread = |key: &str| key.contains("/decisions/") || key.ends_with("/run.json");
    let of_the_run = |key: &str| key.starts_with("runs/victim/");
    let mut stuck = Vec::new();
    for key in content.keys().filter(|key| of_the_run(key) && !unread(key)) {
        for bytes in [Some(&b"{\xff"[..]), None] {
            let (objects, run) = (with(&content, key, bytes), RunId::new(VICTIM).unwrap());
            let bench = Bench::shared(objects.clone());
            let (backends, victim) = (&bench.backends, RunStore::shared(objects.clone(), &run));
            let mut history = victim.history().await.unwrap();
            backends.decide(&victim, &run, &mut history, "test", Act::Cancelled).await.unwrap();
            until(&bench, Grace::default(), key, async || {
                let history = victim.history().await.unwrap();
                history.ended().is_some() || history.is_stuck()
            })
            .await;
            let mut history = victim.history().await.unwrap();
            if history.is_stuck() {
                let (state, why) = (history.state(), history.reason().unwrap_or_default());
                assert!(state == Some(RunState::Paused) && why.contains(key), "{key}: {state:?}: {why}");
                stuck.push(key.as_str());
                let all = objects.all().clone();
                let (mut mended, restored) = (history.clone(), with(&all, key, None));
                restored.all().insert(key.clone(), content[key].clone());
                let restored = Bench::shared(restored);
                let there = RunStore::shared(restored.backends.objects.clone(), &run);
                restored.backends.decide(&there, &run, &mut mended, "test", Act::Resumed).await.unwrap();
                let ends = async || there.history().await.unwrap().ended().is_some();
                until(&restored, Grace::default(), &format!("{key}, restored"), ends).await;
            }
            delete::delete(backends, &victim, &run, &mut history, "test").await.unwrap();
            hand_over(backends, &run).await.unwrap();
            let is_gone = async || !objects.all().keys().any(|key| of_the_run(key) && !key.contains("/decisions/"));
            until(&bench, Grace::default(), &format!("{key}, deleted"), is_gone).await;
        }
    }
    let kinds = ["/commits/", "/input/r0-", "/input/invalid."];
    assert!(kinds.iter().all(|kind| stuck.iter().any(|key| key.contains(kind))), "{stuck:?}");
}

#[tokio::test(start_paused = true)]
async fn one_damaged_object_whichever_it_is_is_named_and_spoils_nothing_else() {
    for ended in [false, true] {
        let whole = store(ended).await;
        let content = whole.all().clone();
        let others = format!("runs/{}/", spec(1, 1).run);
        let with = |key: &str, bytes: Option<&'static [u8]>| with(&content, key, bytes);
        for key in content.keys().filter(|key| !key.starts_with(&others)) {
            the_rest_goes_on(with(key, Some(b"{\xff")), &format!("ended: {ended}, damaged {key}")).await;
            let lists_the_other = *key == SharedKey::Submitted(spec(1, 1).run).to_string();
            if !lists_the_other {
                the_rest_goes_on(with(key, None), &format!("ended: {ended}, lost {key}")).await;
            }
        }
        for key in STRANGE {
            the_rest_goes_on(with(key, Some(b"{\xff")), &format!("ended: {ended}, strange {key}")).await;
        }
    }
}
