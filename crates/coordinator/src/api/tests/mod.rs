//! The API over embedded services: what it takes, what it refuses and with which code, what a submission becomes.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use diorama_backends::objects::embedded::FolderObjects;
use diorama_backends::progress::embedded::EmbeddedProgress;
use diorama_backends::queue::embedded::EmbeddedQueue;
use diorama_core::id::{RunId, Sha256Hex};
use diorama_core::key::SharedKey;
use diorama_protocol::{Backends, Exclusive, RunStore};
use prometheus::Registry;
use serde_json::{Value, json};
use tokio::sync::watch;
use tower::ServiceExt;

use super::{Api, ApiConfig, ApiMetrics, Tokens, router};

mod bad_input;
mod damaged;
mod degraded;
mod events;
mod fleet;
mod fuzz;
mod limits;
mod lists;
mod object_manifest;
mod outcomes;
mod page;
mod pictures;
mod references;
mod tenants;
mod waiting;

struct Bench {
    folder: tempfile::TempDir,
    backends: Backends,
    api: Arc<Api>,
    router: Router,
}

impl Bench {
    fn new(change: impl FnOnce(&mut ApiConfig)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let objects = FolderObjects::open(folder.path()).unwrap();
        let backends = Backends {
            queue: Arc::new(EmbeddedQueue::default()),
            progress: Arc::new(EmbeddedProgress::default()),
            objects: Arc::new(objects.clone()),
            exclusive: Exclusive::ConditionalPut,
        };
        let mut config = ApiConfig {
            name: "test".to_owned(),
            backends: backends.clone(),
            remote: None,
            readable: diorama_core::address::Readable::default(),
            scratch: objects.scratch(),
            reference_root: None,
            plain_http: false,
            tokens: None,
            role_without_tokens: super::Role::Admin,
            max_manifest_bytes: 1 << 20,
            max_blob_bytes: 1 << 10,
            limits: Default::default(),
            leading: watch::channel(true).1,
            pools: Vec::new(),
            prices: Vec::new(),
            metrics: ApiMetrics::register(Registry::new()).unwrap(),
        };
        change(&mut config);
        let api = Api::new(config);
        Self { folder, backends, router: router(api.clone()), api }
    }

    fn store(&self, run: &str) -> RunStore {
        RunStore::shared(self.backends.objects.clone(), &RunId::new(run).unwrap())
    }

    fn scratch(&self) -> PathBuf {
        self.folder.path().join(".tmp")
    }

    async fn send(&self, request: Request<Body>) -> (StatusCode, Value) {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let is_problem =
            response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/problem+json");
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let value = serde_json::from_slice(&body).unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&body)));
        assert_eq!(is_problem, status.is_client_error() || status.is_server_error(), "{status}: {value}");
        (status, value)
    }

    async fn request(&self, method: &str, path: &str) -> (StatusCode, Value) {
        self.send(Request::builder().method(method).uri(path).body(Body::empty()).unwrap()).await
    }

    async fn submit(&self, spec: &Value, manifest: &str, key: Option<&str>) -> (StatusCode, Value) {
        self.send(form(&[("spec", &spec.to_string()), ("manifest", manifest)], key)).await
    }
}

/// A form with these parts.
fn form(parts: &[(&str, &str)], key: Option<&str>) -> Request<Body> {
    let mut body = String::new();
    for (name, content) in parts {
        body += &format!("--cut\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{content}\r\n");
    }
    body += "--cut--\r\n";
    let mut request = Request::builder()
        .method("POST")
        .uri("/v1/runs")
        .header(header::CONTENT_TYPE, "multipart/form-data; boundary=cut");
    if let Some(key) = key {
        request = request.header("Idempotency-Key", key);
    }
    request.body(Body::from(body)).unwrap()
}

fn rows(count: usize) -> String {
    let row = |index| json!({ "custom_id": format!("t{index}"), "prompt": "a duck", "method": "txt2img" }).to_string();
    (0..count).map(row).collect::<Vec<_>>().join("\n")
}

fn spec() -> Value {
    json!({ "pool": "default", "name": "ducks", "shard_size": 4 })
}

#[tokio::test]
async fn a_submitted_run_is_listed_steered_and_never_submitted_twice_by_one_key() {
    let bench = Bench::new(|_| ());
    let (status, run) = bench.submit(&spec(), &rows(10), Some("k")).await;
    assert_eq!(
        (status, &run["tasks"], &run["state"], &run["name"]),
        (StatusCode::CREATED, &10.into(), &"running".into(), &"ducks".into())
    );
    // As if the first one had stopped before the run was handed to the leading coordinator.
    let active = SharedKey::Active(RunId::new(run["run"].as_str().unwrap()).unwrap()).to_string();
    bench.backends.objects.delete(&active).await.unwrap();
    let (status, again) = bench.submit(&spec(), &rows(10), Some("k")).await;
    assert_eq!((status, &again["run"]), (StatusCode::OK, &run["run"]));
    assert!(bench.backends.objects.head(&active).await.unwrap().is_some(), "nobody drives it");
    let (_, other) = bench.submit(&spec(), &rows(10), None).await;
    assert_ne!(other["run"], run["run"]);

    let id = run["run"].as_str().unwrap();
    let (_, list) = bench.request("GET", "/v1/runs?limit=1").await;
    assert_eq!((&list["runs"][0]["run"], list["runs"].as_array().unwrap().len()), (&other["run"], 1), "newest first");
    let (_, rest) = bench.request("GET", &format!("/v1/runs?after={}", list["next"].as_str().unwrap())).await;
    assert_eq!((&rest["runs"][0]["run"], &rest["next"]), (&run["run"], &Value::Null));

    for (action, state) in [("pause", "paused"), ("pause", "paused"), ("resume", "running"), ("cancel", "cancelled")] {
        let (status, run) = bench.request("POST", &format!("/v1/runs/{id}/{action}")).await;
        assert_eq!((status, &run["state"]), (StatusCode::OK, &state.into()), "{action}");
    }
    let (status, problem) = bench.request("POST", &format!("/v1/runs/{id}/resume")).await;
    assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &"illegal_transition".into()));
    assert_eq!(problem["detail"], "a cancelled run cannot be resumed");
    let (_, spec) = bench.request("GET", &format!("/v1/runs/{id}/objects/run.json")).await;
    assert_eq!(spec["reference_root"], "", "another coordinator would make another spec of the same submission");
    let writer = bench.store(id).history().await.unwrap().rounds()[0].inputs.clone();
    let path = format!("/v1/runs/{id}/objects/input/r0-000002.{writer}.jsonl");
    let (status, input) = bench.request("GET", &path).await;
    assert_eq!(
        (status, input.as_str().unwrap().lines().count()),
        (StatusCode::OK, 2),
        "an object of the run, with slashes"
    );
    let (status, problem) = bench.request("GET", &format!("/v1/runs/{id}/objects/../../blobs/x")).await;
    assert!(status.is_client_error(), "{problem}");
}

#[tokio::test]
async fn a_bad_manifest_is_refused_with_every_issue_and_nothing_is_kept() {
    let bench = Bench::new(|_| ());
    let id = "x".repeat(10_000);
    let bad = [
        (
            r#"{"custom_id":"a","prompt":"p","method":"txt2img"}
{"custom_id":"a","prompt":"p","method":"txt2img"}"#,
            "duplicate_id",
        ),
        (r#"{"custom_id":"../a","prompt":"p","method":"txt2img"}"#, "unsafe_id"),
        (r#"{"custom_id":"a/b","prompt":"p","method":"txt2img"}"#, "unsafe_id"),
        (r#"{"custom_id":"a\u0007","prompt":"p","method":"txt2img"}"#, "unsafe_id"),
        (&format!(r#"{{"custom_id":"{id}","prompt":"p","method":"txt2img"}}"#), "unsafe_id"),
        (r#"{"custom_id":"a","prompt":"p","reference":"/etc/passwd"}"#, "local_reference"),
        (r#"{"custom_id":"a","prompt":"p","reference":"blob:12"}"#, "bad_reference"),
        (r#"{"custom_id":"a","prompt":"p","reference":"http://a/b"}"#, "bad_reference"),
        (r#"{"custom_id":"a","prompt":7,"method":"txt2img"}"#, "wrong_type"),
        (r#"{"custom_id":"a","prompt":"p","method":"txt2img","stepps":3}"#, "unknown_key"),
        ("", "empty_manifest"),
    ];
    for (manifest, code) in bad {
        let (status, problem) = bench.submit(&spec(), manifest, Some("k")).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{manifest}: {problem}");
        assert_eq!(problem["issues"][0]["code"], code, "{manifest}: {problem}");
    }
    assert_eq!(bench.request("GET", "/v1/runs").await.1, json!({ "runs": [] }));
    let left = std::fs::read_dir(bench.folder.path().join(".tmp")).unwrap().count();
    assert_eq!(left, 0, "an upload was left behind");
}

#[tokio::test]
async fn a_bad_form_is_refused_with_a_code() {
    let bench = Bench::new(|_| ());
    let manifest = rows(1);
    let cases = [
        (form(&[("manifest", &manifest)], None), 400, "missing_part"),
        (form(&[("spec", "{\"pool\":\"default\"}")], None), 400, "missing_part"),
        (form(&[("spec", "{\"pool\":\"a/b\"}"), ("manifest", &manifest)], None), 400, "invalid_spec"),
        (form(&[("spec", "{\"pool\":\"a\",\"pol\":1}"), ("manifest", &manifest)], None), 400, "invalid_spec"),
        (form(&[("spec", "{\"pool\":\"a\",\"shard_size\":0}"), ("manifest", &manifest)], None), 400, "invalid_spec"),
        (
            form(&[("spec", "{\"pool\":\"a\",\"settings\":{\"steps\":-1}}"), ("manifest", &manifest)], None),
            400,
            "invalid_spec",
        ),
        (form(&[("spec", "not json"), ("manifest", &manifest)], None), 400, "invalid_spec"),
        (form(&[("extra", "x")], None), 400, "unknown_part"),
        (form(&[("spec", "{\"pool\":\"a\"}"), ("manifest", &rows(30_000))], None), 413, "too_large"),
    ];
    for (request, status, code) in cases {
        let (found, problem) = bench.send(request).await;
        assert_eq!((found.as_u16(), &problem["code"]), (status, &code.into()), "{problem}");
    }
    // Cut off in the middle of the manifest.
    let whole = form(&[("spec", "{\"pool\":\"a\"}"), ("manifest", &manifest)], None);
    let (parts, body) = whole.into_parts();
    let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let cut = Request::from_parts(parts, Body::from(bytes.slice(..bytes.len() - 20)));
    let (status, problem) = bench.send(cut).await;
    assert_eq!((status.as_u16(), &problem["code"]), (400, &"cut_off".into()));
    for (method, path, status, code) in [
        ("GET", "/v1/runs/none", 404, "unknown_run"),
        ("GET", "/v1/runs/..%2f..", 404, "unknown_run"),
        ("POST", "/v1/runs/none/pause", 404, "unknown_run"),
        ("POST", "/v1/runs/none/explode", 404, "unknown_action"),
        ("GET", "/v2", 404, "unknown_path"),
        ("DELETE", "/v1/runs", 405, "method_not_allowed"),
    ] {
        let (found, problem) = bench.request(method, path).await;
        assert_eq!((found.as_u16(), &problem["code"]), (status, &code.into()), "{method} {path}: {problem}");
    }
}

#[tokio::test]
async fn a_blob_is_kept_under_its_digest_or_not_at_all() {
    let bench = Bench::new(|_| ());
    let (right, wrong) = (Sha256Hex::of(b"picture"), Sha256Hex::of(b"other"));
    let put = |sha256: &str, body: Vec<u8>| {
        Request::builder().method("PUT").uri(format!("/v1/blobs/{sha256}")).body(Body::from(body)).unwrap()
    };
    let head = async |sha256: &str| {
        let request = Request::builder().method("HEAD").uri(format!("/v1/blobs/{sha256}")).body(Body::empty()).unwrap();
        bench.router.clone().oneshot(request).await.unwrap().status()
    };
    assert_eq!(head(right.as_str()).await, StatusCode::NOT_FOUND);
    assert_eq!(bench.send(put(wrong.as_str(), b"picture".to_vec())).await.1["code"], "wrong_digest");
    assert_eq!(bench.send(put("12", b"picture".to_vec())).await.1["code"], "invalid_sha256");
    assert_eq!(bench.send(put(right.as_str(), vec![0; 2000])).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(head(wrong.as_str()).await, StatusCode::NOT_FOUND);
    assert_eq!(bench.send(put(right.as_str(), b"picture".to_vec())).await.0, StatusCode::CREATED);
    assert_eq!(head(right.as_str()).await, StatusCode::OK);
    assert_eq!(bench.request("GET", &format!("/v1/blobs/{right}")).await, (StatusCode::OK, "picture".into()));
    assert_eq!(bench.request("GET", &format!("/v1/blobs/{wrong}")).await.1["code"], "unknown_blob");
}

#[tokio::test]
async fn a_request_goes_as_far_as_its_token() {
    let tokens = tempfile::NamedTempFile::new().unwrap();
    let entry = |name: &str, role: &str| {
        format!("[[token]]\nname = \"{name}\"\nrole = \"{role}\"\nsha256 = \"{}\"\n", Sha256Hex::of(name.as_bytes()))
    };
    std::fs::write(tokens.path(), [entry("eve", "viewer"), entry("sam", "submitter")].concat()).unwrap();
    let bench = Bench::new(|config| config.tokens = Some(Tokens::load(tokens.path()).unwrap()));
    let ask = async |method: &str, path: &str, token: Option<&str>| {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let (status, body) = bench.send(request.body(Body::empty()).unwrap()).await;
        (status.as_u16(), body["code"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(ask("GET", "/v1/runs", None).await, (401, "missing_token".to_owned()));
    assert_eq!(ask("GET", "/v1/runs", Some("mallory")).await, (401, "unknown_token".to_owned()));
    assert_eq!(ask("GET", "/v1/runs", Some("eve")).await.0, 200);
    assert_eq!(ask("POST", "/v1/runs/x/pause", Some("eve")).await, (403, "role_too_low".to_owned()));
    assert_eq!(ask("POST", "/v1/runs/x/pause", Some("sam")).await, (404, "unknown_run".to_owned()));
    assert_eq!(ask("GET", "/livez", None).await.0, 200, "an orchestrator has no token");
}

#[tokio::test]
async fn the_openapi_document_names_every_path() {
    let bench = Bench::new(|_| ());
    let (status, document) = bench.request("GET", "/openapi.json").await;
    assert_eq!(status, StatusCode::OK);
    let paths: Vec<&String> = document["paths"].as_object().unwrap().keys().collect();
    for path in [
        "/v1/runs",
        "/v1/runs/{run}",
        "/v1/runs/{run}/{action}",
        "/v1/runs/{run}/retry",
        "/v1/runs/{run}/events",
        "/v1/runs/{run}/results",
        "/v1/runs/{run}/errors",
        "/v1/runs/{run}/objects/{path}",
        "/v1/blobs/{sha256}",
        "/v1/workers",
        "/v1/pools",
        "/v1/token",
        "/v1/session",
        "/v1/fleet",
        "/v1/events",
        "/v1/runs/{run}/spec",
        "/v1/runs/{run}/throughput",
        "/v1/runs/{run}/shards",
        "/v1/runs/{run}/shards/{shard}",
        "/v1/runs/{run}/pictures",
        "/v1/runs/{run}/tasks/{task}",
        "/v1/runs/{run}/failures",
        "/v1/runs/{run}/scores",
        "/v1/runs/{run}/files/{shard}/{task}/{role}",
        "/livez",
        "/readyz",
        "/metrics",
    ] {
        assert!(paths.iter().any(|known| *known == path), "{path} is not among {paths:?}");
    }
    let metrics = bench.request("GET", "/metrics").await.1;
    assert!(metrics.as_str().unwrap().contains("diorama_coordinator_leader 1"), "{metrics}");
}
