//! A manifest that names uploaded references: they are there, or it is refused.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use diorama_core::id::Sha256Hex;
use serde_json::json;

use super::{Bench, spec};

#[tokio::test]
async fn a_manifest_whose_references_are_not_uploaded_is_refused_and_leaves_no_run_in_its_place() {
    let bench = Bench::new(|_| ());
    let row = |content: &str| {
        let reference = format!("blob:{}", Sha256Hex::of(content.as_bytes()));
        json!({ "custom_id": "a", "prompt": "a duck", "reference": reference }).to_string()
    };
    let (status, problem) = bench.submit(&spec(), &row("place"), Some("k")).await;
    assert_eq!((status.as_u16(), &problem["code"]), (409, &"unknown_blobs".into()), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains(Sha256Hex::of(b"place").as_str()), "{problem}");
    assert_eq!(bench.request("GET", "/v1/runs").await.1, json!({ "runs": [] }));

    let upload = |content: &'static str| {
        let path = format!("/v1/blobs/{}", Sha256Hex::of(content.as_bytes()));
        Request::builder().method("PUT").uri(path).body(Body::from(content)).unwrap()
    };
    assert_eq!(bench.send(upload("other place")).await.0, StatusCode::CREATED);
    let (status, run) = bench.submit(&spec(), &row("other place"), Some("k")).await;
    assert_eq!((status, &run["state"]), (StatusCode::CREATED, &"running".into()), "under the same key: {run}");
}
