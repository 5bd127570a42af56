//! Several people at one API: each sees and steers what is theirs, and takes no more than they may.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use diorama_core::id::Sha256Hex;
use futures::StreamExt;
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tower::ServiceExt;

use super::{Bench, Tokens, form, rows, spec};

/// Whose token is the name, with what stands behind it in the file.
const PEOPLE: [(&str, &str, &str); 7] = [
    ("sam", "submitter", ""),
    ("tim", "submitter", ""),
    ("kim", "submitter", "group = \"birds\""),
    ("lee", "submitter", "group = \"birds\""),
    ("joe", "submitter", "sees = \"all\""),
    ("eve", "viewer", ""),
    ("ada", "admin", ""),
];

struct Team {
    bench: Bench,
    file: NamedTempFile,
}

fn entry((name, role, more): (&str, &str, &str)) -> String {
    let sha256 = Sha256Hex::of(name.as_bytes());
    format!("[[token]]\nname = \"{name}\"\nrole = \"{role}\"\nsha256 = \"{sha256}\"\n{more}\n")
}

impl Team {
    fn new() -> Self {
        Self::with("")
    }

    /// `limits` are sam's.
    fn with(limits: &str) -> Self {
        let file = NamedTempFile::new().unwrap();
        let limited = |(name, role, more)| entry((name, role, if name == "sam" { limits } else { more }));
        std::fs::write(file.path(), PEOPLE.map(limited).concat()).unwrap();
        let bench = Bench::new(|config| config.tokens = Some(Tokens::load(file.path()).unwrap()));
        Self { bench, file }
    }

    async fn ask(&self, who: &str, method: &str, path: &str) -> (u16, Value) {
        let request =
            Request::builder().method(method).uri(path).header(header::AUTHORIZATION, format!("Bearer {who}"));
        let (status, body) = self.bench.send(request.body(Body::empty()).unwrap()).await;
        (status.as_u16(), body)
    }

    async fn submit(&self, who: &str, spec: &Value, manifest: &str, key: Option<&str>) -> (u16, Value) {
        let mut request = form(&[("spec", &spec.to_string()), ("manifest", manifest)], key);
        request.headers_mut().insert(header::AUTHORIZATION, format!("Bearer {who}").parse().unwrap());
        let (status, body) = self.bench.send(request).await;
        (status.as_u16(), body)
    }

    /// A new run of this person.
    async fn run_of(&self, who: &str) -> String {
        let (status, run) = self.submit(who, &spec(), &rows(4), None).await;
        assert_eq!(status, 201, "{run}");
        run["run"].as_str().unwrap().to_owned()
    }

    /// Every method and path of the API that is about a run, of `run`.
    async fn about(&self, run: &str) -> Vec<(String, String)> {
        let (_, document) = self.ask("ada", "GET", "/openapi.json").await;
        let paths = document["paths"].as_object().unwrap();
        let about = paths.iter().filter(|(path, _)| path.contains("{run}"));
        let filled = |path: &str| {
            [("{run}", run), ("{action}", "pause"), ("{shard}", "r0-000000"), ("{task}", "0"), ("{role}", "image")]
                .iter()
                .fold(path.replace("{path}", "run.json"), |path, (name, value)| path.replace(name, value))
        };
        let methods = about.flat_map(|(path, item)| item.as_object().unwrap().keys().map(move |method| (method, path)));
        methods.map(|(method, path)| (method.to_uppercase(), filled(path))).collect()
    }
}

fn refusal((status, body): &(u16, Value)) -> (u16, String) {
    (*status, body["code"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn nothing_of_a_run_is_told_to_somebody_else_by_any_path_of_the_api() {
    let team = Team::new();
    let run = team.run_of("sam").await;
    let (about, absent) = (team.about(&run).await, team.about("none").await);
    assert!(about.len() >= 17, "{about:?}");
    for ((method, path), (_, missing)) in about.iter().zip(&absent) {
        let found = team.ask("tim", method, path).await;
        let code = if method == "DELETE" { (403, "role_too_low") } else { (404, "unknown_run") };
        assert_eq!(refusal(&found), (code.0, code.1.to_owned()), "{method} {path}");
        let nothing = team.ask("tim", method, missing).await;
        let (found, nothing) = (found.1.to_string().replace(&run, "RUN"), nothing.1.to_string().replace("none", "RUN"));
        assert_eq!(found, nothing, "{method} {path}: what is another's is told from what is not there");
        if method == "POST" {
            assert_eq!(refusal(&team.ask("joe", method, path).await), (403, "not_your_run".to_owned()), "{path}");
        }
        if method == "GET" && !path.ends_with("/events") {
            for who in ["sam", "joe", "eve", "ada"] {
                let (status, body) = team.ask(who, method, path).await;
                assert_ne!(body["code"], "unknown_run", "{who} {path}: {status}");
            }
        }
    }
    assert_eq!(
        team.ask("ada", "GET", &format!("/v1/runs/{run}")).await.1["state"],
        "running",
        "and nothing changed it"
    );
    assert_eq!(team.ask("sam", "POST", &format!("/v1/runs/{run}/pause")).await.0, 200);
    assert_eq!(team.ask("ada", "POST", &format!("/v1/runs/{run}/cancel")).await.0, 200);
}

#[tokio::test]
async fn lists_and_the_fleet_show_each_one_their_own() {
    let team = Team::new();
    let (sam, kim) = (team.run_of("sam").await, team.run_of("kim").await);
    for (who, seen) in [
        ("sam", vec![&sam]),
        ("tim", vec![]),
        ("kim", vec![&kim]),
        ("lee", vec![&kim]),
        ("joe", vec![&kim, &sam]),
        ("eve", vec![&kim, &sam]),
        ("ada", vec![&kim, &sam]),
    ] {
        for path in ["/v1/runs", "/v1/runs?active=true", "/v1/runs?name=duck", "/v1/fleet"] {
            let (_, answer) = team.ask(who, "GET", path).await;
            let runs: Vec<_> = answer["runs"].as_array().unwrap().iter().map(|run| run["run"].clone()).collect();
            assert_eq!(runs, seen.iter().map(|run| json!(run)).collect::<Vec<_>>(), "{who} {path}");
            let text = answer.to_string();
            for run in [&sam, &kim] {
                assert_eq!(text.contains(run.as_str()), seen.contains(&run), "{who} {path}: {text}");
            }
        }
    }
    let (_, own) = team.ask("kim", "GET", &format!("/v1/runs/{kim}")).await;
    assert_eq!(own["owner"], json!({ "token": "kim", "group": "birds" }));
    assert_eq!(team.ask("lee", "POST", &format!("/v1/runs/{kim}/pause")).await.0, 200, "the group's");
    // A page is full of runs that are seen.
    let (_, page) = team.ask("sam", "GET", "/v1/runs?limit=1").await;
    assert_eq!((&page["runs"][0]["run"], &page["next"]), (&json!(sam), &Value::Null), "{page}");
}

#[tokio::test]
async fn who_waits_behind_anothers_run_is_told_only_that_it_waits() {
    let team = Team::new();
    let first = json!({ "pool": "default", "priority": 5 });
    let (_, before) = team.submit("sam", &first, &rows(4), None).await;
    let waiting = team.run_of("tim").await;
    team.bench.backends.progress.heartbeat(&super::page::heartbeat("w1"), Duration::from_secs(3600)).await.unwrap();
    let path = format!("/v1/runs/{waiting}");
    let seen = async |who: &str| team.ask(who, "GET", &path).await.1["waiting"].clone();
    assert_eq!(seen("eve").await["run"], before["run"], "a viewer sees all");
    assert_eq!(seen("tim").await, json!({ "for": "turn" }));
    assert!(!team.ask("tim", "GET", "/v1/fleet").await.1.to_string().contains(before["run"].as_str().unwrap()));
}

#[tokio::test]
async fn an_idempotency_key_is_its_tokens_and_names_one_request() {
    let team = Team::new();
    let (status, first) = team.submit("tim", &spec(), &rows(2), Some("k")).await;
    assert_eq!(status, 201);
    let (status, other) = team.submit("sam", &spec(), &rows(2), Some("k")).await;
    assert_eq!(status, 201, "another's key is another key");
    assert_ne!(other["run"], first["run"]);
    for (spec, manifest) in
        [(spec(), rows(3)), (json!({ "pool": "default", "name": "geese", "shard_size": 4 }), rows(2))]
    {
        let refused = team.submit("tim", &spec, &manifest, Some("k")).await;
        assert_eq!(refusal(&refused), (422, "idempotency_key_reused".to_owned()));
    }
    let (status, again) = team.submit("tim", &spec(), &rows(2), Some("k")).await;
    assert_eq!((status, &again["run"]), (200, &first["run"]));
    // What is left out is what its default says: the same request.
    let mut said = spec();
    said["weight"] = json!(1);
    assert_eq!(team.submit("tim", &said, &rows(2), Some("k")).await.1["run"], first["run"]);
    let bad = team.submit("tim", &spec(), &rows(2), Some("a\tb")).await;
    assert_eq!(refusal(&bad), (400, "invalid_idempotency_key".to_owned()));
}

#[tokio::test]
async fn a_token_takes_no_more_than_its_limits() {
    let limits = "[token.limits]\nactive_runs = 2\nrows = 5\nbytes = 500\nblobs = 2\nstreams = 1\npriority = [-5, 0]\n\
                  weight = [1, 2]\npools = [\"default\"]";
    let team = Team::with(limits);
    let submit = async |spec: Value, manifest: String| refusal(&team.submit("sam", &spec, &manifest, None).await);
    let refused = |status: u16, code: &str| (status, code.to_owned());
    let fine = json!({ "pool": "default" });
    assert_eq!(submit(json!({ "pool": "gpu" }), rows(1)).await, refused(403, "pool_not_yours"));
    assert_eq!(submit(json!({ "pool": "default", "priority": 1 }), rows(1)).await, refused(403, "beyond_your_limits"));
    assert_eq!(submit(json!({ "pool": "default", "weight": 3 }), rows(1)).await, refused(403, "beyond_your_limits"));
    assert_eq!(submit(fine.clone(), rows(6)).await, refused(403, "too_many_rows"));
    assert_eq!(submit(fine.clone(), rows(50)).await, refused(413, "too_large"));
    let runs = [team.run_of("sam").await, team.run_of("sam").await];
    assert_eq!(submit(fine.clone(), rows(1)).await, refused(429, "too_many_runs"));
    team.run_of("tim").await;

    for (content, status) in [("a", 201), ("b", 201), ("c", 429)] {
        let sha256 = Sha256Hex::of(content.as_bytes());
        let request = Request::put(format!("/v1/blobs/{sha256}")).header(header::AUTHORIZATION, "Bearer sam");
        assert_eq!(team.bench.send(request.body(Body::from(content)).unwrap()).await.0.as_u16(), status);
    }

    let follow = async |run: &str| {
        let request = Request::get(format!("/v1/runs/{run}/events")).header(header::AUTHORIZATION, "Bearer sam");
        team.bench.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    };
    let one = follow(&runs[0]).await;
    assert_eq!(one.status(), StatusCode::OK);
    assert_eq!(follow(&runs[1]).await.status(), StatusCode::TOO_MANY_REQUESTS);
    drop(one);
    assert_eq!(follow(&runs[1]).await.status(), StatusCode::OK, "what is not followed any more is given back");
}

#[tokio::test]
async fn runs_go_into_pools_that_there_are_where_some_are_declared() {
    let bench = Bench::new(|config| config.pools = vec!["gpu".parse().unwrap()]);
    bench.backends.progress.heartbeat(&super::page::heartbeat("w1"), Duration::from_secs(3600)).await.unwrap();
    for (pool, status) in [("gpu", 201), ("default", 201), ("made-up", 400)] {
        let (found, answer) = bench.submit(&json!({ "pool": pool }), &rows(1), None).await;
        assert_eq!(found.as_u16(), status, "{pool}: {answer}");
        if status == 400 {
            assert_eq!(answer["code"], "unknown_pool");
            assert_eq!(answer["detail"], "there is no pool made-up; there are: default, gpu");
        }
    }
}

#[tokio::test]
async fn a_stream_ends_with_the_token_that_follows_it() {
    let team = Team::new();
    let run = team.run_of("sam").await;
    for path in [format!("/v1/runs/{run}/events"), "/v1/events".to_owned()] {
        let request = Request::get(&path).header(header::AUTHORIZATION, "Bearer sam").body(Body::empty()).unwrap();
        let mut events = team.bench.router.clone().oneshot(request).await.unwrap().into_body().into_data_stream();
        events.next().await.unwrap().unwrap();
        std::fs::write(team.file.path(), entry(("ada", "admin", ""))).unwrap();
        let tokens = team.bench.api.config.tokens.as_ref().unwrap();
        tokens.reload().unwrap();
        let ended = async { while events.next().await.is_some() {} };
        tokio::time::timeout(Duration::from_secs(60), ended).await.expect("the stream ends");
        std::fs::write(team.file.path(), PEOPLE.map(entry).concat()).unwrap();
        tokens.reload().unwrap();
    }
}

#[tokio::test]
async fn no_control_character_is_taken_in_what_others_will_see() {
    let bench = Bench::new(|_| ());
    for wild in ["\u{1b}]0;owned\u{7}", "a\nb", "a\u{7f}b", "a\u{9b}b", "a\u{202e}b"] {
        for spec in [
            json!({ "pool": "default", "name": wild }),
            json!({ "pool": "default", "manifest": wild }),
            json!({ "pool": "default", "labels": { "team": wild } }),
            json!({ "pool": "default", "labels": { wild: "sea" } }),
        ] {
            let (status, problem) = bench.submit(&spec, &rows(1), None).await;
            assert_eq!((status.as_u16(), &problem["code"]), (400, &"invalid_spec".into()), "{spec}");
            let detail = problem["detail"].as_str().unwrap();
            assert_eq!(diorama_core::text::control(detail), None, "{detail:?}");
        }
    }
    assert_eq!(bench.submit(&json!({ "pool": "default", "name": "Möwe 海鷗" }), &rows(1), None).await.0, 201);
}
