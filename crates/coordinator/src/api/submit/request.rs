//! What a run is to be: the part `spec` of the form, with its ranges.

use diorama_core::id::{Pool, Seed};
use diorama_core::retry::RetryPolicy;
use diorama_core::run::{Labels, OutputFormat};
use diorama_core::settings::{Method, Settings};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::api::Problem;

fn webdataset() -> OutputFormat {
    OutputFormat::Webdataset
}

fn sixty_four() -> u32 {
    64
}

fn one() -> u32 {
    1
}

/// What a run is to be (the part `spec` of the form).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SubmitRequest {
    /// The pool whose workers do it.
    #[schema(value_type = String, example = "default")]
    pub pool: Pool,
    /// What its owner calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The manifest, as its owner names it.
    #[serde(default)]
    pub manifest: String,
    /// The format of the manifest: `jsonl`, `csv` or `parquet`.
    #[serde(default = "jsonl")]
    pub manifest_format: String,
    /// Instead of a part `manifest`: the object that holds it, `s3://bucket/key` or a key of the fleet's own store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_object: Option<String>,
    /// The settings of every row that does not set its own.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub settings: Map<String, Value>,
    /// From which rows without a seed derive theirs.
    #[serde(default)]
    pub seed: u64,
    /// Other methods to make beside each picture.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub compare: Vec<Method>,
    /// How pictures are stored: `webdataset` or `files`.
    #[serde(default = "webdataset")]
    #[schema(value_type = String)]
    pub format: OutputFormat,
    /// Tasks a shard: 1 to 100,000.
    #[serde(default = "sixty_four")]
    #[schema(minimum = 1, maximum = 100_000)]
    pub shard_size: u32,
    /// When failed tasks are tried again.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub retry: RetryPolicy,
    /// Goes on with the good rows where some are bad.
    #[serde(default)]
    pub skip_invalid: bool,
    /// What its owner files it under: at most 32, names and values of 1 to 64 bytes.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    #[schema(value_type = Object)]
    pub labels: Labels,
    /// Runs of a higher priority in the same pool go first: -100 to 100.
    #[serde(default)]
    #[schema(minimum = -100, maximum = 100)]
    pub priority: i32,
    /// Its share of the pool among runs of the same priority: 1 to 1000.
    #[serde(default = "one")]
    #[schema(minimum = 1, maximum = 1000)]
    pub weight: u32,
}

fn jsonl() -> String {
    "jsonl".to_owned()
}

/// The form, for the OpenAPI document.
#[derive(ToSchema)]
#[allow(dead_code, reason = "only its schema is used")]
pub(in crate::api) struct Form {
    /// First: what the run is to be, as JSON.
    spec: SubmitRequest,
    /// The manifest's bytes.
    #[schema(value_type = String, format = Binary)]
    manifest: Vec<u8>,
    /// Optional: rows that the sender refused and skipped, as JSON lines; they end in `errors.jsonl`.
    #[schema(value_type = Option<String>, format = Binary)]
    invalid: Option<Vec<u8>>,
}

impl SubmitRequest {
    /// Checks the ranges; gives the settings, read.
    pub(super) fn check(&self) -> Result<Settings, Problem> {
        let mut problems = Vec::new();
        let mut settings = Settings::default();
        for (key, value) in &self.settings {
            if !Settings::KEYS.contains(&key.as_str()) {
                problems.push(format!("settings: {key} is not a setting; they are {}", Settings::KEYS.join(", ")));
            } else if let Err(error) = settings.set(key, value) {
                problems.push(error.to_string());
            }
        }
        let mut range = |key: &str, fine: bool, range: &str| {
            if !fine {
                problems.push(format!("{key} is out of range; it must be {range}"));
            }
        };
        range("shard_size", (1..=100_000).contains(&self.shard_size), "1 to 100000");
        range("priority", (-100..=100).contains(&self.priority), "-100 to 100");
        range("weight", (1..=1000).contains(&self.weight), "1 to 1000");
        range("retry.max_rounds", self.retry.max_rounds <= 10, "0 to 10");
        let delay = self.retry.delay_seconds;
        range("retry.delay_seconds", (0.0..=3600.0).contains(&delay), "0 to 3600");
        range("retry.poison_after", (1..=1000).contains(&self.retry.poison_after), "1 to 1000");
        range("name", self.name.as_ref().is_none_or(|name| name.len() <= 200), "at most 200 bytes");
        let fits = |text: &String| (1..=64).contains(&text.len());
        let fine = self.labels.len() <= 32 && self.labels.iter().all(|(name, value)| fits(name) && fits(value));
        range("labels", fine, "at most 32, names and values of 1 to 64 bytes");
        if problems.is_empty() { Ok(settings) } else { Err(Problem::bad_request("invalid_spec", problems.join("; "))) }
    }
}

pub(super) fn seed(seed: u64) -> Result<Seed, Problem> {
    Seed::new(seed).map_err(|error| Problem::bad_request("invalid_spec", error.to_string()))
}
