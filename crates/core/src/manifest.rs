//! A manifest's row as its user wrote it, and what can be wrong with one.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use strum::{Display, EnumString, VariantNames};

/// The keys of a row that are not settings of the method (those are [`crate::settings::Settings::KEYS`]).
pub const ROW_KEYS: [&str; 6] = ["custom_id", "reference", "region", "prompt", "subjects", "seed"];

/// A row's columns that are the user's own, by name, as JSON.
pub type Extra = Map<String, Value>;

/// The most that a row carries of them, in bytes of JSON: 4 KiB.
pub const MAX_EXTRA_BYTES: usize = 4096;

/// How deep a value of theirs may be nested: JSON that is read again knows a limit, and a record nests it further.
pub const MAX_EXTRA_DEPTH: usize = 32;

/// What happens to columns that no row of ours has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, Display, EnumString, VariantNames)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum ExtraColumns {
    /// They are carried into records and results.
    #[default]
    Carry,
    /// They are left out.
    Ignore,
    /// They are mistakes.
    Refuse,
}

/// One thing that is wrong with a manifest, at one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct ManifestIssue {
    /// The line (JSONL, CSV) or row (Parquet), from 1; 0 where the file as a whole is meant.
    pub line: u64,
    /// A stable code: `unknown_key`, `wrong_type`, `duplicate_id`, `out_of_range`, `missing_file` …
    pub code: String,
    /// What is wrong and how to mend it.
    pub message: String,
    /// The key that is wrong, where there is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub param: Option<String>,
    /// The row's `custom_id`, where it could be read.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub custom_id: Option<String>,
}
