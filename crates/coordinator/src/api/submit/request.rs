//! What a run is to be: the part `spec` of the form, with its ranges.

use std::collections::BTreeMap;

use diorama_core::caps::Caps;
use diorama_core::id::{Pool, Seed};
use diorama_core::manifest::ExtraColumns;
use diorama_core::measure::Asked;
use diorama_core::range::{self, Range};
use diorama_core::retry::RetryPolicy;
use diorama_core::run::{Labels, OutputFormat};
use diorama_core::settings::{Method, Settings};
use diorama_core::stop::StopIf;
use diorama_core::text;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use strum::VariantNames;
use utoipa::ToSchema;
use utoipa::openapi::{Array, ArrayBuilder, KnownFormat, Object, ObjectBuilder, SchemaFormat, Type};

use crate::api::Problem;

/// The longest name of a manifest, in bytes: that of a file.
const MANIFEST_BYTES: usize = 4096;

/// The most labels of a run.
const MOST_LABELS: usize = 32;

/// The most problems of settings that are told.
const MOST_PROBLEMS: usize = 10;

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
    /// Other methods to make beside each picture, each once.
    #[serde(default)]
    #[schema(schema_with = methods)]
    pub compare: Vec<Method>,
    /// What is measured of each picture, by name, such as `["clip", "coverage"]` (docs/evaluation.md).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub measures: Vec<String>,
    /// What a picture must fulfil, such as `clip > 26 and coverage < 0.6`; one that does not is made again with the next
    /// seeds, and the best is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accept: Option<String>,
    /// How often such a picture is made again at most: [`range::ACCEPT_TRIES`].
    #[serde(default = "accept_tries", skip_serializing_if = "is_usual_tries")]
    #[schema(schema_with = tries)]
    pub accept_tries: u32,
    /// How pictures are stored: `webdataset` or `files`.
    #[serde(default = "webdataset")]
    #[schema(value_type = String)]
    pub format: OutputFormat,
    /// Stores the reference, as it was used, beside each picture.
    #[serde(default)]
    pub keep_references: bool,
    /// Tasks a shard: [`range::SHARD_SIZE`].
    #[serde(default = "sixty_four")]
    #[schema(schema_with = shard_size)]
    pub shard_size: u32,
    /// When failed tasks are tried again.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub retry: RetryPolicy,
    /// Pauses the run where so many tasks fail: `failed > 5%` of those that have an outcome, or `failed > 100`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "failed > 5%")]
    pub stop_if: Option<StopIf>,
    /// Goes on with the good rows where some are bad.
    #[serde(default)]
    pub skip_invalid: bool,
    /// What happens to columns that no row of ours has: `carry` (into records and results, at most 4096 bytes a row),
    /// `ignore` or `refuse`.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schema(value_type = String, example = "carry")]
    pub extra_columns: ExtraColumns,
    /// Keys of a row that have another name in the manifest, with that name: `{"prompt": "caption"}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = Object)]
    pub columns: BTreeMap<String, String>,
    /// What its owner files it under: at most 32, names and values of 1 to 64 bytes.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    #[schema(value_type = Object)]
    pub labels: Labels,
    /// Runs of a higher priority in the same pool go first: [`range::PRIORITY`].
    #[serde(default)]
    #[schema(schema_with = priority)]
    pub priority: i32,
    /// Its share of the pool among runs of the same priority: [`range::WEIGHT`].
    #[serde(default = "one")]
    #[schema(schema_with = weight)]
    pub weight: u32,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn accept_tries() -> u32 {
    range::ACCEPT_TRIES_DEFAULT
}

fn is_usual_tries(tries: &u32) -> bool {
    *tries == range::ACCEPT_TRIES_DEFAULT
}

fn jsonl() -> String {
    "jsonl".to_owned()
}

/// A whole number of `range`, in the OpenAPI document.
fn whole(about: &str, range: Range) -> ObjectBuilder {
    let bound = |number: f64| Some(number as isize);
    ObjectBuilder::new()
        .schema_type(Type::Integer)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int32)))
        .description(Some(about))
        .minimum(bound(range.low))
        .maximum(bound(range.high))
}

fn methods() -> Array {
    let word = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(Method::VARIANTS.iter().copied()));
    ArrayBuilder::new()
        .items(word)
        .unique_items(true)
        .description(Some("Other methods to make in addition to each picture, each once."))
        .build()
}

fn tries() -> Object {
    whole("How often a picture that is not accepted is made again at most.", range::ACCEPT_TRIES).build()
}

fn shard_size() -> Object {
    whole("Tasks a shard.", range::SHARD_SIZE).build()
}

fn priority() -> Object {
    whole("Runs of a higher priority in the same pool go first.", range::PRIORITY).build()
}

fn weight() -> Object {
    whole("Its share of the pool among runs of the same priority.", range::WEIGHT).build()
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
    /// What is to be measured and accepted, read.
    pub(super) fn asked(&self) -> Result<Asked, Problem> {
        Asked::read(&self.measures, self.accept.as_deref(), self.accept_tries)
            .map_err(|problem| Problem::new(422, "invalid_measures", problem))
    }

    /// Checks the ranges; gives the settings, read.
    pub(super) fn check(&self, caps: &Caps, asked: &Asked) -> Result<Settings, Problem> {
        let mut problems = Vec::new();
        let mut settings = Settings::default();
        for (key, value) in &self.settings {
            if problems.len() >= MOST_PROBLEMS {
                break;
            }
            if !Settings::KEYS.contains(&key.as_str()) {
                let (key, keys) = (text::quoted(key), Settings::KEYS.join(", "));
                problems.push(format!("settings: {key} is not a setting; the settings are {keys}"));
            } else if let Err(error) = settings.set(key, value) {
                problems.push(error.to_string());
            }
        }
        for (key, number, range) in [
            ("shard_size", self.shard_size.into(), range::SHARD_SIZE),
            ("priority", self.priority.into(), range::PRIORITY),
            ("weight", self.weight.into(), range::WEIGHT),
            ("retry.max_rounds", self.retry.max_rounds.into(), range::MAX_ROUNDS),
            ("retry.delay_seconds", self.retry.delay_seconds, range::RETRY_DELAY),
            ("retry.poison_after", self.retry.poison_after.into(), range::POISON_AFTER),
            ("accept_tries", self.accept_tries.into(), range::ACCEPT_TRIES),
        ] {
            if !range.contains(number) {
                problems.push(format!("{key} is out of range; it must be {range}"));
            }
        }
        if self.name.as_ref().is_some_and(|name| name.len() > range::NAME_BYTES) {
            problems.push(format!("name is out of range; it must be at most {} bytes", range::NAME_BYTES));
        }
        if problems.is_empty() {
            let accept = asked.accept.as_ref();
            problems.extend(caps.problems(self.shard_size, &self.retry, &settings, &self.compare, accept));
        }
        let fits = |text: &String| (1..=64).contains(&text.len());
        if self.labels.len() > MOST_LABELS || !self.labels.iter().all(|(name, value)| fits(name) && fits(value)) {
            problems.push(format!("labels are out of range; at most {MOST_LABELS}, names and values of 1 to 64 bytes"));
        }
        // All of it is shown to others: on terminals, in logs, on pages.
        let labels =
            self.labels.iter().take(MOST_LABELS).flat_map(|(name, value)| [("a label", name), ("a label", value)]);
        let object = self.manifest_object.iter().map(|object| ("manifest_object", object));
        let named = self.name.iter().map(|name| ("name", name)).chain([("manifest", &self.manifest)]);
        for (what, said) in named.chain(labels).chain(object) {
            if let Some(control) = text::control(said) {
                problems.push(format!("{what} contains the control character {control:?}; remove it"));
            }
        }
        if self.manifest.len() > MANIFEST_BYTES {
            problems.push(format!("manifest is out of range; it must be at most {MANIFEST_BYTES} bytes"));
        }
        if problems.is_empty() { Ok(settings) } else { Err(Problem::bad_request("invalid_spec", problems.join("; "))) }
    }
}

pub(super) fn seed(seed: u64) -> Result<Seed, Problem> {
    Seed::new(seed).map_err(|error| Problem::bad_request("invalid_spec", error.to_string()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use utoipa::PartialSchema;

    use super::*;

    #[test]
    fn the_openapi_document_says_the_ranges_that_a_request_is_held_to() {
        let schema = serde_json::to_value(SubmitRequest::schema()).unwrap();
        let request = |key: &str, value: i64| {
            let request = serde_json::from_value::<SubmitRequest>(json!({ "pool": "default", key: value })).unwrap();
            request.check(&Caps::default(), &Asked::default()).map_err(|problem| problem.detail)
        };
        for key in ["shard_size", "priority", "weight", "accept_tries"] {
            let bound = |bound: &str| schema["properties"][key][bound].as_i64().unwrap();
            let (low, high) = (bound("minimum"), bound("maximum"));
            assert!(request(key, low).is_ok() && request(key, high).is_ok(), "{key}");
            let refused = request(key, high + 1).unwrap_err();
            assert_eq!(refused, format!("{key} is out of range; it must be {low} to {high}"));
        }
        assert!(request("priority", -101).is_err());
        let required = schema["required"].as_array().unwrap();
        assert_eq!(required, &[json!("pool")], "what has a default is not required");
    }
}
