//! What was made of a run, before its end and after it.

use std::sync::Arc;

use axum::http::StatusCode;
use diorama_core::id::{Round, ShardId};
use diorama_core::outcome::Outcome;
use diorama_protocol::RunStore;
use diorama_protocol::count::count_marker;
use serde_json::{Value, json};

use super::{Bench, rows, spec};
use crate::tests::{Decide, commit, done, drive_to_its_end, failed};

/// A run of ten tasks in shards of four, and its id.
async fn submitted(bench: &Bench) -> (String, RunStore) {
    let (_, run) = bench.submit(&spec(), &rows(10), None).await;
    let id = run["run"].as_str().unwrap().to_owned();
    let store = bench.store(&id);
    (id, store)
}

async fn get(bench: &Bench, path: &str) -> Value {
    let (status, body) = bench.request("GET", path).await;
    assert_eq!(status, StatusCode::OK, "{path}: {body}");
    body
}

fn decide() -> Decide {
    Arc::new(|task, round| match (task, round) {
        (1, _) => failed(false),
        (2, 0) => failed(true),
        (task, _) => match done() {
            Outcome::Done { archive, files, warnings, .. } => {
                let scores = [("outside_psnr".to_owned(), 20.0 + task as f64)].into();
                Outcome::Done {
                    archive,
                    files,
                    mask_coverage: Some(0.1 * task as f64),
                    scores,
                    measures: Default::default(),
                    accepted: None,
                    tries: Vec::new(),
                    warnings,
                }
            }
            other => other,
        },
    })
}

async fn commits(bench: &Bench, store: &RunStore, round: u32, indices: &[u32]) {
    let spec = store.spec().await.unwrap().unwrap();
    for index in indices {
        let shard = ShardId { round: Round(round), index: *index };
        commit(&bench.backends, store, &spec, shard, &decide()).await;
        let marker = store.marker(shard).await.unwrap().unwrap();
        count_marker(&*bench.backends.progress, &spec.run, &marker, spec.retry.max_rounds).await.unwrap();
    }
}

#[tokio::test]
async fn a_run_that_goes_on_shows_its_shards_pictures_failures_and_scores() {
    let bench = Bench::new(|_| ());
    let (id, store) = submitted(&bench).await;
    let run = format!("/v1/runs/{id}");
    let map = get(&bench, &format!("{run}/shards")).await;
    assert_eq!((&map["shards"], &map["tasks"], &map["committed"]), (&json!(3), &json!(10), &json!([])));
    assert_eq!(get(&bench, &format!("{run}/pictures")).await["pictures"], json!([]));

    commits(&bench, &store, 0, &[2]).await;
    assert_eq!(get(&bench, &format!("{run}/pictures")).await["pictures"][0]["task"], 8);
    commits(&bench, &store, 0, &[0]).await;
    let map = get(&bench, &format!("{run}/shards?round=0")).await;
    assert_eq!((&map["committed"], &map["failing"]), (&json!([[0, 1], [2, 1]]), &json!([0])), "{map}");
    let shard = get(&bench, &format!("{run}/shards/r0-000001")).await;
    assert_eq!((&shard["state"], &shard["tasks"][0]["status"]), (&json!("waiting"), &json!("waiting")));
    let shard = get(&bench, &format!("{run}/shards/r0-000000")).await;
    let statuses: Value = shard["tasks"].as_array().unwrap().iter().map(|task| task["status"].clone()).collect();
    assert_eq!((&shard["state"], statuses), (&json!("committed"), json!(["done", "failed", "failed", "done"])));
    assert_eq!(shard["tasks"][1]["error"]["code"], "model_error");

    let latest = get(&bench, &format!("{run}/pictures?limit=3")).await;
    let tasks: Value = latest["pictures"].as_array().unwrap().iter().map(|picture| picture["task"].clone()).collect();
    assert_eq!(tasks, json!([0, 3, 8]), "the shard that was committed last comes first");
    let failures = get(&bench, &format!("{run}/failures")).await;
    assert_eq!((&failures["codes"], &failures["complete"]), (&json!({ "model_error": 2 }), &json!(false)));
    assert_eq!(failures["examples"].as_array().unwrap().len(), 2);
    assert_eq!(failures["examples"][0]["prompt"], "a duck");
    let scores = get(&bench, &format!("{run}/scores")).await;
    assert_eq!(
        (&scores["pictures"], &scores["of"]),
        (&json!(4), &json!(5)),
        "four of six outcomes are pictures: {scores}"
    );
    assert_eq!(scores["measures"]["outside_psnr"]["from"], 20.0);
    assert_eq!(get(&bench, &format!("{run}/spec")).await["shard_size"], 4);
    let series = get(&bench, &format!("{run}/throughput")).await;
    let made: u64 = series["intervals"].as_array().unwrap().iter().map(|made| made["done"].as_u64().unwrap()).sum();
    assert_eq!(made, 4, "{series}");
}

#[tokio::test]
async fn a_task_has_every_outcome_that_it_had() {
    let bench = Bench::new(|_| ());
    let (id, store) = submitted(&bench).await;
    let spec = store.spec().await.unwrap().unwrap();
    commits(&bench, &store, 0, &[0, 1, 2]).await;
    let scratch = bench.scratch();
    let driven = drive_to_its_end(&bench.backends, &store, &spec, &scratch);
    let retried = async {
        while store.history().await.unwrap().rounds().len() < 2 {
            tokio::task::yield_now().await;
        }
        commits(&bench, &store, 1, &[0]).await;
    };
    tokio::join!(driven, retried);
    let task = get(&bench, &format!("/v1/runs/{id}/tasks/2")).await;
    let history: Vec<_> =
        task["history"].as_array().unwrap().iter().map(|past| (&past["shard"], &past["status"])).collect();
    assert_eq!(history, [(&json!("r0-000000"), &json!("failed")), (&json!("r1-000000"), &json!("done"))]);
    assert_eq!((&task["picture"]["status"], &task["picture"]["shard"]), (&json!("done"), &json!("r1-000000")));
    assert_eq!(task["replay"], format!("diorama replay {id} t2"));
    let never = get(&bench, &format!("/v1/runs/{id}/tasks/7")).await;
    assert_eq!(never["history"].as_array().unwrap().len(), 1, "it was in one round only");

    let failures = get(&bench, &format!("/v1/runs/{id}/failures")).await;
    assert_eq!((&failures["codes"], &failures["complete"]), (&json!({ "model_error": 1 }), &json!(true)));
    assert_eq!(failures["examples"][0]["task"], 1);
    let map = get(&bench, &format!("/v1/runs/{id}/shards")).await;
    assert_eq!((&map["round"], &map["committed"]), (&json!(1), &json!([[0, 1]])), "the last round");
}

#[tokio::test]
async fn what_a_run_has_not_is_said_to_be_not_there() {
    let bench = Bench::new(|_| ());
    let (id, store) = submitted(&bench).await;
    commits(&bench, &store, 0, &[0]).await;
    for (path, status, code) in [
        ("shards?round=7", 404, "unknown_round"),
        ("shards?rund=0", 400, "invalid_query"),
        ("shards/r0-000003", 404, "unknown_shard"),
        ("shards/r7-000000", 404, "unknown_shard"),
        ("shards/0", 404, "unknown_shard"),
        ("tasks/10", 404, "unknown_task"),
        ("tasks/-1", 404, "unknown_task"),
        ("tasks/x", 404, "unknown_task"),
        ("pictures?limit=x", 400, "invalid_query"),
        ("files/r0-000000/0/image", 404, "unknown_file"),
        ("files/r0-000000/0/reference", 404, "unknown_file"),
        ("files/r0-000000/7/image", 404, "unknown_file"),
        ("files/r0-000000/x/image", 404, "unknown_file"),
        ("files/r0-000001/4/image", 404, "unknown_file"),
        ("files/r0-000000/0/image?width=wide", 400, "invalid_query"),
    ] {
        let (found, problem) = bench.request("GET", &format!("/v1/runs/{id}/{path}")).await;
        assert_eq!((found.as_u16(), &problem["code"]), (status, &code.into()), "{path}: {problem}");
    }
    for path in ["shards", "shards/r0-000000", "pictures", "tasks/0", "failures", "scores", "spec", "throughput"] {
        assert_eq!(bench.request("GET", &format!("/v1/runs/none/{path}")).await.1["code"], "unknown_run", "{path}");
    }
}
