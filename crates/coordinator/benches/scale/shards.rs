//! The markers and inputs of a large run, all alike but for their numbers: rendered by putting these into a template.

use std::collections::BTreeMap;

use bytes::Bytes;
use diorama_core::id::{AttemptId, CustomId, Round, Seed, Sha256Hex, ShardId, TaskIndex, WorkerId};
use diorama_core::marker::{ArchiveRef, CommitMarker, settings_digest};
use diorama_core::outcome::{FileRef, Outcome, TaskOutcome};
use diorama_core::run::RunSpec;
use diorama_core::settings::Settings;
use diorama_core::task::Task;
use jiff::Timestamp;

/// Numbers that occur nowhere else in a template, for the task's and the shard's.
const TASK: u64 = 7_654_321;
const SHARD: u32 = 987_654;

/// A piece of a template.
enum Piece {
    Text(String),
    Task,
    Shard,
}

/// Renders the shards of one run.
pub(crate) struct Template {
    tasks: u64,
    shard_size: u64,
    head: Vec<Piece>,
    outcome: Vec<Piece>,
    tail: Vec<Piece>,
    input: Vec<Piece>,
}

impl Template {
    /// Of a run whose tasks all become a picture and a record in an archive, as the synthetic engine makes them.
    pub(crate) fn new(spec: &RunSpec) -> Self {
        let shard = ShardId { round: Round(0), index: SHARD };
        let archive = format!("shards/{shard}.0123456789ab.tar");
        let custom_id = CustomId::new(format!("row-{TASK}")).unwrap();
        let file = |name: &str, bytes: u64| FileRef {
            path: format!("row-{TASK}.{name}"),
            sha256: Sha256Hex::of(name.as_bytes()),
            bytes,
        };
        let files =
            BTreeMap::from([("image".to_owned(), file("png", 1_234)), ("record".to_owned(), file("json", 567))]);
        let outcome = TaskOutcome {
            task: TaskIndex(TASK),
            custom_id: custom_id.clone(),
            seed: Seed::new(1_234_567_890_123).unwrap(),
            outcome: Outcome::Done {
                archive: Some(archive.clone()),
                files,
                mask_coverage: None,
                scores: BTreeMap::new(),
                measures: Default::default(),
                accepted: None,
                tries: Vec::new(),
                warnings: Vec::new(),
            },
            extra: Default::default(),
        };
        let marker = CommitMarker {
            version: 2,
            run: spec.run.clone(),
            shard,
            attempt: AttemptId::new("0123456789ab").unwrap(),
            worker: WorkerId::new("worker-1").unwrap(),
            model: spec.model.clone(),
            settings: settings_digest(spec),
            archives: vec![ArchiveRef { key: archive, sha256: Sha256Hex::of(b"archive"), bytes: 150_000 }],
            outcomes: vec![outcome.clone(), outcome],
            started_at: Timestamp::from_second(1_700_000_000).unwrap(),
            committed_at: Timestamp::from_second(1_700_000_010).unwrap(),
            device_seconds: 1.0,
        };
        // As markers are written: pretty.
        let text = serde_json::to_string_pretty(&marker).unwrap();
        // Two outcomes, so that what stands between two of them is found in the text.
        let (begin, end) = (text.find("\"outcomes\": [").unwrap(), text.rfind("\n  ]").unwrap());
        let begin = begin + "\"outcomes\": [".len();
        let both = &text[begin..end];
        let (one, other) = both.split_at(both.len() / 2);
        assert_eq!(one.trim_end_matches(','), other.trim_start_matches(','), "the outcomes are alike");
        let task = Task {
            index: TaskIndex(TASK),
            custom_id,
            reference: None,
            region: None,
            prompt: "a seagull standing".to_owned(),
            subjects: None,
            seed: Seed::new(1_234_567_890_123).unwrap(),
            settings: Settings::default(),
            extra: Default::default(),
        };
        Self {
            tasks: spec.tasks,
            shard_size: u64::from(spec.shard_size),
            head: pieces(&text[..begin]),
            outcome: pieces(one.trim_end_matches(',')),
            tail: pieces(&text[end..]),
            input: pieces(&format!("{}\n", serde_json::to_string(&task).unwrap())),
        }
    }

    pub(crate) fn marker(&self, index: u32) -> Bytes {
        let mut text = Vec::with_capacity(64 << 10);
        render(&mut text, &self.head, index, 0);
        for (number, task) in self.tasks_of(index).enumerate() {
            if number > 0 {
                text.push(b',');
            }
            render(&mut text, &self.outcome, index, task);
        }
        render(&mut text, &self.tail, index, 0);
        text.into()
    }

    pub(crate) fn input(&self, index: u32) -> Bytes {
        let mut text = Vec::with_capacity(16 << 10);
        self.tasks_of(index).for_each(|task| render(&mut text, &self.input, index, task));
        text.into()
    }

    fn tasks_of(&self, index: u32) -> impl Iterator<Item = u64> + use<> {
        let first = u64::from(index) * self.shard_size;
        first..(first + self.shard_size).min(self.tasks)
    }
}

fn pieces(text: &str) -> Vec<Piece> {
    let (task, shard) = (TASK.to_string(), SHARD.to_string());
    let mut pieces = Vec::new();
    for (number, between_tasks) in text.split(&task).enumerate() {
        if number > 0 {
            pieces.push(Piece::Task);
        }
        for (number, between_shards) in between_tasks.split(&shard).enumerate() {
            if number > 0 {
                pieces.push(Piece::Shard);
            }
            pieces.push(Piece::Text(between_shards.to_owned()));
        }
    }
    pieces
}

fn render(to: &mut Vec<u8>, pieces: &[Piece], shard: u32, task: u64) {
    for piece in pieces {
        match piece {
            Piece::Text(text) => to.extend_from_slice(text.as_bytes()),
            Piece::Task => to.extend_from_slice(task.to_string().as_bytes()),
            Piece::Shard => to.extend_from_slice(format!("{shard:06}").as_bytes()),
        }
    }
}
