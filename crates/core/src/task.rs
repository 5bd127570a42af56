//! A task: one manifest row that passed validation, with everything that decides its pixels.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{CustomId, Seed, TaskIndex};
use crate::manifest::Extra;
use crate::settings::{Layers, Settings};

/// Where a reference picture comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reference {
    /// A file, as an absolute path or relative to the manifest's folder, already checked not to leave it.
    File(String),
    /// `s3://bucket/key`.
    S3(String),
    /// `https://…`; `http://…` where a fleet allows it.
    Https(String),
    /// An object of the store by content: `blobs/{sha256}`.
    Blob(crate::id::Sha256Hex),
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.write_str(path),
            Self::S3(url) | Self::Https(url) => f.write_str(url),
            Self::Blob(sha256) => write!(f, "blobs/{sha256}"),
        }
    }
}

/// One picture to make. Its pixels depend on the model's weights and on this, and on nothing else, but for
/// [`Task::extra`], which is only carried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// Its place in the manifest.
    pub index: TaskIndex,
    /// The user's name of it.
    pub custom_id: CustomId,
    /// The place; only `txt2img` does without.
    pub reference: Option<Reference>,
    /// A mask of the reference: white where the subject may be, black where the place must stay. Decides no pixel, only
    /// where it is measured how much of the place was kept.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub region: Option<Reference>,
    /// What should appear.
    pub prompt: String,
    /// The words of the prompt that name the subject; without them, the prompt's nouns.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub subjects: Option<Vec<String>>,
    /// The seed of its noise.
    pub seed: Seed,
    /// The run's settings overlaid by the row's; what is unset is the preset's or the model's.
    #[serde(default)]
    pub settings: Settings,
    /// What its row carries besides: no pixel depends on it.
    #[serde(skip_serializing_if = "Extra::is_empty", default)]
    pub extra: Extra,
}

impl Task {
    /// About what it takes in memory, in bytes.
    pub fn bytes(&self) -> u64 {
        let texts = |texts: &[String]| texts.iter().map(|text| size_of::<String>() + text.len()).sum::<usize>();
        let layers = match &self.settings.layers {
            Some(Layers::Paths(paths)) => texts(paths),
            Some(Layers::Auto | Layers::Last) | None => 0,
        };
        let named = |reference: &Option<Reference>| match reference {
            Some(Reference::File(text) | Reference::S3(text) | Reference::Https(text)) => text.len(),
            Some(Reference::Blob(_)) => 64,
            None => 0,
        };
        let pictures = named(&self.reference) + named(&self.region);
        let extra = self.extra.iter().map(|(key, value)| 64 + key.len() + value.to_string().len()).sum::<usize>();
        let steps = self.settings.edit_steps.as_ref().map_or(0, |steps| size_of_val(steps.as_slice()));
        let negative = self.settings.negative_prompt.as_ref().map_or(0, String::len);
        let subjects = self.subjects.as_deref().map_or(0, texts);
        let id = self.custom_id.as_str().len();
        (size_of::<Self>() + id + self.prompt.len() + negative + subjects + layers + pictures + extra + steps) as u64
    }
}
