//! What is known of one evaluated picture: one line of `evaluation.jsonl`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One picture of one series.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct Row {
    /// Whose picture it is: the run, or the run and the method that it was compared with (`out:img2img`).
    pub series: String,
    /// The user's name of the task, or the picture's path without its extension.
    pub custom_id: String,
    /// The prompt, where it is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub prompt: Option<String>,
    /// What the picture is filed under.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub scene: Option<String>,
    /// What its scene is filed under.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub category: Option<String>,
    /// The picture's file, or its archive and member.
    pub picture: String,
    /// The reference's file, where there is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reference: Option<String>,
    /// The seed, where the picture comes from a run.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub seed: Option<u64>,
    /// Where the background measures look.
    pub region: RegionKind,
    /// By name; docs/evaluation.md defines each.
    pub measures: BTreeMap<String, f64>,
    /// 64 bits, as 16 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub phash: Option<String>,
    /// The earlier picture of the series that this one nearly repeats, by the distance of their hashes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub near_duplicate_of: Option<String>,
    /// Why measures are absent or doubtful.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub notes: Vec<String>,
    /// Why nothing was measured.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub problem: Option<String>,
}

/// Where the background measures of a row look. None depends on the picture's own mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum RegionKind {
    /// At the whole picture, the subject included.
    #[default]
    Whole,
    /// Outside a region that was given.
    Given,
    /// Outside every object that the judge sees in any of the compared pictures of this task.
    Common,
}
