//! Half submissions, damaged runs, requests at the same moment, answers that get lost: each is what it is, and harms
//! nothing beside it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::http::StatusCode;
use diorama_backends::objects::embedded::FolderObjects;
use diorama_backends::objects::faulty::{Fault, FaultyObjects};
use diorama_backends::objects::{ObjectErrorKind, list_all};
use serde_json::json;

use super::{Bench, rows, spec};
use crate::tests::drive_to_its_end;
use crate::tests::unkind::Hooked;

/// A service whose store fails at every input while `cut` says so.
fn cutting(cut: &Arc<AtomicBool>) -> Bench {
    let cut = cut.clone();
    Bench::new(|config| {
        let rule = move |operation: &'static str, key: &str| {
            let strikes = operation == "put" && key.contains("/input/r0-") && cut.load(Ordering::SeqCst);
            if strikes { Fault::Fail(ObjectErrorKind::Away) } else { Fault::None }
        };
        let objects = FolderObjects::open(config.scratch.parent().unwrap()).unwrap();
        config.backends.objects = Arc::new(FaultyObjects::new(objects, Box::new(rule)));
    })
}

#[tokio::test]
async fn half_a_submission_is_shown_as_such_and_can_be_completed_or_deleted_and_nothing_else() {
    for deleted in [false, true] {
        let cut = Arc::new(AtomicBool::new(true));
        let bench = cutting(&cut);
        let (status, problem) = bench.submit(&spec(), &rows(10), Some("k")).await;
        assert_eq!((status.as_u16(), &problem["code"]), (503, &"object_store_unavailable".into()), "{problem}");
        cut.store(false, Ordering::SeqCst);

        let (_, page) = bench.request("GET", "/v1/runs").await;
        let run = &page["runs"][0];
        assert_eq!((&run["state"], &run["name"], &run["tasks"]), (&"submitting".into(), &"ducks".into(), &10.into()));
        let (_, page) = bench.request("GET", "/v1/runs?state=submitting").await;
        assert_eq!(page["runs"][0]["run"], run["run"]);
        let path = format!("/v1/runs/{}", run["run"].as_str().unwrap());
        for action in ["pause", "resume", "cancel"] {
            let (status, problem) = bench.request("POST", &format!("{path}/{action}")).await;
            assert_eq!((status.as_u16(), &problem["code"]), (409, &"not_submitted".into()), "{action}: {problem}");
        }
        let (status, problem) = bench.request("POST", &format!("{path}/retry")).await;
        assert_eq!((status.as_u16(), &problem["code"]), (409, &"not_ended".into()), "{problem}");
        if deleted {
            assert_eq!(bench.request("DELETE", &path).await.0, StatusCode::ACCEPTED);
            assert_eq!(bench.request("GET", &path).await.1["code"], "unknown_run");
        }
        let (status, again) = bench.submit(&spec(), &rows(10), Some("k")).await;
        assert_eq!((status, &again["state"]), (StatusCode::CREATED, &"running".into()), "{again}");
        assert_eq!(again["run"] != run["run"], deleted, "completed, or in a life of its own");
    }
}

#[tokio::test]
async fn a_damaged_run_is_listed_as_damaged_and_the_others_are_as_they_were() {
    let bench = Bench::new(|_| ());
    let mut ids = Vec::new();
    for _ in 0..4 {
        let (_, run) = bench.submit(&spec(), &rows(1), None).await;
        ids.push(run["run"].as_str().unwrap().to_owned());
    }
    let (log, named) = (format!("runs/{}/decisions/000000.json", ids[1]), format!("runs/{}/run.json", ids[2]));
    bench.backends.objects.put(&log, "{".into()).await.unwrap();
    bench.backends.objects.put(&named, "".into()).await.unwrap();
    // As a coordinator that has not seen them before.
    let objects = bench.backends.objects.clone();
    let bench = Bench::new(|config| config.backends.objects = objects);
    let (status, page) = bench.request("GET", "/v1/runs").await;
    assert_eq!((status, &page["next"]), (StatusCode::OK, &json!(null)), "{page}");
    let listed: Vec<_> = page["runs"].as_array().unwrap().iter().map(|run| run["run"].as_str().unwrap()).collect();
    assert_eq!(listed, [&ids[3], &ids[0]]);
    let damaged = page["damaged"].as_array().unwrap();
    assert_eq!((&damaged[0]["run"], &damaged[1]["run"]), (&json!(ids[2]), &json!(ids[1])));
    assert!(damaged[1]["problem"].as_str().unwrap().contains(&log), "{page}");
    let (status, problem) = bench.request("GET", &format!("/v1/runs/{}", ids[1])).await;
    assert_eq!((status.as_u16(), &problem["code"]), (500, &"damaged_object".into()));
    assert_eq!(bench.request("POST", &format!("/v1/runs/{}/cancel", ids[0])).await.0, StatusCode::OK);
}

#[tokio::test]
async fn of_two_manifests_under_one_key_at_once_one_makes_the_run_and_the_other_is_refused() {
    for _ in 0..8 {
        let bench = Bench::new(|_| ());
        let (few, many) = (rows(3), rows(5));
        let spec = spec();
        let (one, other) = tokio::join!(bench.submit(&spec, &few, Some("k")), bench.submit(&spec, &many, Some("k")));
        let ((made, refused), tasks) = if one.0 == StatusCode::CREATED { ((one, other), 3) } else { ((other, one), 5) };
        assert_eq!((made.0, &made.1["tasks"]), (StatusCode::CREATED, &tasks.into()), "{}", made.1);
        // The one, where both were at it; the other, where one was there already.
        let refusal = (refused.0.as_u16(), refused.1["code"].as_str().unwrap_or_default());
        assert!([(409, "other_run"), (422, "idempotency_key_reused")].contains(&refusal), "{}", refused.1);
        let store = bench.store(made.1["run"].as_str().unwrap());
        assert_eq!(store.history().await.unwrap().rounds()[0].tasks, tasks as u64);
        assert_eq!(list_all(&*bench.backends.objects, "index/submitted/").await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn what_took_place_is_answered_as_done_also_where_the_stores_answer_was_lost() {
    let bench = Bench::new(|config| {
        config.backends.objects = Arc::new(Hooked::denying(config.backends.objects.clone(), "/decisions/"));
    });
    let (status, run) = bench.submit(&spec(), &rows(4), None).await;
    assert_eq!(status, StatusCode::CREATED, "{run}");
    let id = run["run"].as_str().unwrap();
    assert_eq!(bench.request("POST", &format!("/v1/runs/{id}/cancel")).await.1["state"], "cancelled");
    let store = bench.store(id);
    let spec = store.spec().await.unwrap().unwrap();
    drive_to_its_end(&bench.backends, &store, &spec, &bench.scratch()).await;
    let (status, run) = bench.request("POST", &format!("/v1/runs/{id}/retry")).await;
    assert_eq!((status, &run["state"]), (StatusCode::OK, &"running".into()), "{run}");
    let (status, problem) = bench.request("POST", &format!("/v1/runs/{id}/retry")).await;
    assert_eq!((status.as_u16(), &problem["code"]), (409, &"not_ended".into()), "{problem}");
    assert_eq!(bench.request("DELETE", &format!("/v1/runs/{id}")).await.1["code"], "not_ended");
}
