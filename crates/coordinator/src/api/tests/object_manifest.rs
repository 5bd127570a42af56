//! A manifest that is an object of the store already: `manifest_object`.

use std::sync::Arc;

use async_trait::async_trait;
use axum::http::StatusCode;
use diorama_backends::objects::{ObjectError, ObjectReader, Objects, RemoteObjects};
use diorama_core::address::Readable;
use diorama_core::id::Sha256Hex;
use diorama_protocol::RunStore;
use futures::stream;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio_util::io::StreamReader;

use super::{ApiConfig, Bench, form, rows};

const KEY: &str = "manifests/ducks.jsonl";

async fn submit(bench: &Bench, object: &str) -> (StatusCode, Value) {
    let spec = json!({ "pool": "default", "shard_size": 4, "manifest_object": object }).to_string();
    bench.send(form(&[("spec", &spec)], None)).await
}

fn nothing_is_kept(bench: &Bench) {
    assert_eq!(std::fs::read_dir(bench.scratch()).unwrap().count(), 0, "a copy of the manifest was left behind");
    assert!(!bench.folder.path().join("runs").exists() && !bench.folder.path().join("index").exists());
}

#[tokio::test]
async fn a_manifest_in_the_store_makes_the_run_that_the_same_bytes_in_the_form_make() {
    let bench = Bench::new(reads);
    let manifest = rows(10);
    bench.backends.objects.put(KEY, manifest.clone().into()).await.unwrap();
    let (status, run) = submit(&bench, KEY).await;
    assert_eq!((status, &run["tasks"]), (StatusCode::CREATED, &10.into()), "{run}");
    let (_, sent) = bench.submit(&json!({ "pool": "default", "shard_size": 4 }), &manifest, None).await;
    let (store, sent) = (bench.store(run["run"].as_str().unwrap()), bench.store(sent["run"].as_str().unwrap()));
    let (spec, other) = (store.spec().await.unwrap().unwrap(), sent.spec().await.unwrap().unwrap());
    assert_eq!(spec.manifest_sha256, Sha256Hex::of(manifest.as_bytes()));
    let round = async |store: &RunStore| store.history().await.unwrap().rounds()[0].clone();
    let (this, that) = (round(&store).await, round(&sent).await);
    for shard in this.shard_ids() {
        let (this, that) = (store.input(shard, &this.inputs).await, sent.input(shard, &that.inputs).await);
        assert_eq!(this.unwrap().unwrap(), that.unwrap().unwrap());
    }
    assert_eq!((spec.tasks, spec.settings), (other.tasks, other.settings));
    assert_eq!(bench.backends.objects.get(KEY).await.unwrap(), manifest, "it is its owner's and stays");
    assert_eq!(std::fs::read_dir(bench.scratch()).unwrap().count(), 0, "a copy of the manifest was left behind");
}

#[tokio::test]
async fn a_manifest_in_the_store_that_cannot_be_taken_is_refused_with_a_code_and_nothing_is_kept() {
    let bench = Bench::new(|config| {
        reads(config);
        config.max_manifest_bytes = 1000;
    });
    for (key, bytes) in [(KEY, rows(2)), ("manifests/bad.jsonl", "{".to_owned()), ("manifests/large.jsonl", rows(100))]
    {
        bench.backends.objects.put(key, bytes.into()).await.unwrap();
    }
    for (object, status, code) in [
        ("manifests/absent.jsonl", 400, "object_refused"),
        ("../ducks.jsonl", 400, "object_refused"),
        ("manifests/../runs/x/run.json", 400, "object_refused"),
        ("/etc/passwd", 400, "object_refused"),
        ("", 400, "object_refused"),
        ("manifests/bad.jsonl", 422, "invalid_manifest"),
        ("manifests/large.jsonl", 413, "too_large"),
    ] {
        let (found, problem) = submit(&bench, object).await;
        assert_eq!((found.as_u16(), &problem["code"]), (status, &code.into()), "{object}: {problem}");
        nothing_is_kept(&bench);
    }
    let spec = json!({ "pool": "default", "manifest_object": KEY }).to_string();
    let manifest = rows(2);
    // Whichever part comes first.
    for parts in [[("spec", &spec), ("manifest", &manifest)], [("manifest", &manifest), ("spec", &spec)]] {
        let parts = parts.map(|(name, content)| (name, content.as_str()));
        let (found, problem) = bench.send(form(&parts, None)).await;
        assert_eq!((found.as_u16(), &problem["code"]), (400, &"two_manifests".into()), "{problem}");
        nothing_is_kept(&bench);
    }
}

/// Buckets that are folders of the fleet's own store; `cut` ends before its end.
struct Buckets(Arc<dyn Objects>);

#[async_trait]
impl RemoteObjects for Buckets {
    async fn open_in(&self, bucket: &str, key: &str) -> Result<ObjectReader, ObjectError> {
        let reader = self.0.open(&format!("{bucket}/{key}")).await?;
        if bucket != "cut" {
            return Ok(reader);
        }
        let broken = StreamReader::new(stream::iter([Err::<bytes::Bytes, _>(std::io::Error::from(
            std::io::ErrorKind::ConnectionReset,
        ))]));
        Ok(ObjectReader { bytes: reader.bytes, body: Box::pin(reader.body.take(20).chain(broken)) })
    }
}

/// What lies below `manifests/` of the fleet's own bucket is read for submitters, and two other buckets.
fn reads(config: &mut ApiConfig) {
    let places = ["fleet/manifests", "theirs", "cut"].map(|place| place.parse().unwrap());
    config.readable = Readable::new(places.to_vec(), Some("fleet".parse().unwrap()));
}

fn with_buckets() -> Bench {
    Bench::new(|config| {
        reads(config);
        config.remote = Some(Arc::new(Buckets(config.backends.objects.clone())));
    })
}

#[tokio::test]
async fn what_is_not_read_for_submitters_is_refused_in_the_same_words_whether_it_is_there_or_not() {
    let bench = with_buckets();
    let (_, run) = bench.submit(&json!({ "pool": "default" }), &rows(1), None).await;
    let run = run["run"].as_str().unwrap();
    let secret = Sha256Hex::of(b"of hr");
    for key in ["hr/salaries.csv", "theirs-not/a.csv", "other/a.csv"] {
        bench.backends.objects.put(key, format!("name,salary\nBob,{secret}\n").into()).await.unwrap();
    }
    let mut answers = std::collections::BTreeSet::new();
    for object in [
        "s3://hr/salaries.csv",
        "s3://hr/none.csv",
        "s3://none/none.csv",
        "s3://theirs-not/a.csv",
        "s3://theirs/../hr/salaries.csv",
        "s3://theirs/none.csv",
        "other/a.csv",
        "index/leader",
        &format!("runs/{run}/run.json"),
        &format!("s3://fleet/runs/{run}/run.json"),
        &format!("blobs/{secret}"),
    ] {
        let (status, problem) = submit(&bench, object).await;
        let text = problem.to_string();
        assert!(!text.contains("salary") && !text.replace(object, "").contains(secret.as_str()), "{text}");
        answers.insert((status.as_u16(), problem["code"].to_string(), text.replace(object, "OBJECT")));
    }
    assert_eq!(answers.len(), 1, "{answers:?}");
}

#[tokio::test]
async fn an_upload_may_be_a_manifest_by_its_digest() {
    let bench = with_buckets();
    let manifest = rows(3);
    let key = format!("blobs/{}", Sha256Hex::of(manifest.as_bytes()));
    bench.backends.objects.put(&key, manifest.into()).await.unwrap();
    assert_eq!(submit(&bench, &key).await.1["tasks"], 3);
}

#[tokio::test]
async fn a_row_may_name_only_what_is_read_for_submitters() {
    let bench = with_buckets();
    let row = |reference: &str| json!({ "custom_id": "a", "prompt": "a duck", "reference": reference }).to_string();
    for (reference, status) in [
        ("s3://theirs/a.png", 201),
        ("s3://hr/a.png", 422),
        ("s3://theirs/../hr/a.png", 422),
        ("s3://fleet/runs/x/images/a.png", 422),
    ] {
        let (found, answer) = bench.submit(&json!({ "pool": "default" }), &row(reference), None).await;
        assert_eq!(found.as_u16(), status, "{reference}: {answer}");
        if status == 422 {
            assert_eq!(answer["issues"][0]["code"], "reference_forbidden", "{answer}");
        }
    }
}

#[tokio::test]
async fn a_manifest_in_any_bucket_makes_a_run() {
    let bench = with_buckets();
    bench.backends.objects.put("theirs/ducks.jsonl", rows(10).into()).await.unwrap();
    let (status, run) = submit(&bench, "s3://theirs/ducks.jsonl").await;
    assert_eq!((status, &run["tasks"]), (StatusCode::CREATED, &10.into()), "{run}");
}

#[tokio::test]
async fn a_manifest_in_a_bucket_that_cannot_be_read_says_so_and_is_no_fault_of_our_disk() {
    let bench = with_buckets();
    bench.backends.objects.put("cut/ducks.jsonl", rows(10).into()).await.unwrap();
    for (address, status, code) in [
        ("s3://theirs/absent.jsonl", 400, "object_refused"),
        ("s3://theirs", 400, "object_refused"),
        ("s3:///ducks.jsonl", 400, "object_refused"),
        ("https://host/ducks.jsonl", 400, "object_refused"),
        ("s3://cut/ducks.jsonl", 503, "object_store_unavailable"),
    ] {
        let (found, problem) = submit(&bench, address).await;
        assert_eq!((found.as_u16(), &problem["code"]), (status, &code.into()), "{address}: {problem}");
        assert_eq!(std::fs::read_dir(bench.scratch()).unwrap().count(), 0, "a copy of the manifest was left behind");
    }
    let without = Bench::new(|_| ());
    let (found, problem) = submit(&without, "s3://theirs/ducks.jsonl").await;
    assert_eq!((found.as_u16(), &problem["code"]), (400, &"object_refused".into()), "{problem}");
}
