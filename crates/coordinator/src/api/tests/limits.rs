//! What a request may take: refused before anything of a run is written.

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use bytes::Bytes;
use diorama_core::caps::Caps;
use diorama_core::id::Sha256Hex;
use futures::{StreamExt, stream};
use serde_json::{Value, json};

use super::{Bench, form, rows, spec};
use crate::api::{ApiLimits, Tokens};

fn with(key: &str, value: Value) -> Value {
    let mut spec = spec();
    spec[key] = value;
    spec
}

fn is_untouched(bench: &Bench) -> bool {
    ["runs", "index", "submitted"].iter().all(|folder| !bench.folder.path().join(folder).exists())
}

#[tokio::test]
async fn a_comparison_names_each_method_once_and_only_those_that_exist() {
    let bench = Bench::new(|_| ());
    for methods in [
        json!(["txt2img", "txt2img"]),
        Value::from(vec!["img2img"; 20_000]),
        json!(["img2img", "txt2img", "img2img"]),
        json!(["img2img", "img3img"]),
        json!([""]),
    ] {
        let (status, problem) = bench.submit(&with("compare", methods), &rows(3), None).await;
        assert_eq!((status, &problem["code"]), (StatusCode::BAD_REQUEST, &"invalid_spec".into()), "{problem}");
        assert!(problem["detail"].as_str().unwrap().len() < 500, "{problem}");
        assert!(is_untouched(&bench));
    }
    let (status, run) = bench.submit(&with("compare", json!(["txt2img"])), &rows(3), None).await;
    assert_eq!(status, StatusCode::CREATED, "{run}");
}

#[tokio::test]
async fn caps_hold_for_the_run_and_for_each_row() {
    let size = "512x512".parse().unwrap();
    let caps = Caps { shard_size: 8, retry_rounds: 1, size, steps: 60, accept_tries: 4 };
    let bench = Bench::new(|config| config.limits = ApiLimits { caps, ..ApiLimits::default() });
    for (spec, cap) in [
        (with("shard_size", json!(9)), "max_shard_size"),
        (with("retry", json!({ "max_rounds": 2 })), "max_retry_rounds"),
        (with("settings", json!({ "steps": 61 })), "max_steps"),
        (with("settings", json!({ "size": "1024x512" })), "max_size"),
    ] {
        let (status, problem) = bench.submit(&spec, &rows(3), None).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(cap), "{problem}");
    }
    let row = r#"{"custom_id":"x","prompt":"p","method":"txt2img","steps":61}"#;
    let fine = with("retry", json!({ "max_rounds": 1 }));
    let (status, problem) = bench.submit(&fine, &format!("{}\n{row}", rows(2)), None).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
    let issue = &problem["issues"][0];
    assert_eq!((&issue["line"], &issue["code"]), (&3.into(), &"invalid_settings".into()), "{problem}");
    assert!(is_untouched(&bench));
}

#[tokio::test]
async fn a_shard_whose_rows_fill_a_workers_memory_is_refused() {
    let bench = Bench::new(|config| config.max_manifest_bytes = 1 << 30);
    let prompt = "duck ".repeat(1900);
    let row = |index| json!({ "custom_id": format!("r{index}"), "prompt": prompt, "method": "txt2img" }).to_string();
    let rows = (0..1500).map(row).collect::<Vec<_>>().join("\n");
    let all = json!(["abs-grad-sam", "img2img", "img2img-reduced", "txt2img"]);
    let row = |spec: &Value| {
        let mut spec = spec.clone();
        spec["compare"] = all.clone();
        spec
    };
    // The references that the other methods need are looked for later.
    let with_reference = rows.replace("\"prompt\"", "\"reference\":\"https://example.org/a.png\",\"prompt\"");
    let (status, problem) = bench.submit(&row(&with("shard_size", json!(1500))), &with_reference, None).await;
    assert_eq!((status.as_u16(), &problem["code"]), (413, &"shard_too_large".into()), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("lower shard_size"), "{problem}");
    assert!(is_untouched(&bench));
    let (status, run) = bench.submit(&row(&with("shard_size", json!(500))), &with_reference, None).await;
    assert_eq!(status, StatusCode::CREATED, "{run}");
}

fn upload(content: &[u8], digest: &Sha256Hex, pieces: usize) -> Request<Body> {
    let pieces: Vec<_> = content.chunks(content.len().div_ceil(pieces)).map(Bytes::copy_from_slice).collect();
    let body = Body::from_stream(stream::iter(pieces.into_iter().map(Ok::<_, std::io::Error>)));
    Request::builder().method("PUT").uri(format!("/v1/blobs/{digest}")).body(body).unwrap()
}

#[tokio::test]
async fn a_blob_goes_over_the_disk_to_the_store_and_one_that_is_too_large_leaves_nothing() {
    let bench = Bench::new(|config| config.max_blob_bytes = 5 << 20);
    let content: Vec<u8> = (0..=255).cycle().take(4 << 20).collect();
    let digest = Sha256Hex::of(&content);
    for content in [&content[..], &content[..1000]] {
        let digest = Sha256Hex::of(content);
        assert_eq!(bench.send(upload(content, &digest, 9)).await.0, StatusCode::CREATED);
        let there = bench.backends.objects.get(&format!("blobs/{digest}")).await.unwrap();
        assert!(there == content);
    }
    let (status, problem) = bench.send(upload(&content[1..], &digest, 3)).await;
    assert_eq!((status.as_u16(), &problem["code"]), (400, &"wrong_digest".into()));
    let (status, problem) = bench.send(upload(&content.repeat(2), &digest, 7)).await;
    assert_eq!((status.as_u16(), &problem["code"]), (413, &"too_large".into()));
    let broken = stream::iter([Ok(Bytes::from_static(b"half")), Err(std::io::Error::other("gone"))]);
    let request = Request::builder().method("PUT").uri(format!("/v1/blobs/{digest}")).body(Body::from_stream(broken));
    let (status, problem) = bench.send(request.unwrap()).await;
    assert_eq!((status.as_u16(), &problem["code"]), (400, &"cut_off".into()));
    assert_eq!(std::fs::read_dir(bench.scratch()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_token_with_as_many_requests_as_it_may_have_does_not_keep_others_waiting() {
    let tokens = tempfile::NamedTempFile::new().unwrap();
    let entry = |name: &str| {
        format!("[[token]]\nname = \"{name}\"\nrole = \"submitter\"\nsha256 = \"{}\"\n", Sha256Hex::of(name.as_bytes()))
    };
    std::fs::write(tokens.path(), [entry("sam"), entry("tim")].concat()).unwrap();
    let bench = Bench::new(|config| {
        config.tokens = Some(Tokens::load(tokens.path()).unwrap());
        config.limits = ApiLimits { requests_of_a_token: 2, ..ApiLimits::default() };
    });
    let as_token = |mut request: Request<Body>, token: &str| {
        request.headers_mut().insert(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
        request
    };
    let endless = || {
        let body = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        Request::builder().method("PUT").uri(format!("/v1/blobs/{}", Sha256Hex::of(b"x"))).body(body).unwrap()
    };
    let look = || Request::builder().uri("/v1/token").body(Body::empty()).unwrap();
    let mut under_way: Vec<_> = (0..2).map(|_| Box::pin(bench.send(as_token(endless(), "sam")))).collect();
    for request in &mut under_way {
        assert!(futures::poll!(request.as_mut()).is_pending());
    }
    let (status, problem) = bench.send(as_token(look(), "sam")).await;
    assert_eq!((status.as_u16(), &problem["code"]), (429, &"too_many_requests".into()));
    assert_eq!(bench.send(as_token(look(), "tim")).await.0, StatusCode::OK);
    drop(under_way);
    assert_eq!(bench.send(as_token(look(), "sam")).await.0, StatusCode::OK);
    let request = as_token(form(&[("spec", &spec().to_string()), ("manifest", &rows(3))], None), "sam");
    assert_eq!(bench.send(request).await.0, StatusCode::CREATED);
}

#[tokio::test]
async fn what_stands_before_and_between_the_parts_of_a_form_is_short() {
    let bench = Bench::new(|_| ());
    let part = |name: &str| format!("--cut\r\nContent-Disposition: form-data; name=\"{name}\"\r\n");
    let good = format!("{}\r\n{}\r\n", part("spec"), spec());
    for begin in
        [String::new(), "--cut".to_owned(), part("spec"), good.clone() + "--cut\r\nX: ", good + &part("manifest")]
    {
        let endless = stream::repeat_with(|| Bytes::from_static(&[b'x'; 1 << 14]));
        let body = stream::once(async { Bytes::from(begin) }).chain(endless).map(Ok::<_, std::io::Error>);
        let request = Request::builder()
            .method("POST")
            .uri("/v1/runs")
            .header(header::CONTENT_TYPE, "multipart/form-data; boundary=cut")
            .body(Body::from_stream(body));
        let (status, problem) = bench.send(request.unwrap()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{problem}");
    }
    let other = Request::builder().method("POST").uri("/v1/runs").body(Body::from("{}")).unwrap();
    assert_eq!(bench.send(other).await.1["code"], "invalid_form");
}

#[tokio::test]
async fn a_log_in_that_never_ends_takes_no_memory() {
    let bench = Bench::new(|_| ());
    let endless = stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[b' '; 1 << 14])));
    let request = Request::builder()
        .method("POST")
        .uri("/v1/session")
        .header("diorama-page", "1")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from_stream(endless));
    let (status, problem) = bench.send(request.unwrap()).await;
    assert_eq!((status, &problem["code"]), (StatusCode::BAD_REQUEST, &"invalid_body".into()), "{problem}");
}

#[tokio::test]
async fn what_somebody_sent_comes_back_in_few_words() {
    let bench = Bench::new(|_| ());
    let long = "x".repeat(100_000);
    let many: serde_json::Map<_, _> = (0..50_000).map(|n| (format!("{n:x}"), json!(1))).collect();
    let wild: serde_json::Map<_, _> = (0..50_000).map(|n| (format!("{n:x}"), json!("\u{1b}"))).collect();
    for spec in [
        with("settings", Value::Object(many)),
        with("labels", Value::Object(wild)),
        with("format", json!(long)),
        with("manifest_format", json!(long)),
        with(&long, json!(1)),
    ] {
        let (status, problem) = bench.submit(&spec, &rows(1), None).await;
        assert_eq!((status, &problem["code"]), (StatusCode::BAD_REQUEST, &"invalid_spec".into()));
        assert!(problem.to_string().len() < 10_000, "{}", problem.to_string().len());
    }
    let long = &long[..60_000];
    for path in [format!("/v1/runs/{long}"), format!("/{long}"), format!("/v1/runs/{}", "%1b".repeat(20_000))] {
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        let (status, problem) = bench.send(request).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert!(problem.to_string().len() < 1000, "{}", problem.to_string().len());
    }
}

#[tokio::test]
async fn a_small_manifest_makes_no_thousands_of_shards() {
    let bench = Bench::new(|_| ());
    let many: String = (0..3000).map(|n| format!("{n:x},a\n")).collect();
    let mut one_each = with("shard_size", json!(1));
    one_each["manifest_format"] = "csv".into();
    one_each["settings"] = json!({ "method": "txt2img" });
    let manifest = format!("custom_id,prompt\n{many}");
    let (status, problem) = bench.submit(&one_each, &manifest, None).await;
    assert_eq!((status, &problem["code"]), (StatusCode::PAYLOAD_TOO_LARGE, &"too_many_shards".into()), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("take 2 or more") && is_untouched(&bench), "{problem}");
}

#[tokio::test]
async fn a_method_that_nobody_knows_makes_no_series_of_its_own() {
    let bench = Bench::new(|_| ());
    for n in 0..50 {
        let request = Request::builder().method(format!("ODD{n}").as_str()).uri("/livez").body(Body::empty()).unwrap();
        assert_eq!(bench.send(request).await.0, StatusCode::METHOD_NOT_ALLOWED);
    }
    let (_, metrics) = bench.request("GET", "/metrics").await;
    let metrics = metrics.as_str().unwrap();
    assert!(!metrics.contains("ODD"), "{metrics}");
    assert!(metrics.contains(r#"method="other""#), "{metrics}");
}
