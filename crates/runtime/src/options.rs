//! What a process may be told besides the settings of the method: which model on which device, and how a run is cut,
//! stored and tried again.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use diorama_core::id::Seed;
use diorama_core::run::OutputFormat;
use diorama_core::settings::{Method, SettingError, number};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What makes the pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// The model, on libtorch.
    Libtorch,
    /// No model: pictures out of hashes, for load tests of everything around the model.
    Synthetic,
}

/// What happens to a manifest with rows that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnInvalid {
    /// Nothing starts.
    Stop,
    /// The good rows run; the bad ones are listed in `errors.jsonl`.
    Skip,
}

/// The numbers that the model computes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 32 bits.
    F32,
    /// 16 bits with the exponent of `f32`.
    Bf16,
    /// 16 bits.
    F16,
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        })
    }
}

/// Everything that is not a setting of the method.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// What makes the pictures.
    pub engine: EngineKind,
    /// The model's folder, in the layout of diffusers.
    pub model: Option<PathBuf>,
    /// Which of the model's weight files are read, such as `fp16`; unset: the plain ones, else the only ones there are.
    pub variant: Option<String>,
    /// `auto` (the first GPU where there is one, else the CPU), `cpu`, `cuda` (the first GPU) or `cuda:N`.
    pub device: String,
    /// Unset: `f32` on a CPU, `bf16` on a GPU.
    pub dtype: Option<Dtype>,
    /// Tasks in a padded batch: 1 to 256. A picture does not depend on it.
    pub batch_size: usize,
    /// The seed of a single picture, or the one from which a run's tasks derive theirs.
    pub seed: Seed,
    /// How a run's pictures are stored.
    pub format: OutputFormat,
    /// Tasks a shard: 1 to 100,000.
    pub shard_size: u32,
    /// Rounds of retries: 0 to 10.
    pub max_rounds: u32,
    /// Seconds before the first round of retries: 0 to 3600.
    pub retry_delay: f64,
    /// What happens to a manifest with rows that cannot be used.
    pub on_invalid: OnInvalid,
    /// Other methods to make beside each picture.
    pub compare: Vec<Method>,
    /// The synthetic engine: milliseconds a batch takes, 0 to 60,000.
    pub synthetic_latency: u64,
    /// The synthetic engine: the share of tasks that fail, 0 to 1.
    pub synthetic_fail_rate: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            engine: EngineKind::Libtorch,
            model: None,
            variant: None,
            device: "auto".to_owned(),
            dtype: None,
            batch_size: 4,
            seed: Seed::default(),
            format: OutputFormat::Files,
            shard_size: 64,
            max_rounds: 2,
            retry_delay: 5.0,
            on_invalid: OnInvalid::Stop,
            compare: Vec::new(),
            synthetic_latency: 0,
            synthetic_fail_rate: 0.0,
        }
    }
}

impl Options {
    /// Every key, as it is written in configuration files.
    pub const KEYS: [&'static str; 15] = [
        "engine",
        "model",
        "variant",
        "device",
        "dtype",
        "batch_size",
        "seed",
        "format",
        "shard_size",
        "max_rounds",
        "retry_delay",
        "on_invalid",
        "compare",
        "synthetic_latency",
        "synthetic_fail_rate",
    ];

    /// The JSON that `text` means for `key`.
    pub(crate) fn read_text(key: &str, text: &str) -> Value {
        match key {
            "engine" | "device" | "dtype" | "format" | "on_invalid" | "model" | "variant" => Value::from(text),
            "compare" => text.split(',').map(|method| Value::from(method.trim())).collect(),
            _ => number(text),
        }
    }

    /// Sets one key from JSON and checks its range.
    pub(crate) fn set(&mut self, key: &str, value: &Value) -> Result<(), SettingError> {
        let methods = format!("a list of {}", Method::CHOICES.join(", "));
        match key {
            "engine" => self.engine = read(key, value, "libtorch or synthetic")?,
            "model" => self.model = Some(read(key, value, "a folder")?),
            "variant" => self.variant = Some(variant(key, value)?),
            "device" => self.device = device(key, value)?,
            "dtype" => self.dtype = Some(read(key, value, "one of f32, bf16, f16")?),
            "batch_size" => self.batch_size = whole(key, value, 1, 256)? as usize,
            "seed" => {
                let number = whole(key, value, 0, Seed::MAX)?;
                self.seed = Seed::new(number).map_err(|error| refusal(key, "out_of_range", error.to_string()))?;
            }
            "format" => self.format = read(key, value, "files or webdataset")?,
            "shard_size" => self.shard_size = whole(key, value, 1, 100_000)? as u32,
            "max_rounds" => self.max_rounds = whole(key, value, 0, 10)? as u32,
            "retry_delay" => self.retry_delay = real(key, value, 0.0, 3600.0)?,
            "on_invalid" => self.on_invalid = read(key, value, "stop or skip")?,
            "compare" => self.compare = read(key, value, &methods)?,
            "synthetic_latency" => self.synthetic_latency = whole(key, value, 0, 60_000)?,
            "synthetic_fail_rate" => self.synthetic_fail_rate = real(key, value, 0.0, 1.0)?,
            _ => return Err(refusal(key, "unknown_key", "is not an option".to_owned())),
        }
        Ok(())
    }
}

pub(crate) fn refusal(key: &str, code: &'static str, message: String) -> SettingError {
    SettingError { param: key.to_owned(), code, message }
}

pub(crate) fn read<T: serde::de::DeserializeOwned>(key: &str, value: &Value, want: &str) -> Result<T, SettingError> {
    serde_json::from_value(value.clone()).map_err(|_| refusal(key, "wrong_type", format!("{value} is not {want}")))
}

pub(crate) fn whole(key: &str, value: &Value, low: u64, high: u64) -> Result<u64, SettingError> {
    let number: u64 = read(key, value, &format!("a whole number from {low} to {high}"))?;
    if (low..=high).contains(&number) {
        return Ok(number);
    }
    Err(refusal(key, "out_of_range", format!("{number} is out of range; it must be {low} to {high}")))
}

pub(crate) fn real(key: &str, value: &Value, low: f64, high: f64) -> Result<f64, SettingError> {
    let number: f64 = read(key, value, &format!("a number from {low} to {high}"))?;
    if (low..=high).contains(&number) {
        return Ok(number);
    }
    Err(refusal(key, "out_of_range", format!("{number} is out of range; it must be {low} to {high}")))
}

fn variant(key: &str, value: &Value) -> Result<String, SettingError> {
    let want = "the part of a file's name between its stem and .safetensors, such as fp16";
    let text: String = read(key, value, want)?;
    let fine = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
    if fine { Ok(text) } else { Err(refusal(key, "wrong_type", format!("{text:?} is not {want}"))) }
}

fn device(key: &str, value: &Value) -> Result<String, SettingError> {
    let want = "auto, cpu, cuda or cuda:N";
    let text: String = read(key, value, want)?;
    let number = text.strip_prefix("cuda:").is_some_and(|number| usize::from_str(number).is_ok());
    if ["auto", "cpu", "cuda"].contains(&text.as_str()) || number {
        Ok(text)
    } else {
        Err(refusal(key, "wrong_type", format!("{text:?} is not {want}")))
    }
}
