//! Options that are one of a few words, and those with a notation of their own.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use strum::{Display, VariantNames};

/// What makes the pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, VariantNames)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum EngineKind {
    /// The model, on libtorch.
    Libtorch,
    /// No model: pictures out of hashes, for load tests of everything around the model.
    Synthetic,
}

/// What happens to a manifest with rows that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, VariantNames)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum OnInvalid {
    /// Nothing starts.
    Stop,
    /// The good rows run; the bad ones are listed in `errors.jsonl`.
    Skip,
}

/// The numbers that the model computes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Display, VariantNames)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Dtype {
    /// What suits the device: `bf16` on a GPU, `f32` on a CPU.
    Auto,
    /// 32 bits.
    F32,
    /// 16 bits with the exponent of `f32`.
    Bf16,
    /// 16 bits.
    F16,
}

/// Whose kernels the model runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, VariantNames)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Kernels {
    /// Our own on a GPU where they agree with libtorch's, else libtorch's.
    Auto,
    /// libtorch's.
    Libtorch,
}

/// `auto` (the first GPU where there is one, else the CPU), `cpu`, `cuda` (the first GPU) or `cuda:N`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct DeviceName(String);

impl DeviceName {
    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for DeviceName {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let number = text.strip_prefix("cuda:").is_some_and(|number| usize::from_str(number).is_ok());
        if ["auto", "cpu", "cuda"].contains(&text.as_str()) || number { Ok(Self(text)) } else { Err("no device") }
    }
}

/// The part of a weight file's name between its stem and `.safetensors`, such as `fp16`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Variant(String);

impl Variant {
    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Variant {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
        if !text.is_empty() && text.bytes().all(fine) { Ok(Self(text)) } else { Err("no part of a file's name") }
    }
}
