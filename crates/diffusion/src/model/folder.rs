//! A model's folder: what it says of itself, and the file of measured settings beside it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::config::Config;
use crate::error::{Error, Result};
use crate::method::Score;
use crate::scheduler::SchedulerKind;

/// The classes that a component may have, as `model_index.json` names them.
const COMPONENTS: [(&str, &[&str]); 4] = [
    ("text_encoder", &["CLIPTextModel"]),
    ("tokenizer", &["CLIPTokenizer", "CLIPTokenizerFast"]),
    ("unet", &["UNet2DConditionModel"]),
    ("vae", &["AutoencoderKL"]),
];

/// What `model_index.json` says beside the components that we have.
#[derive(Debug)]
pub struct Index {
    /// The scheduler's class.
    pub scheduler: String,
    /// Components that diffusers would use and we do not, such as `controlnet (ControlNetModel)`.
    pub left_out: Vec<String>,
}

/// Reads `model_index.json`, and checks that it names a Stable Diffusion of components that we have. Which scheduler runs
/// is for the task to say.
///
/// # Errors
/// [`Error::Model`] names the key.
pub fn read_index(folder: &Path) -> Result<Index> {
    if !folder.is_dir() {
        let problem = "is not a folder; a model is a folder in diffusers layout, with model_index.json".to_owned();
        return Err(Error::Model { path: folder.to_owned(), problem });
    }
    let mut index = Config::read(&folder.join("model_index.json"))?;
    let class: String = index.require("_class_name")?;
    if !class.starts_with("StableDiffusion") || class.contains("XL") || class.starts_with("StableDiffusion3") {
        return Err(index.error(format!(
            "\"_class_name\": \"{class}\" is not supported; Stable Diffusion 1.x and 2.x are (StableDiffusionPipeline)"
        )));
    }
    let mut class_of = |component: &str| -> Result<String> {
        let names: Vec<Option<String>> = index.require(component)?;
        Ok(names.into_iter().nth(1).flatten().unwrap_or_default())
    };
    let scheduler = class_of("scheduler")?;
    let classes = COMPONENTS.map(|(component, _)| class_of(component));
    for ((component, supported), class) in COMPONENTS.into_iter().zip(classes) {
        let class = class?;
        if !supported.contains(&class.as_str()) {
            return Err(index.error(format!(
                "\"{component}\": \"{class}\" is not supported (supported: {})",
                supported.join(", ")
            )));
        }
    }
    let left_out = index.rest().filter_map(|(component, names)| {
        // What only prepares pictures for the safety checker makes none.
        let class = names.get(1)?.as_str().filter(|_| component != "feature_extractor")?;
        Some(format!("{component} ({class})"))
    });
    let mut left_out: Vec<String> = left_out.collect();
    left_out.sort();
    Ok(Index { scheduler, left_out })
}

/// SHA-256 over everything that decides what a model computes: `weights` (the digest of each component's tensors) and
/// the bytes of configurations and tokenizer.
pub fn digest(folder: &Path, weights: &[(&str, [u8; 32])]) -> Result<[u8; 32]> {
    let mut parts: BTreeMap<String, [u8; 32]> = weights.iter().map(|(name, d)| ((*name).to_owned(), *d)).collect();
    for file in [
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "tokenizer/added_tokens.json",
        "tokenizer/merges.txt",
        "tokenizer/special_tokens_map.json",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/vocab.json",
        "unet/config.json",
        "vae/config.json",
    ] {
        let path = folder.join(file);
        match std::fs::read(&path) {
            Ok(bytes) => {
                parts.insert(file.to_owned(), Sha256::digest(&bytes).into());
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::Model { path, problem: format!("cannot be read: {error}") }),
        }
    }
    let mut whole = Sha256::new();
    for (name, digest) in parts {
        whole.update((name.len() as u64).to_le_bytes());
        whole.update(name);
        whole.update(digest);
    }
    Ok(whole.finalize().into())
}

/// `diorama.json` beside a model: the settings that were measured best for it. What it leaves out is the method's own.
/// `diorama calibrate` writes it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MeasuredSettings {
    /// Cross-attention layers by their diffusers paths.
    pub layers: Option<Vec<String>>,
    /// Which score.
    pub score: Option<Score>,
    /// k in `score > mean + k·std`.
    pub threshold: Option<f64>,
    /// How often the mask is dilated.
    pub dilation: Option<u32>,
    /// σ of the blur over the score.
    pub blur: Option<f64>,
    /// Guidance scale.
    pub guidance: Option<f64>,
    /// Steps of the whole schedule.
    pub steps: Option<u32>,
    /// The share of the schedule that runs.
    pub strength: Option<f64>,
    /// Where latents are replaced, as shares of the truncated list.
    pub edit_fractions: Option<Vec<f64>>,
    /// The sampler.
    pub scheduler: Option<SchedulerKind>,
    /// How the settings were measured: for people, and read by nothing.
    pub calibration: Option<Value>,
}

impl MeasuredSettings {
    /// Reads the file, if there is one.
    pub fn read(folder: &Path) -> Result<Self> {
        let path: PathBuf = folder.join("diorama.json");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(Error::Model { path, problem: format!("cannot be read: {error}") }),
        };
        let broken = |problem: String| Error::Model { path: path.clone(), problem };
        let value: Value = serde_json::from_str(&text).map_err(|e| broken(format!("is not JSON: {e}")))?;
        let settings: Self = serde_json::from_value(value).map_err(|e| broken(format!("cannot be used: {e}")))?;
        if settings.edit_fractions.iter().flatten().any(|share| !(0.0..=1.0).contains(share)) {
            return Err(broken("\"edit_fractions\" holds a share that is not between 0 and 1".to_owned()));
        }
        Ok(settings)
    }
}
