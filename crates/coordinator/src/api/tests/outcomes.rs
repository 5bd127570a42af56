//! Results and errors of a run that goes on, and the end of a run for good.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use diorama_backends::objects::list_all;
use diorama_core::id::{Round, ShardId};
use diorama_core::key::ObjectKey;
use diorama_protocol::decision::Act;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::{Bench, rows, spec};
use crate::reopen::reopen;
use crate::tests::unkind::{Hook, Hooked};
use crate::tests::{Decide, commit, done, drive_to_its_end, failed};
use crate::{CoordinatorConfig, Grace, Service, ServiceConfig, delete};

/// The lines of a stream, and whether they are all.
async fn lines(bench: &Bench, path: &str) -> (Vec<Value>, bool) {
    let request = Request::builder().uri(path).body(Body::empty()).unwrap();
    let response = bench.router.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let complete = response.headers()["diorama-complete"] == "true";
    let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    let lines = String::from_utf8(body.to_vec()).unwrap();
    (lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), complete)
}

async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let holds = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), holds).await.expect(what);
}

/// The coordinator that leads.
fn service(bench: &Bench) -> Service {
    let mut runs = CoordinatorConfig::new(bench.scratch());
    runs.poll = Duration::from_millis(5);
    let (owner, lease) = ("test".to_owned(), Duration::from_millis(100));
    Service::new(bench.backends.clone(), ServiceConfig { owner, lease, grace: Grace::default(), runs }).0
}

fn tasks(lines: &[Value]) -> Vec<u64> {
    lines.iter().map(|line| line["task"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn a_run_that_goes_on_gives_what_is_committed_and_certain_in_the_manifests_order() {
    let bench = Bench::new(|_| ());
    let (_, run) = bench.submit(&spec(), &rows(10), None).await;
    let id = run["run"].as_str().unwrap();
    let store = bench.store(id);
    let spec = store.spec().await.unwrap().unwrap();
    let (results, errors) = (format!("/v1/runs/{id}/results"), format!("/v1/runs/{id}/errors"));
    assert_eq!(lines(&bench, &results).await, (vec![], false));
    // The shard in the middle is not committed yet; of the others, some tasks failed, and some of those may work later.
    let decide: Decide = Arc::new(|task, _| match task {
        1 => failed(false),
        2 | 9 => failed(true),
        _ => done(),
    });
    for index in [2, 0] {
        commit(&bench.backends, &store, &spec, ShardId { round: Round(0), index }, &decide).await;
    }
    let (found, complete) = lines(&bench, &results).await;
    assert_eq!((tasks(&found), complete), (vec![0, 3, 8], false));
    assert_eq!(found[0]["status"], "done");
    let (found, complete) = lines(&bench, &errors).await;
    assert_eq!((tasks(&found), complete), (vec![1], false), "what will be tried again is not certain");
}

#[tokio::test]
async fn a_deleted_run_is_gone_at_once_and_the_coordinator_removes_its_objects() {
    let bench = Bench::new(|_| ());
    let (_, run) = bench.submit(&spec(), &rows(4), Some("k")).await;
    let id = run["run"].as_str().unwrap();
    let path = format!("/v1/runs/{id}");
    let (status, problem) = bench.request("DELETE", &path).await;
    assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &"not_ended".into()));
    assert_eq!(problem["detail"], "the run is running and has not ended; it can be deleted when it has");
    bench.request("POST", &format!("{path}/cancel")).await;

    let drain = CancellationToken::new();
    let service = tokio::spawn(service(&bench).run(drain.clone()));
    let ended = async || !bench.request("GET", &path).await.1["summary"].is_null();
    until("the run ends", ended).await;
    assert_eq!(bench.request("DELETE", &path).await.0, StatusCode::ACCEPTED);
    assert_eq!(bench.request("GET", &path).await.1["code"], "unknown_run");
    let gone = async || {
        let left = async |prefix: &str| list_all(&*bench.backends.objects, prefix).await.unwrap().len();
        let run = format!("runs/{id}/");
        let log = left(&format!("{run}decisions/")).await;
        left(&run).await - log + left("index/active/").await + left("index/submitted/").await == 0
    };
    until("nothing of the run is left but its log", gone).await;
    assert_eq!(bench.request("GET", "/v1/runs").await.1, serde_json::json!({ "runs": [] }));
    assert_eq!(bench.request("DELETE", &path).await.1["code"], "unknown_run");
    // The same request makes the run anew.
    let (status, again) = bench.submit(&spec(), &rows(4), Some("k")).await;
    assert_eq!((status, &again["tasks"]), (StatusCode::CREATED, &4.into()), "{again}");
    assert_ne!(again["run"], run["run"], "another life, another id");
    drain.cancel();
    service.await.unwrap();
}

/// Between the driver's look at the log and its look at the spec, the run is deleted.
#[tokio::test]
async fn a_run_deleted_while_it_is_taken_up_is_removed_to_its_end() {
    let mut bench = Bench::new(|_| ());
    let (_, run) = bench.submit(&spec(), &rows(4), None).await;
    let id = run["run"].as_str().unwrap().to_owned();
    let (store, backends) = (bench.store(&id), bench.backends.clone());
    let spec = store.spec().await.unwrap().unwrap();
    bench.request("POST", &format!("/v1/runs/{id}/cancel")).await;
    drive_to_its_end(&bench.backends, &store, &spec, &bench.scratch()).await;
    reopen(&backends, &store, &spec, &mut store.history().await.unwrap(), "test", Default::default()).await.unwrap();
    let (key, deleted) = (store.path(&ObjectKey::Spec), Arc::new(AtomicBool::new(false)));
    let scratch = bench.scratch();
    let delete: Hook = Box::new(move |operation, asked| {
        let strikes = operation == "get" && asked == key && !deleted.swap(true, Ordering::SeqCst);
        let (backends, store, spec, scratch) = (backends.clone(), store.clone(), spec.clone(), scratch.clone());
        Box::pin(async move {
            if strikes {
                let mut history = store.history().await.unwrap();
                backends.decide(&store, &spec.run, &mut history, "test", Act::Cancelled).await.unwrap();
                drive_to_its_end(&backends, &store, &spec, &scratch).await;
                let mut history = store.history().await.unwrap();
                delete::delete(&backends, &store, &spec.run, &mut history, "test").await.unwrap();
                store.delete(&ObjectKey::Spec).await.unwrap();
            }
        })
    });
    bench.backends.objects = Arc::new(Hooked::before(bench.backends.objects.clone(), delete));

    let drain = CancellationToken::new();
    let service = tokio::spawn(service(&bench).run(drain.clone()));
    let gone = async || {
        let objects = list_all(&*bench.backends.objects, "").await.unwrap();
        objects.iter().all(|object| object.key.contains("/decisions/") || object.key.contains("index/deleted/"))
    };
    until("nothing of the run is left but its log and the note", gone).await;
    drain.cancel();
    service.await.unwrap();
}
