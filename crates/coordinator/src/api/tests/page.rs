//! The page, who may use the API from it, and what it hears of the fleet.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response, StatusCode, header};
use diorama_backends::progress::{Heartbeat, Holder, Vitals, WorkerState};
use diorama_core::id::{AttemptId, Pool, Round, RunId, Sha256Hex, ShardId, WorkerId};
use diorama_core::run::ModelIdentity;
use futures::StreamExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::{Bench, Tokens, rows, spec};

/// What a browser sends beside method and path.
type Headers<'a> = &'a [(&'a str, &'a str)];

async fn ask(bench: &Bench, method: &str, path: &str, headers: Headers<'_>, body: &str) -> Response<Body> {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    bench.router.clone().oneshot(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap()
}

/// The status, and the problem's code.
async fn code(bench: &Bench, method: &str, path: &str, headers: Headers<'_>, body: &str) -> (u16, String) {
    let response = ask(bench, method, path, headers, body).await;
    let status = response.status().as_u16();
    let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    (status, body["code"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn the_page_needs_no_token_and_is_not_sent_twice() {
    let bench = with_tokens();
    let page = ask(&bench, "GET", "/", &[], "").await;
    assert_eq!(page.status(), StatusCode::OK);
    assert_eq!(page.headers()[header::CONTENT_TYPE], "text/html; charset=utf-8");
    let policy = page.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
    assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    for path in ["/v1/runs", "/v1/blobs/x", "/livez", "/none"] {
        let answer = ask(&bench, "GET", path, &[], "").await;
        let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        assert_eq!((header("x-content-type-options"), header("x-frame-options")), ("nosniff".into(), "DENY".into()));
        assert!(header("content-security-policy").contains("frame-ancestors 'none'"), "{path}");
        assert_eq!(header("cross-origin-resource-policy"), "same-origin");
    }
    let tag = page.headers()[header::ETAG].to_str().unwrap().to_owned();
    let known = ask(&bench, "GET", "/", &[("if-none-match", &tag)], "").await;
    assert_eq!(known.status(), StatusCode::NOT_MODIFIED);
    assert!(known.headers().get(header::CONTENT_SECURITY_POLICY).is_none(), "the page would lose its own policy");
    let script = ask(&bench, "GET", "/assets/main.js", &[], "").await;
    assert_eq!(script.headers()[header::CONTENT_TYPE], "text/javascript; charset=utf-8");
    assert_eq!(code(&bench, "GET", "/assets/none.js", &[], "").await, (404, "unknown_path".to_owned()));
    assert_eq!(code(&bench, "GET", "/assets/..%2fmod.rs", &[], "").await, (404, "unknown_path".to_owned()));
}

/// A viewer eve, a submitter sam and an admin ada; each one's token is the name.
fn with_tokens() -> Bench {
    let file = tempfile::NamedTempFile::new().unwrap();
    let entry = |name: &str, role: &str| {
        format!("[[token]]\nname = \"{name}\"\nrole = \"{role}\"\nsha256 = \"{}\"\n", Sha256Hex::of(name.as_bytes()))
    };
    let entries = [entry("eve", "viewer"), entry("sam", "submitter"), entry("ada", "admin")].concat();
    std::fs::write(file.path(), entries).unwrap();
    Bench::new(|config| config.tokens = Some(Tokens::load(file.path()).unwrap()))
}

/// Logs in; the cookie that a browser sends from then on.
async fn log_in(bench: &Bench, token: &str) -> String {
    let headers = [("content-type", "application/json"), ("diorama-page", "1"), ("x-forwarded-proto", "https")];
    let answer = ask(bench, "POST", "/v1/session", &headers, &json!({ "token": token }).to_string()).await;
    assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    let cookie = answer.headers()[header::SET_COOKIE].to_str().unwrap();
    for wanted in ["HttpOnly", "SameSite=Strict", "Secure"] {
        assert!(cookie.contains(wanted), "{cookie}");
    }
    cookie.split(';').next().unwrap().to_owned()
}

#[tokio::test]
async fn whoever_logs_in_may_do_what_the_token_allows_and_only_from_the_page() {
    let bench = with_tokens();
    let json = ("content-type", "application/json");
    let wrong = [json, ("diorama-page", "1")];
    assert_eq!(code(&bench, "POST", "/v1/session", &wrong, "{\"token\":\"x\"}").await, (401, "unknown_token".into()));
    let elsewhere = code(&bench, "POST", "/v1/session", &[json], "{\"token\":\"eve\"}").await;
    assert_eq!(elsewhere, (403, "not_from_the_page".into()), "another page logs nobody in");
    assert_eq!(code(&bench, "GET", "/v1/session", &[], "").await, (401, "missing_token".into()));

    let (eve, sam) = (log_in(&bench, "eve").await, log_in(&bench, "sam").await);
    let (_, session) =
        bench.send(Request::builder().uri("/v1/session").header("cookie", &eve).body(Body::empty()).unwrap()).await;
    let expected = json!({
        "name": "eve", "role": "viewer", "group": null, "sees_all": true, "expires": null, "tokens": true
    });
    assert_eq!(session, expected);
    let pause = "/v1/runs/none/pause";
    let page = ("diorama-page", "1");
    assert_eq!(code(&bench, "POST", pause, &[("cookie", &eve), page], "").await, (403, "role_too_low".into()));
    assert_eq!(code(&bench, "POST", pause, &[("cookie", &sam)], "").await, (403, "not_from_the_page".into()));
    assert_eq!(code(&bench, "POST", pause, &[("cookie", &sam), page], "").await, (404, "unknown_run".into()));
    assert_eq!(code(&bench, "POST", pause, &[("authorization", "Bearer sam")], "").await, (404, "unknown_run".into()));
    assert_eq!(code(&bench, "GET", "/v1/runs", &[("cookie", "diorama_session=%%%")], "").await.0, 401);
    let other = format!("theme=dark; {eve}; x=y");
    assert_eq!(code(&bench, "GET", "/v1/runs", &[("cookie", &other)], "").await.0, 200, "among other cookies");

    let out = ask(&bench, "DELETE", "/v1/session", &[page], "").await;
    assert!(out.headers()[header::SET_COOKIE].to_str().unwrap().contains("Max-Age=0"));
}

/// Where no token is needed, whatever page the person at this machine opens can send requests.
#[tokio::test]
async fn without_tokens_only_this_machines_own_names_are_answered_and_no_other_page_changes_anything() {
    let bench = Bench::new(|_| ());
    let pause = "/v1/runs/none/pause";
    for host in ["localhost:8700", "127.0.0.1:8700", "[::1]:8700", "127.8.9.10", "diorama.localhost"] {
        assert_eq!(code(&bench, "POST", pause, &[("host", host)], "").await, (404, "unknown_run".into()), "{host}");
        let own = format!("http://{host}");
        let page = [("host", host), ("origin", own.as_str()), ("diorama-page", "1")];
        assert_eq!(code(&bench, "POST", pause, &page, "").await.0, 404, "{own}");
        assert_eq!(code(&bench, "POST", pause, &page[..2], "").await, (403, "not_from_the_page".into()), "a form's");
    }
    for host in
        ["evil.example", "evil.example:8700", "localhost.evil.example", "10.0.0.7:8700", "127.0.0.1.evil.example"]
    {
        assert_eq!(
            code(&bench, "GET", "/v1/runs", &[("host", host)], "").await,
            (403, "foreign_host".into()),
            "{host}"
        );
        for path in ["/", "/metrics", "/openapi.json", "/v1/session"] {
            assert_eq!(ask(&bench, "GET", path, &[("host", host)], "").await.status(), 403, "{path} as {host}");
        }
    }
    let host = ("host", "localhost:8700");
    for origin in ["http://evil.example", "null", "http://localhost:3000", "https://localhost.evil.example:8700"] {
        let asked = code(&bench, "POST", pause, &[host, ("origin", origin)], "").await;
        assert_eq!(asked, (403, "foreign_page".into()), "{origin}");
    }
    let (_, session) = bench.request("GET", "/v1/session").await;
    let expected = json!({
        "name": null, "role": "admin", "group": null, "sees_all": true, "expires": null, "tokens": false
    });
    assert_eq!(session, expected);
}

pub(super) fn heartbeat(worker: &str) -> Heartbeat {
    Heartbeat {
        worker: WorkerId::new(worker).unwrap(),
        pool: Pool::new("default").unwrap(),
        state: WorkerState::Working,
        model: "demo".to_owned(),
        identity: ModelIdentity { sha256: "0123".to_owned(), dtype: "f32".to_owned(), networks: Default::default() },
        device: "cuda:0".to_owned(),
        done: 3,
        vitals: Vitals { device_share: Some(0.75), ..Vitals::default() },
    }
}

#[tokio::test]
async fn the_overview_says_who_is_at_what_and_what_is_wrong() {
    let bench = Bench::new(|_| ());
    let (_, run) = bench.submit(&spec(), &rows(10), None).await;
    let id = RunId::new(run["run"].as_str().unwrap()).unwrap();
    let (_, fleet) = bench.request("GET", "/v1/fleet").await;
    assert_eq!(fleet["runs"][0]["run"], run["run"]);
    assert_eq!(fleet["runs"][0]["waiting"], json!({ "for": "worker" }), "{fleet}");
    assert_eq!(fleet["problems"][0]["code"], "no_workers", "{fleet}");
    assert_eq!(fleet["leader"], true);

    let progress = &bench.backends.progress;
    progress.heartbeat(&heartbeat("w1"), Duration::from_secs(3600)).await.unwrap();
    let shard = ShardId { round: Round(0), index: 1 };
    let attempt = AttemptId::new("a").unwrap();
    let holder = Holder { worker: WorkerId::new("w1").unwrap(), attempt, done: 2, failed: 0 };
    progress.hold(&id, shard, &holder, Duration::from_secs(3600)).await.unwrap();
    let fleet = loop {
        // A look is as old as that.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let (_, fleet) = bench.request("GET", "/v1/fleet").await;
        if fleet["workers"][0]["shard"].is_object() {
            break fleet;
        }
    };
    let worker = &fleet["workers"][0];
    assert_eq!(worker["shard"], json!({ "run": run["run"], "shard": "r0-000001", "done": 2 }));
    assert_eq!((&worker["device_share"], &worker["memory_bytes"]), (&json!(0.75), &Value::Null));
    assert_eq!(fleet["problems"], json!([]), "{fleet}");
    let (_, map) = bench.request("GET", &format!("/v1/runs/{id}/shards")).await;
    assert_eq!(map["held"], json!([{ "index": 1, "worker": "w1", "done": 2, "failed": 0 }]));
}

#[tokio::test]
async fn the_stream_of_the_fleet_begins_at_once_and_says_what_changes() {
    let bench = Bench::new(|_| ());
    let response = ask(&bench, "GET", "/v1/events", &[], "").await;
    assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
    let mut events = response.into_body().into_data_stream();
    let mut next = async || {
        let next = tokio::time::timeout(Duration::from_secs(60), events.next()).await.expect("an event");
        let text = String::from_utf8(next.unwrap().unwrap().to_vec()).unwrap();
        let data = text.strip_prefix("event: fleet\ndata: ").expect("the fleet");
        serde_json::from_str::<Value>(data).unwrap()
    };
    assert_eq!(next().await["runs"], json!([]));
    let (_, run) = bench.submit(&spec(), &rows(10), None).await;
    let mut fleet = next().await;
    while fleet["runs"].as_array().unwrap().is_empty() {
        fleet = next().await;
    }
    assert_eq!(fleet["runs"][0]["run"], run["run"]);
}
