//! The record beside each picture: what it is, what made it, and what `diorama replay` needs to make it again.
//!
//! Holds no time and no place, so that the same task gives the same bytes anywhere.

use serde::{Deserialize, Serialize};

use crate::fit::Placement;
use crate::id::{CustomId, Seed, Sha256Hex};
use crate::task::Task;

/// What is written as `record.json` or `{custom_id}.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The format of this record: 1.
    pub version: u32,
    /// The user's name of the task.
    pub custom_id: CustomId,
    /// The prompt.
    pub prompt: String,
    /// The prompt's tokens without start, end and padding, where it was cut at the encoder's limit.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub prompt_truncated_to: Option<String>,
    /// The subjects as the method found them.
    pub subjects: Vec<SubjectRecord>,
    /// The seed.
    pub seed: Seed,
    /// The reference picture.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reference: Option<ReferenceRecord>,
    /// Where it was measured how much of the place was kept.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub region: Option<RegionRecord>,
    /// Every setting in force, resolved: nothing here is a default that may change.
    pub settings: serde_json::Value,
    /// What made it.
    pub generator: GeneratorInfo,
    /// What happened at each edit step.
    pub edits: Vec<EditRecord>,
    /// The share of the picture that the last mask covers, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub mask_coverage: Option<f64>,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// The task itself, from which the picture can be made again.
    pub task: Task,
}

/// How the `library` of a [`GeneratorInfo`] ends where networks ran on our own GPU kernels, which round differently.
pub const OWN_KERNELS: &str = " with own kernels";

/// What identifies a generator in records: the same info and the same task give the same bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GeneratorInfo {
    /// `diorama` and its version.
    pub engine: String,
    /// `libtorch` and its version, where there is one.
    pub library: String,
    /// The model's name: its folder's last component.
    pub model: String,
    /// SHA-256 over the model's weights and configurations.
    pub model_sha256: String,
    /// `cpu`, `cuda:0` …
    pub device: String,
    /// `f32`, `bf16` or `f16`.
    pub dtype: String,
    /// Tasks in a padded batch.
    pub batch_size: usize,
}

impl Record {
    /// The record of a task's picture of which nothing more is known than what made it.
    pub fn of(task: &Task, generator: &GeneratorInfo) -> Self {
        Self {
            version: 1,
            custom_id: task.custom_id.clone(),
            prompt: task.prompt.clone(),
            prompt_truncated_to: None,
            subjects: Vec::new(),
            seed: task.seed,
            reference: None,
            region: None,
            settings: serde_json::json!({}),
            generator: generator.clone(),
            edits: Vec::new(),
            mask_coverage: None,
            warnings: Vec::new(),
            task: task.clone(),
        }
    }
}

/// One subject.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SubjectRecord {
    /// Its words.
    pub text: String,
    /// Its positions in the text encoder's input, the start token counted as 0.
    pub positions: Vec<i64>,
}

/// The reference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReferenceRecord {
    /// Where it came from, as the manifest has it.
    pub source: String,
    /// The digest of its encoded bytes.
    pub sha256: Sha256Hex,
    /// Its width before resizing, in pixels.
    pub width: u32,
    /// Its height before resizing, in pixels.
    pub height: u32,
    /// Which part of it became which part of the picture. Records of versions that squashed every reference have none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub used: Option<Placement>,
}

/// The region: a mask of the reference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegionRecord {
    /// Where it came from, as the manifest has it.
    pub source: String,
    /// The digest of its encoded bytes.
    pub sha256: Sha256Hex,
    /// The share of its pixels that are black, above 0 and below 1: what `outside_psnr` is the mean over.
    pub outside: f64,
}

/// One edit step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EditRecord {
    /// Its index in the truncated list of timesteps.
    pub step: u32,
    /// The timestep of the latents that were edited.
    pub timestep: f64,
    /// The layers whose attention made the mask, by their diffusers paths.
    pub layers: Vec<String>,
    /// The share of latent elements kept from the denoised latents, 0 to 1, after dilation.
    pub coverage: f64,
    /// The same for each subject alone, in the order of `subjects`.
    pub subject_coverage: Vec<f64>,
    /// The score's estimator where it is not exact, with its number of probes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub estimator: Option<String>,
}
