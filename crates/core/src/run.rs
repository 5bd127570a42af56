//! A run: its immutable spec, its states and its summary.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::{Pool, RunId, Seed};
use crate::measure::Acceptance;
use crate::retry::RetryPolicy;
use crate::settings::{Method, Settings};
use crate::stop::StopIf;
use crate::task::Task;

/// How pictures are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, strum::VariantNames)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum OutputFormat {
    /// One file each: `images/{custom_id}.png`, `masks/` …
    Files,
    /// One tar a shard, its members grouped by `custom_id`, as WebDataset reads them.
    Webdataset,
}

/// What a run is filed under, by name.
pub type Labels = BTreeMap<String, String>;

/// Whose a run is: the token that submitted it, and the group that the token belonged to then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The token's name.
    pub token: String,
    /// Whoever else is in it has the run too.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub group: Option<String>,
}

/// What was submitted. Written once as `run.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunSpec {
    /// The format of this spec: 1.
    pub version: u32,
    /// The run.
    pub run: RunId,
    /// Whose it is. `None`: it was submitted where no token is asked for, or before runs had owners.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub owner: Option<Owner>,
    /// What its owner calls it; need not be unique.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub name: Option<String>,
    /// What its owner files it under.
    #[serde(skip_serializing_if = "Labels::is_empty", default)]
    pub labels: Labels,
    /// The pool that does the work.
    pub pool: Pool,
    /// Runs of a higher priority in the same pool go first: -100 to 100.
    #[serde(default)]
    pub priority: i32,
    /// Its share of the pool among runs of the same priority: 1 to 1000.
    #[serde(default = "one")]
    pub weight: u32,
    /// When it was submitted.
    pub submitted_at: Timestamp,
    /// The manifest, as the user named it.
    pub manifest: String,
    /// The digest of the manifest's bytes: the same command on a changed manifest is refused, not mixed.
    pub manifest_sha256: crate::id::Sha256Hex,
    /// The folder that relative references start from.
    pub reference_root: String,
    /// The settings of every row that does not set its own.
    pub settings: Settings,
    /// From which tasks without a seed derive theirs.
    pub seed: Seed,
    /// Other methods to make beside each picture, for comparison.
    #[serde(default)]
    pub compare: Vec<Method>,
    /// What is measured of each picture, by name, in the order of [`crate::measure::MEASURES`].
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub measures: Vec<String>,
    /// Which pictures are accepted; others are made again with other seeds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub accept: Option<Acceptance>,
    /// How pictures are stored.
    pub format: OutputFormat,
    /// Whether the reference, as it was used, is stored beside each picture.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub keep_references: bool,
    /// Tasks a shard.
    pub shard_size: u32,
    /// Tasks in all: valid rows.
    pub tasks: u64,
    /// Rows that were refused and skipped (`--on-invalid skip`).
    pub invalid_rows: u64,
    /// When failed tasks are tried again.
    pub retry: RetryPolicy,
    /// The failures at which it is paused. `None`: it goes on, however many tasks fail.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub stop_if: Option<StopIf>,
    /// The model that the run was checked with: its pictures come from no other one. `None`: the first worker that
    /// takes up the run binds it to its own, in the run's log.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub model: Option<ModelIdentity>,
    /// The digest of the request that made it, where that had an idempotency key: the key names no other request.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub request_sha256: Option<crate::id::Sha256Hex>,
}

fn one() -> u32 {
    1
}

/// What of a worker decides pixels and scores, besides the kind of its device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelIdentity {
    /// SHA-256 over the model's weights and configurations, as in [`crate::record::GeneratorInfo`].
    pub sha256: String,
    /// `f32`, `bf16` or `f16`.
    pub dtype: String,
    /// Of a run that measures: the networks that its measures need, each with the SHA-256 of its weights.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub networks: BTreeMap<String, String>,
}

impl From<&crate::record::GeneratorInfo> for ModelIdentity {
    fn from(info: &crate::record::GeneratorInfo) -> Self {
        Self { sha256: info.model_sha256.clone(), dtype: info.dtype.clone(), networks: BTreeMap::new() }
    }
}

impl std::fmt::Display for ModelIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} in {}", self.sha256, self.dtype)?;
        self.networks.iter().try_for_each(|(name, sha256)| write!(f, " with the network {name} {sha256}"))
    }
}

impl RunSpec {
    /// How often a picture is made again at most.
    pub fn tries(&self) -> u32 {
        self.accept.as_ref().map_or(0, |accept| accept.tries)
    }

    /// Whether the task's picture may have been made with this seed: the task's own, or that of a later try.
    pub fn may_use(&self, task: &Task, seed: Seed) -> bool {
        (0..=self.tries()).any(|number| task.seed.later(number) == seed)
    }

    /// Shards of round 0.
    pub fn shards(&self) -> u32 {
        self.tasks.div_ceil(u64::from(self.shard_size.max(1))) as u32
    }
}

/// The life of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Its rows are being stored; nothing runs yet.
    Submitting,
    /// Shards are being published and run.
    Running,
    /// Nothing new is published; workers stop before their next batch.
    Paused,
    /// Nothing more will run; what is committed stays.
    Cancelled,
    /// Every task has its outcome.
    Finished,
}

impl std::fmt::Display for RunState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Submitting => "submitting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Cancelled => "cancelled",
            Self::Finished => "finished",
        })
    }
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunSummary {
    /// The run.
    pub run: RunId,
    /// Finished or cancelled.
    pub state: RunState,
    /// Valid rows.
    pub tasks: u64,
    /// Tasks with a picture.
    pub done: u64,
    /// Tasks without.
    pub failed: u64,
    /// Rows that never became tasks.
    pub invalid_rows: u64,
    /// Failed tasks by code.
    pub failures: BTreeMap<String, u64>,
    /// The last round that ran.
    pub rounds: u32,
    /// Shards committed in all rounds.
    pub shards: u64,
    /// Seconds that models ran, over all workers.
    pub device_seconds: f64,
    /// From the first attempt's start to the last commit, in seconds.
    pub wall_seconds: f64,
    /// `done / wall_seconds`.
    pub pictures_per_second: f64,
    /// What became of its condition, where it had one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub acceptance: Option<AcceptanceCounts>,
}

/// What became of the pictures of a run that accepts only some.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AcceptanceCounts {
    /// Pictures that fulfil the condition.
    pub accepted: u64,
    /// Pictures that are kept though no try of theirs does.
    pub kept: u64,
    /// Pictures that were made beyond the first of each task.
    pub tries: u64,
}

impl AcceptanceCounts {
    /// Adds a picture that was made so often; one of a run that accepts everything counts for nothing.
    pub fn add(&mut self, accepted: Option<bool>, tries: usize) {
        match accepted {
            Some(true) => self.accepted += 1,
            Some(false) => self.kept += 1,
            None => return,
        }
        self.tries += tries.saturating_sub(1) as u64;
    }
}
