//! The list of runs: newest first, page by page, by state, name and label.

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::{Bench, rows};

async fn list(bench: &Bench, query: &str) -> Vec<String> {
    let (status, page) = bench.request("GET", &format!("/v1/runs{query}")).await;
    assert_eq!(status, StatusCode::OK, "{page}");
    let name = |run: &Value| run["name"].as_str().unwrap().to_owned();
    page["runs"].as_array().unwrap().iter().map(name).collect()
}

#[tokio::test]
async fn runs_are_listed_newest_first_and_filters_choose_among_all_of_them_page_by_page() {
    let bench = Bench::new(|_| ());
    let mut ids = Vec::new();
    for (name, labels) in [
        ("red duck", json!({ "team": "a" })),
        ("blue duck", json!({ "team": "b", "set": "sea" })),
        ("red swan", json!({ "team": "b" })),
        ("gull", json!({})),
    ] {
        let spec = json!({ "pool": "default", "name": name, "labels": labels });
        let (status, run) = bench.submit(&spec, &rows(1), None).await;
        assert_eq!(
            (status, &run["labels"]),
            (StatusCode::CREATED, if name == "gull" { &Value::Null } else { &labels })
        );
        ids.push(run["run"].as_str().unwrap().to_owned());
    }
    bench.request("POST", &format!("/v1/runs/{}/pause", ids[1])).await;
    bench.request("POST", &format!("/v1/runs/{}/cancel", ids[0])).await;
    for (query, wanted) in [
        ("", &["gull", "red swan", "blue duck", "red duck"] as &[&str]),
        ("?active=true", &["gull", "red swan", "blue duck", "red duck"]),
        ("?state=running", &["gull", "red swan"]),
        ("?state=paused", &["blue duck"]),
        ("?state=cancelled", &["red duck"]),
        ("?state=finished", &[]),
        ("?name=duck", &["blue duck", "red duck"]),
        ("?label=team=b", &["red swan", "blue duck"]),
        ("?label=team=b&state=paused", &["blue duck"]),
        ("?label=team", &[]),
    ] {
        assert_eq!(list(&bench, query).await, wanted, "{query}");
    }
    // A page is full of what fits, however far that is apart.
    let (_, page) = bench.request("GET", "/v1/runs?name=red&limit=1").await;
    assert_eq!((&page["runs"][0]["name"], &page["next"]), (&"red swan".into(), &ids[2].clone().into()));
    assert_eq!(list(&bench, &format!("?name=red&limit=1&after={}", ids[2])).await, ["red duck"]);
    let (status, problem) = bench.request("GET", "/v1/runs?state=walking").await;
    assert_eq!((status, &problem["code"]), (StatusCode::BAD_REQUEST, &"invalid_query".into()));
}
