//! Readiness and pools: what the services say of themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use diorama_backends::objects::ObjectErrorKind;
use diorama_backends::objects::embedded::FolderObjects;
use diorama_backends::objects::faulty::{Fault, FaultyObjects};
use diorama_backends::progress::{Heartbeat, WorkerState};
use diorama_backends::queue::Settlement;
use diorama_core::id::{Pool, Round, RunId, ShardId, WorkerId};
use diorama_core::key::SharedKey;
use diorama_core::message::ShardMessage;
use diorama_core::run::ModelIdentity;
use serde_json::json;

use super::{Bench, rows};
use crate::api::metrics::refresh;
use crate::tests::unkind::{Hook, Hooked};

#[tokio::test]
async fn a_coordinator_is_ready_while_its_store_answers_and_alive_in_any_case() {
    let away = Arc::new(AtomicBool::new(false));
    let bench = Bench::new(|config| {
        let away = away.clone();
        let rule = move |_: &'static str, _: &str| match away.load(Ordering::SeqCst) {
            true => Fault::Fail(ObjectErrorKind::Transient),
            false => Fault::None,
        };
        let objects = FolderObjects::open(config.scratch.parent().unwrap()).unwrap();
        config.backends.objects = Arc::new(FaultyObjects::new(objects, Box::new(rule)));
    });
    for is_away in [false, true, false] {
        away.store(is_away, Ordering::SeqCst);
        let (status, body) = bench.request("GET", "/readyz").await;
        if is_away {
            let wanted = (StatusCode::SERVICE_UNAVAILABLE, &"object_store_unavailable".into());
            assert_eq!((status, &body["code"]), wanted, "{body}");
        } else {
            assert_eq!((status, body), (StatusCode::OK, "ok\n".into()));
        }
        assert_eq!(bench.request("GET", "/livez").await, (StatusCode::OK, "ok\n".into()));
    }
}

#[tokio::test]
async fn a_pool_is_listed_with_its_workers_its_runs_and_its_queue() {
    let bench = Bench::new(|_| ());
    assert_eq!(bench.request("GET", "/v1/pools").await, (StatusCode::OK, json!([])));

    for (worker, pool) in [("w1", "busy"), ("w2", "busy"), ("w3", "idle")] {
        let heartbeat = Heartbeat {
            vitals: Default::default(),
            worker: WorkerId::new(worker).unwrap(),
            pool: Pool::new(pool).unwrap(),
            state: WorkerState::Idle,
            model: "demo".to_owned(),
            identity: ModelIdentity {
                sha256: "0123".to_owned(),
                dtype: "f32".to_owned(),
                networks: Default::default(),
            },
            device: "cpu".to_owned(),
            done: 0,
        };
        bench.backends.progress.heartbeat(&heartbeat, Duration::from_secs(3600)).await.unwrap();
    }
    let mut runs = Vec::new();
    for pool in ["busy", "busy", "busy", "waiting"] {
        let (_, run) = bench.submit(&json!({ "pool": pool }), &rows(1), None).await;
        runs.push(RunId::new(run["run"].as_str().unwrap()).unwrap());
    }
    // As a coordinator does when a run has ended.
    bench.backends.objects.delete(&SharedKey::Active(runs[0].clone()).to_string()).await.unwrap();

    let (queue, busy) = (&bench.backends.queue, Pool::new("busy").unwrap());
    for index in 0..5 {
        let message = ShardMessage { run: runs[1].clone(), shard: ShardId { round: Round(0), index } };
        queue.publish(&busy, &message).await.unwrap();
    }
    let mut consumer = queue.consume(&busy, 1).await.unwrap();
    consumer.next().await.unwrap().settle(Settlement::DeadLetter).await.unwrap();
    let _held = consumer.next().await.unwrap();

    let pool = |pool: &str, workers: u64, runs: u64, [ready, consumers, dead]: [u64; 3]| json!({ "pool": pool, "workers": workers, "runs": runs, "ready": ready, "consumers": consumers, "dead": dead, "outstanding": runs, "wanted_workers": runs });
    let wanted = json!([pool("busy", 2, 2, [3, 1, 1]), pool("idle", 1, 0, [0; 3]), pool("waiting", 0, 1, [0; 3])]);
    assert_eq!(bench.request("GET", "/v1/pools").await, (StatusCode::OK, wanted));
}

#[tokio::test]
async fn metrics_and_life_are_answered_from_memory_and_tell_what_the_last_look_saw() {
    let asked = Arc::new(AtomicBool::new(false));
    let bench = Bench::new(|config| {
        let asked = asked.clone();
        let note: Hook = Box::new(move |_, _| {
            asked.store(true, Ordering::SeqCst);
            Box::pin(std::future::ready(()))
        });
        config.backends.objects = Arc::new(Hooked::before(config.backends.objects.clone(), note));
    });
    bench.submit(&json!({ "pool": "busy" }), &rows(1), None).await;
    let metrics = async || bench.request("GET", "/metrics").await.1.as_str().unwrap().to_owned();
    assert!(!metrics().await.contains("diorama_active_runs"), "nobody has looked yet");
    refresh(&bench.api).await;
    asked.store(false, Ordering::SeqCst);
    assert!(metrics().await.contains("diorama_active_runs{pool=\"busy\"} 1"), "{}", metrics().await);
    assert_eq!(bench.request("GET", "/livez").await.0, StatusCode::OK);
    assert!(!asked.load(Ordering::SeqCst), "the store was asked");
}
