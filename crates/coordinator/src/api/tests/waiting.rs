//! What a run waits for is said by any coordinator, whoever drives the runs and whether anybody does.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use diorama_backends::progress::{Counts, Heartbeat, Holder, WorkerState};
use diorama_core::id::{AttemptId, Pool, Round, RunId, ShardId, WorkerId};
use diorama_core::round::RoundInfo;
use diorama_core::run::ModelIdentity;
use diorama_protocol::decision::Act;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{Bench, rows};
use crate::tests::unkind::MoodyProgress;

const LIFE: Duration = Duration::from_secs(3600);

/// Two shards.
async fn submit(bench: &Bench, pool: &str, priority: i32) -> RunId {
    let spec = json!({ "pool": pool, "priority": priority, "shard_size": 4 });
    let (status, run) = bench.submit(&spec, &rows(8), None).await;
    assert_eq!(status, StatusCode::CREATED, "{run}");
    RunId::new(run["run"].as_str().unwrap()).unwrap()
}

/// What the run waits for: alone, and in the list.
async fn waiting(bench: &Bench, run: &RunId) -> Value {
    let (status, alone) = bench.request("GET", &format!("/v1/runs/{run}")).await;
    assert_eq!(status, StatusCode::OK, "{alone}");
    let (_, page) = bench.request("GET", "/v1/runs").await;
    let listed = page["runs"].as_array().unwrap().iter().find(|listed| listed["run"] == alone["run"]).unwrap();
    assert_eq!(listed["waiting"], alone["waiting"]);
    alone["waiting"].clone()
}

async fn worker(bench: &Bench, pool: &str, state: WorkerState) {
    let heartbeat = Heartbeat {
        vitals: Default::default(),
        worker: WorkerId::new("w").unwrap(),
        pool: Pool::new(pool).unwrap(),
        state,
        model: "demo".to_owned(),
        identity: ModelIdentity { sha256: "0123".to_owned(), dtype: "f32".to_owned(), networks: Default::default() },
        device: "cpu".to_owned(),
        done: 0,
    };
    bench.backends.progress.heartbeat(&heartbeat, LIFE).await.unwrap();
}

fn shard(index: u32) -> ShardId {
    ShardId { round: Round(0), index }
}

async fn hold(bench: &Bench, run: &RunId, index: u32) {
    let (worker, attempt) = (WorkerId::new("w").unwrap(), AttemptId::new("0a").unwrap());
    let holder = Holder { worker, attempt, done: 0, failed: 0 };
    bench.backends.progress.hold(run, shard(index), &holder, LIFE).await.unwrap();
}

async fn commit(bench: &Bench, run: &RunId, index: u32) {
    let counts = Counts { shards: 1, done: 4, ..Counts::default() };
    bench.backends.progress.commit(run, shard(index), counts, &[]).await.unwrap();
}

#[tokio::test]
async fn a_run_says_whether_it_waits_for_a_worker_another_run_or_its_turn() {
    let bench = Bench::new(|_| ());
    let low = submit(&bench, "p", 0).await;
    assert_eq!(waiting(&bench, &low).await, json!({ "for": "worker" }));
    worker(&bench, "other", WorkerState::Idle).await;
    assert_eq!(waiting(&bench, &low).await, json!({ "for": "worker" }), "another pool's");
    worker(&bench, "p", WorkerState::Draining).await;
    assert_eq!(waiting(&bench, &low).await, json!({ "for": "worker" }), "it takes no more");
    worker(&bench, "p", WorkerState::Working).await;
    assert_eq!(waiting(&bench, &low).await, json!({ "for": "turn" }));

    submit(&bench, "other", 50).await;
    submit(&bench, "p", -1).await;
    assert_eq!(waiting(&bench, &low).await, json!({ "for": "turn" }), "of other pools, and behind it");
    let middle = submit(&bench, "p", 5).await;
    let high = submit(&bench, "p", 10).await;
    let behind = |run: &RunId, priority: i32| json!({ "for": "run", "run": run, "priority": priority });
    assert_eq!(waiting(&bench, &low).await, behind(&high, 10));
    assert_eq!(waiting(&bench, &middle).await, behind(&high, 10));
    assert_eq!(waiting(&bench, &high).await, json!({ "for": "turn" }));

    hold(&bench, &high, 0).await;
    assert_eq!(waiting(&bench, &high).await, Value::Null, "somebody is at work");
    assert_eq!(waiting(&bench, &low).await, behind(&high, 10), "nobody has begun its other shard");
    commit(&bench, &high, 1).await;
    assert_eq!(waiting(&bench, &low).await, behind(&middle, 5));
    bench.request("POST", &format!("/v1/runs/{middle}/pause")).await;
    assert_eq!(waiting(&bench, &low).await, json!({ "for": "turn" }), "who is paused is not waited for");
    assert_eq!(waiting(&bench, &middle).await, Value::Null, "it is paused");

    hold(&bench, &low, 0).await;
    assert_eq!(waiting(&bench, &low).await, Value::Null);
    commit(&bench, &low, 0).await;
    commit(&bench, &low, 1).await;
    assert_eq!(waiting(&bench, &low).await, json!({ "for": "coordinator" }), "what comes next is to be decided");
}

#[tokio::test]
async fn a_run_says_when_its_next_round_begins_and_that_its_end_is_the_coordinators() {
    let bench = Bench::new(|_| ());
    let run = submit(&bench, "p", 0).await;
    worker(&bench, "p", WorkerState::Idle).await;
    let (store, begins) = (bench.store(run.as_str()), Timestamp::now() + SignedDuration::from_secs(100));
    let mut history = store.history().await.unwrap();
    let round = |not_before| RoundInfo {
        round: Round(1),
        not_before,
        delay_seconds: 120.0,
        ..RoundInfo::first(1, 2, AttemptId::new("0b").unwrap(), not_before)
    };
    let mut decide = async |act| {
        bench.backends.decide(&store, &run, &mut history, "test", act).await.unwrap();
    };
    decide(Act::RoundOpened { round: round(begins) }).await;
    assert_eq!(waiting(&bench, &run).await, json!({ "for": "round", "round": 1, "begins_at": begins }));
    decide(Act::RoundOpened { round: RoundInfo { round: Round(2), ..round(Timestamp::now()) } }).await;
    assert_eq!(waiting(&bench, &run).await, json!({ "for": "turn" }));
    // The clock of whoever wrote it is an hour ahead.
    let late = Timestamp::now() + SignedDuration::from_hours(1);
    decide(Act::RoundOpened { round: RoundInfo { round: Round(3), ..round(late) } }).await;
    let said = waiting_alone(&bench, &run).await["begins_at"].as_str().unwrap().parse::<Timestamp>().unwrap();
    assert!(said <= Timestamp::now() + SignedDuration::from_secs(120), "{said}");
    bench.request("POST", &format!("/v1/runs/{run}/cancel")).await;
    assert_eq!(waiting(&bench, &run).await, json!({ "for": "coordinator" }));
}

async fn waiting_alone(bench: &Bench, run: &RunId) -> Value {
    bench.request("GET", &format!("/v1/runs/{run}")).await.1["waiting"].clone()
}

#[tokio::test]
async fn without_a_progress_service_a_run_says_that_nobody_knows_behind_what_it_waits() {
    let progress = Arc::new(MoodyProgress::default());
    let moody = progress.clone();
    let bench = Bench::new(|config| config.backends.progress = moody);
    let run = submit(&bench, "p", 0).await;
    assert_eq!(waiting(&bench, &run).await, json!({ "for": "worker" }));
    progress.be_away(true);
    let (_, status) = bench.request("GET", &format!("/v1/runs/{run}")).await;
    assert_eq!(status["waiting"], Value::Null);
    assert!(status["degraded"].as_str().unwrap().contains("what the run waits for, is unknown"), "{status}");
}
