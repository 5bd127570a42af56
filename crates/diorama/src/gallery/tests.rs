//! What the page promises without a browser; `tests/` looks at it in Chromium.

use diorama_core::id::{Pool, RunId, Seed, Sha256Hex};
use diorama_core::retry::RetryPolicy;
use diorama_core::run::{ModelIdentity, OutputFormat};
use diorama_core::settings::Settings;

use super::*;

fn spec() -> RunSpec {
    RunSpec {
        version: 1,
        run: RunId::generate(),
        pool: Pool::new("embedded").unwrap(),
        submitted_at: jiff::Timestamp::UNIX_EPOCH,
        manifest: "set/<b>rows</b>.jsonl".to_owned(),
        manifest_sha256: Sha256Hex::of(b""),
        reference_root: "/nowhere".to_owned(),
        settings: Settings::default(),
        seed: Seed::default(),
        compare: Vec::new(),
        format: OutputFormat::Files,
        shard_size: 64,
        tasks: 1,
        invalid_rows: 0,
        retry: RetryPolicy::default(),
        model: Some(ModelIdentity { sha256: "none".to_owned(), dtype: "f32".to_owned() }),
        name: None,
        priority: 0,
        weight: 1,
    }
}

#[test]
fn nothing_from_outside_becomes_markup_or_a_place_in_the_template() {
    let folder = tempfile::tempdir().unwrap();
    let evil = "</script><img src=x onerror=alert(1)> {{SCRIPT}} & <!--";
    let task = serde_json::json!({"index": 0, "custom_id": "a", "reference": null, "prompt": evil, "seed": 1});
    std::fs::create_dir(folder.path().join("input")).unwrap();
    std::fs::write(folder.path().join("input/r0-000000.jsonl"), format!("{task}\n")).unwrap();
    std::fs::write(folder.path().join("run.json"), serde_json::to_string(&spec()).unwrap()).unwrap();

    let html = std::fs::read_to_string(write(folder.path()).unwrap()).unwrap();
    assert!(!html.contains("<img src=x") && !html.contains("<b>rows"), "markup came through");
    assert_eq!(html.matches("\"use strict\"").count(), 1, "the script was put into the data");
    let data = html.split("id=\"data\">").nth(1).unwrap().split("</script>").next().unwrap();
    let data: serde_json::Value = serde_json::from_str(data).unwrap();
    assert_eq!(data["rows"][0]["prompt"], evil);
    assert_eq!(data["rows"][0]["error"]["code"], "pending");
}

#[test]
fn the_page_names_no_outer_resource() {
    let html = page::render(&spec(), None, &Rows::default());
    for word in ["http:", "https:", "src=\"//", "@import", "url("] {
        assert!(!html.contains(word), "{word}");
    }
}

#[test]
fn a_folder_without_a_run_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = format!("{:#}", write(folder.path()).unwrap_err());
    assert!(error.contains("is no folder of a run"), "{error}");
}
