//! A manifest that is an object of the store already: `manifest_object`.

use axum::http::StatusCode;
use diorama_core::id::Sha256Hex;
use serde_json::{Value, json};

use super::{Bench, form, rows};

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
    let bench = Bench::new(|_| ());
    let manifest = rows(10);
    bench.backends.objects.put(KEY, manifest.clone().into()).await.unwrap();
    let (status, run) = submit(&bench, KEY).await;
    assert_eq!((status, &run["tasks"]), (StatusCode::CREATED, &10.into()), "{run}");
    let (_, sent) = bench.submit(&json!({ "pool": "default", "shard_size": 4 }), &manifest, None).await;
    let (store, sent) = (bench.store(run["run"].as_str().unwrap()), bench.store(sent["run"].as_str().unwrap()));
    let (spec, other) = (store.spec().await.unwrap().unwrap(), sent.spec().await.unwrap().unwrap());
    assert_eq!(spec.manifest_sha256, Sha256Hex::of(manifest.as_bytes()));
    for shard in store.round(diorama_core::id::Round(0)).await.unwrap().unwrap().shard_ids() {
        assert_eq!(store.input(shard).await.unwrap(), sent.input(shard).await.unwrap());
    }
    assert_eq!((spec.tasks, spec.settings), (other.tasks, other.settings));
    assert_eq!(bench.backends.objects.get(KEY).await.unwrap(), manifest, "it is its owner's and stays");
    assert_eq!(std::fs::read_dir(bench.scratch()).unwrap().count(), 0, "a copy of the manifest was left behind");
}

#[tokio::test]
async fn a_manifest_in_the_store_that_cannot_be_taken_is_refused_with_a_code_and_nothing_is_kept() {
    let bench = Bench::new(|config| config.max_manifest_bytes = 1000);
    for (key, bytes) in [(KEY, rows(2)), ("manifests/bad.jsonl", "{".to_owned()), ("manifests/large.jsonl", rows(100))]
    {
        bench.backends.objects.put(key, bytes.into()).await.unwrap();
    }
    for (object, status, code) in [
        ("manifests/absent.jsonl", 404, "unknown_object"),
        ("../ducks.jsonl", 400, "invalid_key"),
        ("/etc/passwd", 400, "invalid_key"),
        ("", 400, "invalid_key"),
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
