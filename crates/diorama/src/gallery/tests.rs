//! What the page promises without a browser; `tests/` looks at it in Chromium.

use std::sync::Arc;

use diorama_backends::objects::embedded::FolderObjects;
use diorama_backends::progress::embedded::EmbeddedProgress;
use diorama_backends::queue::embedded::EmbeddedQueue;
use diorama_coordinator::{Submission, submit};
use diorama_core::id::{AttemptId, CustomId, Pool, Round, RunId, Seed, Sha256Hex, ShardId, TaskIndex, WorkerId};
use diorama_core::manifest::ManifestIssue;
use diorama_core::marker::{CommitMarker, settings_digest};
use diorama_core::outcome::{ErrorCode, Outcome, TaskError, TaskOutcome};
use diorama_core::retry::RetryPolicy;
use diorama_core::round::RoundInfo;
use diorama_core::run::{Labels, ModelIdentity, OutputFormat, RunSpec};
use diorama_core::settings::Settings;
use diorama_core::task::Task;
use diorama_protocol::decision::Act;
use diorama_protocol::{Backends, Exclusive, RunStore};
use jiff::Timestamp;

use super::rows::Rows;
use super::*;

fn spec() -> RunSpec {
    RunSpec {
        version: 1,
        owner: None,
        request_sha256: None,
        run: RunId::generate(),
        pool: Pool::new("embedded").unwrap(),
        submitted_at: jiff::Timestamp::UNIX_EPOCH,
        manifest: "set/<b>rows</b>.jsonl".to_owned(),
        manifest_sha256: Sha256Hex::of(b""),
        reference_root: "/nowhere".to_owned(),
        settings: Settings::default(),
        seed: Seed::default(),
        compare: Vec::new(),
        measures: Vec::new(),
        accept: None,
        format: OutputFormat::Files,
        shard_size: 64,
        tasks: 1,
        invalid_rows: 0,
        retry: RetryPolicy::default(),
        keep_references: false,
        stop_if: None,
        model: Some(ModelIdentity { sha256: "none".to_owned(), dtype: "f32".to_owned(), networks: Default::default() }),
        name: None,
        labels: Labels::new(),
        priority: 0,
        weight: 1,
    }
}

fn task(index: u64, prompt: &str) -> Task {
    Task {
        index: TaskIndex(index),
        custom_id: CustomId::new(format!("t{index}")).unwrap(),
        reference: None,
        region: None,
        prompt: prompt.to_owned(),
        subjects: None,
        seed: Seed::new(1).unwrap(),
        settings: Settings::default(),
        extra: Default::default(),
    }
}

/// A run in a folder, submitted with these prompts.
struct Bench {
    folder: tempfile::TempDir,
    backends: Backends,
    store: RunStore,
    spec: RunSpec,
}

impl Bench {
    async fn submitted(prompts: &[&str], invalid: Vec<ManifestIssue>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let backends = Backends {
            queue: Arc::new(EmbeddedQueue::default()),
            progress: Arc::new(EmbeddedProgress::default()),
            objects: Arc::new(FolderObjects::open(folder.path()).unwrap()),
            exclusive: Exclusive::ConditionalPut,
        };
        let store = RunStore::new(backends.objects.clone(), RunRoot::Own);
        let tasks: Vec<_> = (0..).zip(prompts).map(|(index, prompt)| Ok(task(index, prompt))).collect();
        let spec = RunSpec { tasks: tasks.len() as u64, invalid_rows: invalid.len() as u64, ..spec() };
        let submission = Submission { spec, tasks: Box::new(tasks.into_iter()), invalid };
        let spec = submit(&backends, &store, "test", submission).await.unwrap();
        Self { folder, backends, store, spec }
    }

    /// Commits the first shard of a round.
    async fn commit(&self, round: u32, outcomes: Vec<(u64, Outcome)>) {
        let outcome = |(index, outcome)| {
            let Task { index, custom_id, seed, .. } = task(index, "");
            TaskOutcome { task: index, custom_id, seed, outcome, extra: Default::default() }
        };
        let marker = CommitMarker {
            version: 2,
            run: self.spec.run.clone(),
            shard: ShardId { round: Round(round), index: 0 },
            attempt: AttemptId::generate(),
            worker: WorkerId::new("w").unwrap(),
            model: self.spec.model.clone(),
            settings: settings_digest(&self.spec),
            archives: Vec::new(),
            outcomes: outcomes.into_iter().map(outcome).collect(),
            started_at: Timestamp::UNIX_EPOCH,
            committed_at: Timestamp::UNIX_EPOCH,
            device_seconds: 0.0,
        };
        self.backends.commit(&self.store, marker).await.unwrap();
    }

    /// The page, and the data in it.
    async fn page(&self) -> (String, serde_json::Value) {
        let html = std::fs::read_to_string(write(self.folder.path()).await.unwrap()).unwrap();
        let data = html.split("id=\"data\">").nth(1).unwrap().split("</script>").next().unwrap();
        let data = serde_json::from_str(data).unwrap();
        (html, data)
    }
}

#[tokio::test]
async fn nothing_from_outside_becomes_markup_or_a_place_in_the_template() {
    let evil = "</script><img src=x onerror=alert(1)> {{SCRIPT}} & <!--";
    let (html, data) = Bench::submitted(&[evil], Vec::new()).await.page().await;
    assert!(!html.contains("<img src=x") && !html.contains("<b>rows"), "markup came through");
    assert_eq!(html.matches("\"use strict\"").count(), 1, "the script was put into the data");
    assert_eq!(data["rows"][0]["prompt"], evil);
    assert_eq!(data["rows"][0]["error"]["code"], "pending");
}

#[tokio::test]
async fn a_task_shows_its_last_round_one_without_a_marker_is_pending_and_refused_rows_come_last() {
    let refused = ManifestIssue { line: 9, ..issue() };
    let bench = Bench::submitted(&["a", "b", "c"], vec![refused]).await;
    let failed = |message: &str| Outcome::Failed(TaskError::transient(ErrorCode::ModelError, message));
    let done = || Outcome::Done {
        archive: None,
        files: [].into(),
        mask_coverage: Some(0.25),
        scores: [].into(),
        measures: Default::default(),
        accepted: None,
        tries: Vec::new(),
        warnings: Vec::new(),
    };
    bench.commit(0, vec![(0, failed("busy")), (1, failed("busy"))]).await;
    let mut history = bench.store.history().await.unwrap();
    let round = RoundInfo { round: Round(1), ..RoundInfo::first(1, 1, AttemptId::generate(), Timestamp::UNIX_EPOCH) };
    let act = Act::RoundOpened { round };
    bench.backends.decide(&bench.store, &bench.spec.run, &mut history, "test", act).await.unwrap();
    bench.commit(1, vec![(1, done())]).await;

    let (_, data) = bench.page().await;
    let rows = data["rows"].as_array().unwrap();
    let ids: Vec<_> = rows.iter().map(|row| row["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["t0", "t1", "t2", "bad"]);
    assert_eq!(rows[0]["error"]["message"], "busy");
    assert_eq!((&rows[1]["error"], &rows[1]["coverage"]), (&serde_json::Value::Null, &0.25.into()));
    assert_eq!(rows[2]["error"]["code"], "pending");
    assert_eq!(rows[3]["error"]["line"], 9);
}

fn issue() -> ManifestIssue {
    ManifestIssue {
        line: 1,
        custom_id: Some("bad".to_owned()),
        code: "invalid_row".to_owned(),
        param: None,
        message: "no prompt".to_owned(),
    }
}

#[test]
fn the_page_names_no_outer_resource() {
    let html = page::render(&spec(), None, &Rows::default());
    for word in ["http:", "https:", "src=\"//", "@import", "url("] {
        assert!(!html.contains(word), "{word}");
    }
}

#[tokio::test]
async fn a_folder_without_a_run_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let error = format!("{:#}", write(folder.path()).await.unwrap_err());
    assert!(error.contains("is not a folder of a run"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
