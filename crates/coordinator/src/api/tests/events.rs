//! The stream of a run's events: how it stands at once and whenever that changes, and an end with the run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::{Request, StatusCode, header};
use diorama_backends::objects::ObjectErrorKind;
use diorama_backends::objects::embedded::FolderObjects;
use diorama_backends::objects::faulty::{Fault, FaultyObjects};
use diorama_core::id::{Round, ShardId};
use futures::StreamExt;
use serde_json::Value;
use tower::ServiceExt;

use super::{Bench, rows, spec};
use crate::tests::{Decide, commit, done, drive_to_its_end};

async fn listen(bench: &Bench, run: &str) -> BodyDataStream {
    let request = Request::builder().uri(format!("/v1/runs/{run}/events")).body(Body::empty()).unwrap();
    let response = bench.router.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
    response.into_body().into_data_stream()
}

/// The next event's name and data; `None` where the stream has ended.
async fn next(events: &mut BodyDataStream) -> Option<(String, Value)> {
    let next = tokio::time::timeout(Duration::from_secs(60), events.next()).await.expect("an event or the end");
    let text = String::from_utf8(next?.unwrap().to_vec()).unwrap();
    let (name, data) = text.strip_prefix("event: ").and_then(|text| text.split_once("\ndata: ")).expect("an event");
    Some((name.to_owned(), serde_json::from_str(data).unwrap()))
}

/// The event that ends the stream; counts may change before it.
async fn last(events: &mut BodyDataStream) -> Value {
    loop {
        match next(events).await {
            Some((name, now)) if name == "end" => return now,
            Some((name, _)) => assert_eq!(name, "status"),
            None => panic!("the stream ended before the run"),
        }
    }
}

/// Commits the run's only shard and ends the run.
async fn end(bench: &Bench, run: &str) {
    let store = bench.store(run);
    let spec = store.spec().await.unwrap().unwrap();
    let shard = ShardId { round: Round(0), index: 0 };
    commit(&bench.backends, &store, &spec, shard, &(Arc::new(|_, _| done()) as Decide)).await;
    drive_to_its_end(&bench.backends, &store, &spec, &bench.scratch()).await;
}

#[tokio::test]
async fn a_stream_of_events_begins_with_the_status_tells_every_change_and_ends_with_the_run() {
    let bench = Bench::new(|_| ());
    let (_, run) = bench.submit(&spec(), &rows(4), None).await;
    let id = run["run"].as_str().unwrap();
    let mut events = listen(&bench, id).await;
    assert_eq!(next(&mut events).await, Some(("status".to_owned(), run.clone())), "at once, and as the run is shown");
    bench.request("POST", &format!("/v1/runs/{id}/pause")).await;
    let (name, now) = next(&mut events).await.unwrap();
    assert_eq!((name.as_str(), &now["state"]), ("status", &"paused".into()), "only a change is an event: {now}");
    end(&bench, id).await;
    let now = last(&mut events).await;
    assert_eq!((&now["state"], &now["summary"]["done"]), (&"finished".into(), &4.into()));
    assert_eq!(next(&mut events).await, None);

    let mut afterwards = listen(&bench, id).await;
    assert_eq!(next(&mut afterwards).await, Some(("end".to_owned(), now)), "whoever comes too late hears of the end");
    assert_eq!(next(&mut afterwards).await, None);
    let (status, problem) = bench.request("GET", "/v1/runs/none/events").await;
    assert_eq!((status, &problem["code"]), (StatusCode::NOT_FOUND, &"unknown_run".into()));
}

#[tokio::test]
async fn a_stream_of_events_outlives_a_store_that_is_away() {
    let away = Arc::new(AtomicBool::new(false));
    let asked = Arc::new(tokio::sync::Notify::new());
    let bench = Bench::new(|config| {
        let (away, asked) = (away.clone(), asked.clone());
        let rule = move |_: &'static str, _: &str| {
            if !away.load(Ordering::SeqCst) {
                return Fault::None;
            }
            asked.notify_one();
            Fault::Fail(ObjectErrorKind::Transient)
        };
        let objects = FolderObjects::open(config.scratch.parent().unwrap()).unwrap();
        config.backends.objects = Arc::new(FaultyObjects::new(objects, Box::new(rule)));
    });
    let (_, run) = bench.submit(&spec(), &rows(4), None).await;
    let id = run["run"].as_str().unwrap();
    let mut events = listen(&bench, id).await;
    next(&mut events).await.unwrap();
    away.store(true, Ordering::SeqCst);
    let while_it_is_away = async {
        // Past the faults, as another process would: there is news, and the stream asks the store for it.
        end(&bench, id).await;
        // Twice, so that the stream has gone on after a failure.
        for _ in 0..2 {
            let asked = tokio::time::timeout(Duration::from_secs(60), asked.notified());
            asked.await.expect("the stream asks the store");
        }
        away.store(false, Ordering::SeqCst);
    };
    let (now, ()) = tokio::join!(last(&mut events), while_it_is_away);
    assert_eq!(now["summary"]["done"], 4);
    assert_eq!(next(&mut events).await, None);
}
