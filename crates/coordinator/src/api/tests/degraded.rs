//! Without the progress service everything can be asked and decided still, and says what it does not know.

use std::sync::Arc;

use axum::http::StatusCode;
use diorama_backends::objects::ObjectErrorKind;
use diorama_backends::objects::embedded::FolderObjects;
use diorama_backends::objects::faulty::{Fault, FaultyObjects};
use serde_json::Value;

use super::{Bench, rows, spec};
use crate::tests::unkind::MoodyProgress;

#[tokio::test]
async fn without_a_progress_service_runs_are_submitted_once_shown_paused_cancelled_and_listed() {
    let bench = Bench::new(|config| config.backends.progress = Arc::new(MoodyProgress::away()));
    let (status, run) = bench.submit(&spec(), &rows(10), Some("k")).await;
    assert_eq!((status, &run["state"], &run["tasks"]), (StatusCode::CREATED, &"running".into(), &10.into()), "{run}");
    for _ in 0..2 {
        let (status, again) = bench.submit(&spec(), &rows(10), Some("k")).await;
        assert_eq!((status, &again["run"]), (StatusCode::OK, &run["run"]), "{again}");
    }
    let path = format!("/v1/runs/{}", run["run"].as_str().unwrap());
    let says_so = |run: &Value| assert!(run["degraded"].as_str().unwrap().starts_with("Redis is unreachable"), "{run}");
    for (action, state) in [("pause", "paused"), ("resume", "running"), ("cancel", "cancelled")] {
        let (status, run) = bench.request("POST", &format!("{path}/{action}")).await;
        assert_eq!((status, &run["state"]), (StatusCode::OK, &state.into()), "{run}");
        says_so(&run);
    }
    let (status, page) = bench.request("GET", "/v1/runs").await;
    assert_eq!((status, page["runs"].as_array().unwrap().len()), (StatusCode::OK, 1), "{page}");
    says_so(&page["runs"][0]);
    assert_eq!(bench.request("GET", "/readyz").await.0, StatusCode::OK);
    let (_, fleet) = bench.request("GET", "/v1/fleet").await;
    let unknown = [&fleet["pools"], &fleet["workers"]];
    assert_eq!(unknown, [&Value::Null; 2], "what is not known is not told to be nothing: {fleet}");
    assert_eq!(fleet["runs"][0]["state"], "cancelled", "{fleet}");
    assert_eq!(fleet["problems"][0]["code"], "degraded", "{fleet}");
    let (status, map) = bench.request("GET", &format!("{path}/shards")).await;
    assert_eq!((status, &map["committed"]), (StatusCode::OK, &Value::Array(Vec::new())), "{map}");
    let (status, problem) = bench.request("GET", "/v1/workers").await;
    assert_eq!((status.as_u16(), &problem["code"]), (503, &"progress_unavailable".into()), "nobody else knows them");
}

#[tokio::test]
async fn a_submission_that_took_place_is_answered_so_though_the_store_is_away_by_then() {
    let bench = Bench::new(|config| {
        let mut away = false;
        let rule = move |operation, key: &str| match away {
            true => Fault::Fail(ObjectErrorKind::Transient),
            false => {
                away = operation == "put_if_absent" && key.ends_with("decisions/000000.json");
                Fault::None
            }
        };
        let objects = FolderObjects::open(config.scratch.parent().unwrap()).unwrap();
        config.backends.objects = Arc::new(FaultyObjects::new(objects, Box::new(rule)));
    });
    let (status, run) = bench.submit(&spec(), &rows(10), None).await;
    assert_eq!((status, &run["state"], &run["tasks"]), (StatusCode::CREATED, &"running".into(), &10.into()), "{run}");
    assert!(run["degraded"].as_str().unwrap().starts_with("submitted;"), "{run}");
    assert!(bench.store(run["run"].as_str().unwrap()).history().await.unwrap().is_submitted());
}
