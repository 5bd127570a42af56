//! Bad input: each has its code in its place, and nothing of it is kept.

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use bytes::Bytes;
use diorama_core::id::Sha256Hex;
use futures::stream;
use serde_json::{Value, json};

use super::{Bench, form, rows, spec};
use crate::api::Tokens;

/// A form whose manifest is these bytes, sent piece by piece.
fn upload(manifest: impl IntoIterator<Item = Bytes, IntoIter: Send + 'static>) -> Request<Body> {
    let part = |name: &str| format!("--cut\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n");
    let head = format!("{}{}\r\n{}", part("spec"), spec(), part("manifest"));
    let pieces = std::iter::once(Bytes::from(head)).chain(manifest).chain([Bytes::from_static(b"\r\n--cut--\r\n")]);
    Request::builder()
        .method("POST")
        .uri("/v1/runs")
        .header(header::CONTENT_TYPE, "multipart/form-data; boundary=cut")
        .body(Body::from_stream(stream::iter(pieces.map(Ok::<_, std::io::Error>))))
        .unwrap()
}

fn nothing_is_kept(bench: &Bench) {
    assert_eq!(std::fs::read_dir(bench.folder.path().join(".tmp")).unwrap().count(), 0, "an upload was left behind");
    assert!(!bench.folder.path().join("runs").exists() && !bench.folder.path().join("index").exists());
}

/// `line code` of the first issue.
fn first_issue(problem: &Value) -> String {
    let issue = &problem["issues"][0];
    format!("{} {}", issue["line"], issue["code"].as_str().unwrap_or("-"))
}

#[tokio::test]
async fn bytes_that_are_no_manifest_are_refused_with_their_line_and_code() {
    let bench = Bench::new(|_| ());
    let good = r#"{"custom_id":"a","prompt":"p","method":"txt2img"}"#;
    let row = |extra: &str| good.replace('}', &format!(",{extra}}}"));
    let many = format!("{}\n{}", rows(9), rows(1));
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"{\"custom_id\":\"a\",\"prompt\":\"\xff\"}".to_vec(), "1 not_utf8"),
        (row("\"strength\":NaN").into_bytes(), "1 invalid_json"),
        (row("\"guidance\":\"3\"").into_bytes(), "1 wrong_type"),
        (row("\"seed\":-1").into_bytes(), "1 wrong_type"),
        (row("\"colour\":1,\"scheduller\":1").into_bytes(), "1 unknown_key"),
        // Of shards of four, the ninth row and the tenth line, which is the first row again.
        (many.into_bytes(), "10 duplicate_id"),
        (b"\n\r\n".to_vec(), "0 empty_manifest"),
        (b"\xef\xbb\xbf".to_vec(), "0 empty_manifest"),
        // A gzip bomb and its like are never opened.
        (b"\x1f\x8b\x08\0\0\0\0\0".to_vec(), "0 compressed"),
        (b"\x28\xb5\x2f\xfd\0\0".to_vec(), "0 compressed"),
        (b"PK\x03\x04\0\0".to_vec(), "0 compressed"),
        (format!("{good}\n{{\"custom_id\":\"b\",\"pro").into_bytes(), "2 invalid_json"),
    ];
    for (bytes, wanted) in cases {
        let shown = String::from_utf8_lossy(&bytes).into_owned();
        let (status, problem) = bench.send(upload([Bytes::from(bytes)])).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{shown}: {problem}");
        assert_eq!(first_issue(&problem), wanted, "{shown}: {problem}");
        nothing_is_kept(&bench);
    }
}

#[tokio::test]
async fn measures_that_cannot_be_taken_and_conditions_that_do_not_parse_are_refused_before_a_run_is_made() {
    let bench = Bench::new(|config| config.limits.caps.accept_tries = 4);
    for (key, value, expected) in [
        ("accept", json!("clip >"), "clip >\n      ^ a number was expected"),
        ("accept", json!("zlip > 1"), "zlip is not a measure; did you mean clip?"),
        ("accept", json!("(psnr > 1"), "a ) is missing"),
        ("measures", json!(["luma_mean", "nearly"]), "nearly is not a measure"),
        ("measures", json!(["fid"]), "fid is a measure of sets"),
        ("measures", json!(["psnr"]), "1 invalid_settings"),
        ("accept", json!("coverage < 0.5"), "1 invalid_settings"),
        ("accept", json!("luma_mean > 3 and clip_inside > 26"), "1 invalid_settings"),
    ] {
        let mut spec = spec();
        spec[key] = value.clone();
        let (status, problem) = bench.submit(&spec, &rows(2), None).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{value}: {problem}");
        let told = format!("{} {}", problem["detail"].as_str().unwrap(), first_issue(&problem));
        assert!(told.contains(expected), "{value}: {problem}");
        nothing_is_kept(&bench);
    }
    let mut spec = spec();
    spec["accept"] = json!("luma_mean > 3");
    spec["accept_tries"] = json!(5);
    let (status, problem) = bench.submit(&spec, &rows(2), None).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("max_accept_tries"), "{problem}");
    spec["accept_tries"] = json!(4);
    let (status, run) = bench.submit(&spec, &rows(2), None).await;
    assert_eq!(status, StatusCode::CREATED, "{run}");
    assert_eq!(run["acceptance"], json!({ "accepted": 0, "kept": 0, "tries": 0 }));
}

#[tokio::test]
async fn a_line_of_a_hundred_megabytes_is_refused_by_its_number_and_the_good_rows_beside_it_are_counted() {
    let bench = Bench::new(|config| config.max_manifest_bytes = 1 << 30);
    let piece = Bytes::from(vec![b'x'; 1 << 20]);
    let line = std::iter::repeat_n(piece, 100);
    let manifest =
        [Bytes::from(rows(1) + "\n")].into_iter().chain(line).chain([Bytes::from("\n".to_owned() + &rows(2))]);
    let (status, problem) = bench.send(upload(manifest)).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
    assert_eq!(first_issue(&problem), "2 line_too_long", "{problem}");
    let message = problem["issues"][0]["message"].as_str().unwrap();
    assert!(message.contains("has 104857601 bytes; at most 1048576"), "{message}");
    nothing_is_kept(&bench);
}

#[tokio::test]
async fn many_bad_rows_are_counted_and_few_of_them_are_told() {
    let bench = Bench::new(|_| ());
    let manifest = format!("{}\n{}", rows(1), "{}\n".repeat(12_000));
    let (status, problem) = bench.submit(&spec(), &manifest, None).await;
    assert_eq!((status, &problem["issue_count"]), (StatusCode::UNPROCESSABLE_ENTITY, &36_000.into()));
    assert_eq!(problem["issues"].as_array().unwrap().len(), 1000);
    let mut skip = spec();
    skip["skip_invalid"] = json!(true);
    let (status, run) = bench.submit(&skip, &manifest, None).await;
    assert_eq!((status, &run["invalid_rows"]), (StatusCode::CREATED, &12_000.into()), "{run}");
    let (_, errors) = bench.request("GET", &format!("/v1/runs/{}/errors", run["run"].as_str().unwrap())).await;
    let errors = errors.as_str().unwrap();
    assert_eq!(errors.lines().count(), 10_001);
    assert!(errors.lines().last().unwrap().contains("26000 more issues of skipped rows are not listed"));
}

#[tokio::test]
async fn a_submission_says_what_its_columns_are() {
    let bench = Bench::new(|_| ());
    let table = "name,caption,licence,method\na,a duck,CC0,txt2img\n";
    let submit = async |columns: Value, extra: &str| {
        let mut spec = spec();
        spec["manifest_format"] = json!("csv");
        spec["columns"] = columns;
        spec["extra_columns"] = json!(extra);
        bench.submit(&spec, table, None).await
    };
    let names = json!({"custom_id": "name", "prompt": "caption"});
    let (status, run) = submit(names.clone(), "carry").await;
    assert_eq!((status, &run["tasks"]), (StatusCode::CREATED, &1.into()), "{run}");
    let (status, problem) = submit(names, "refuse").await;
    assert_eq!((status.as_u16(), first_issue(&problem)), (422, "1 unknown_key".to_owned()), "{problem}");
    let (status, problem) = submit(json!({"promt": "caption"}), "carry").await;
    assert_eq!((status.as_u16(), &problem["code"]), (400, &"invalid_spec".into()), "{problem}");
}

#[tokio::test]
async fn a_manifest_from_windows_is_a_manifest() {
    let bench = Bench::new(|_| ());
    let manifest = format!("\u{feff}{}\r\n", rows(3).replace('\n', "\r\n"));
    let (status, run) = bench.send(upload([Bytes::from(manifest)])).await;
    assert_eq!((status, &run["tasks"]), (StatusCode::CREATED, &3.into()), "{run}");
}

#[tokio::test]
async fn a_request_that_is_compressed_as_a_whole_says_what_to_do() {
    let bench = Bench::new(|_| ());
    let mut request = form(&[("spec", &spec().to_string()), ("manifest", &rows(1))], None);
    request.headers_mut().insert(header::CONTENT_ENCODING, "gzip".parse().unwrap());
    let (status, problem) = bench.send(request).await;
    assert_eq!((status.as_u16(), &problem["code"]), (415, &"unsupported_encoding".into()), "{problem}");
    nothing_is_kept(&bench);
}

#[tokio::test]
async fn a_token_that_has_expired_or_allows_less_than_is_asked_says_so_and_deleting_is_for_admins() {
    let tokens = tempfile::NamedTempFile::new().unwrap();
    let entry = |name: &str, role: &str, more: &str| {
        let sha256 = Sha256Hex::of(name.as_bytes());
        format!("[[token]]\nname = \"{name}\"\nrole = \"{role}\"\nsha256 = \"{sha256}\"\n{more}\n")
    };
    let old = "expires = \"2020-01-01T00:00:00Z\"";
    let text = [entry("old", "admin", old), entry("sam", "submitter", ""), entry("ada", "admin", "")].concat();
    std::fs::write(tokens.path(), text).unwrap();
    let bench = Bench::new(|config| config.tokens = Some(Tokens::load(tokens.path()).unwrap()));
    let ask = async |method: &str, path: &str, token: &str| {
        let request =
            Request::builder().method(method).uri(path).header(header::AUTHORIZATION, format!("Bearer {token}"));
        let (status, body) = bench.send(request.body(Body::empty()).unwrap()).await;
        (status.as_u16(), body)
    };
    let (status, problem) = ask("GET", "/v1/runs", "old").await;
    assert_eq!((status, &problem["code"]), (401, &"expired_token".into()));
    assert!(problem["detail"].as_str().unwrap().contains("2020-01-01"), "{problem}");
    let (status, problem) = ask("DELETE", "/v1/runs/x", "sam").await;
    assert_eq!((status, &problem["code"]), (403, &"role_too_low".into()));
    assert_eq!(problem["detail"], "this needs the role admin; yours is submitter");
    assert_eq!(ask("DELETE", "/v1/runs/x", "ada").await.1["code"], "unknown_run");
    let (status, token) = ask("GET", "/v1/token", "sam").await;
    assert_eq!((status, &token["name"], &token["role"]), (200, &"sam".into(), &"submitter".into()));
    assert_eq!((&token["sees_all"], &token["expires"]), (&false.into(), &Value::Null));
    let open = Bench::new(|_| ());
    let (_, token) = open.request("GET", "/v1/token").await;
    assert_eq!((&token["name"], &token["role"]), (&Value::Null, &"admin".into()));
}

#[tokio::test]
async fn a_bad_body_of_a_retry_is_refused_and_names_what_it_may_be() {
    let bench = Bench::new(|_| ());
    let (_, run) = bench.submit(&spec(), &rows(1), None).await;
    let path = format!("/v1/runs/{}/retry", run["run"].as_str().unwrap());
    let ask = async |path: &str, body: String| {
        let request = Request::builder().method("POST").uri(path).body(Body::from(body)).unwrap();
        let (status, problem) = bench.send(request).await;
        (status.as_u16(), problem["code"].as_str().unwrap().to_owned(), problem["detail"].as_str().unwrap().to_owned())
    };
    let is = |(status, code, _): (u16, String, String)| (status, code);
    assert_eq!(is(ask(&path, "{".to_owned()).await), (400, "invalid_body".to_owned()));
    assert_eq!(is(ask(&path, r#"{"were":{}}"#.to_owned()).await), (400, "invalid_body".to_owned()));
    assert_eq!(is(ask(&path, r#"{"where":{"code":[]}}"#.to_owned()).await), (400, "invalid_body".to_owned()));
    assert_eq!(is(ask(&path, " ".repeat(100_000)).await), (413, "too_large".to_owned()));
    let (status, code, detail) = ask(&path, r#"{"where":{"code":["poison","posion"]}}"#.to_owned()).await;
    assert_eq!((status, code.as_str()), (400, "unknown_code"));
    assert!(detail.starts_with("where.code: \"posion\" is not an error code; the codes are "), "{detail}");
    assert_eq!(is(ask("/v1/runs/none/retry", String::new()).await), (404, "unknown_run".to_owned()));
    let (status, code, detail) = ask(&path, String::new()).await;
    assert_eq!((status, code.as_str()), (409, "not_ended"));
    assert_eq!(detail, "the run is running and has not ended; it can be retried when it has");
}
