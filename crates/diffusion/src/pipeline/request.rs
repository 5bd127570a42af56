//! What the pipeline is asked for, and what it gives.

use std::path::Path;

use tch::Tensor;

use crate::error::Result;
use crate::explain;
use crate::image_processor::{Gray, Rgb};
use crate::method::extent::Extent;
use crate::method::{Estimator, Settings};

/// One picture to make.
#[derive(Debug, Clone)]
pub struct Request {
    /// What should appear.
    pub prompt: String,
    /// The words of the prompt that name the subject; without them, its nouns.
    pub subjects: Option<Vec<String>>,
    /// Seeds the noise.
    pub seed: u64,
    /// The place; only `txt2img` does without.
    pub reference: Option<Rgb>,
    /// How.
    pub settings: Settings,
}

/// A prompt as the model sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    /// Token ids, start and padding included.
    pub ids: Vec<i64>,
    /// The part of the prompt that the text encoder sees, where it is not all of it.
    pub truncated_to: Option<String>,
    /// The subjects; empty for methods that mask nothing.
    pub subjects: Vec<Subject>,
}

/// One subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Its words.
    pub text: String,
    /// The positions of its tokens: all pieces of all its occurrences, the start token counted as 0.
    pub positions: Vec<i64>,
}

/// What happened at one edit. Tensors are on the CPU.
#[derive(Debug)]
pub struct Edit {
    /// Its index in the truncated list of timesteps.
    pub step: usize,
    /// The timestep of the latents that were edited.
    pub timestep: f64,
    /// How the scores came about.
    pub estimator: Estimator,
    /// The score of each subject before blur, `[4, h, w]` float32.
    pub scores: Vec<Tensor>,
    /// The share of latent elements in each subject's mask.
    pub subject_coverage: Vec<f64>,
    /// The union of the subjects' masks after dilation, `[4, h, w]` bool.
    pub mask: Tensor,
    /// The share of latent elements in it.
    pub coverage: f64,
    /// How much of the picture it covers, and of the picture's border.
    pub extent: Extent,
    /// The two subjects whose masks have most in common, and their IoU, where there are several.
    pub most_alike: Option<(usize, usize, f64)>,
    /// Latents `[4, h, w]` before and after the replacement.
    pub before: Tensor,
    /// See `before`.
    pub after: Tensor,
}

/// One picture that was made, with everything that explains it. Tensors are on the CPU.
#[derive(Debug)]
pub struct Sample {
    /// The picture.
    pub image: Rgb,
    /// The reference at the picture's size.
    pub reference: Option<Rgb>,
    /// The prompt as the model saw it.
    pub prompt: Prompt,
    /// What happened at each edit step.
    pub edits: Vec<Edit>,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// The timesteps that ran.
    pub timesteps: Vec<f64>,
    /// The reference's latents `[4, h, w]`, scaled.
    pub reference_latents: Option<Tensor>,
    /// `ε_r` `[4, h, w]`.
    pub reference_noise: Tensor,
    /// The final latents `[4, h, w]`, before decoding.
    pub latents: Tensor,
    /// The mask of the last edit at the picture's size.
    pub(super) mask: Option<Gray>,
}

impl Sample {
    /// The mask of the last edit at the picture's size: 255 where the subject is.
    pub fn mask(&self) -> Option<&Gray> {
        self.mask.as_ref()
    }

    /// The picture with the mask's tint and outline.
    pub fn overlay(&self) -> Result<Option<Rgb>> {
        self.mask.as_ref().map(|mask| explain::overlay(&self.image, mask)).transpose()
    }

    /// For each subject, its score at the last edit over the picture.
    pub fn heat_maps(&self) -> Result<Vec<(String, Rgb)>> {
        let Some(edit) = self.edits.last() else { return Ok(Vec::new()) };
        self.prompt
            .subjects
            .iter()
            .zip(&edit.scores)
            .map(|(subject, score)| Ok((subject.text.clone(), explain::heat_map(&self.image, score)?)))
            .collect()
    }

    /// Writes every tensor between reference and picture as safetensors.
    pub fn save_tensors(&self, path: &Path) -> Result<()> {
        Ok(Tensor::write_safetensors(&self.tensors()?, path)?)
    }

    /// Every tensor between reference and picture, for edit e and subject n: `reference_latents`, `reference_noise`,
    /// `timesteps`, `latents`, `score.e.n`, `mask.e`, `latents_before.e`, `latents_after.e`.
    pub fn tensors(&self) -> Result<Vec<(String, Tensor)>> {
        let timesteps: Vec<f32> = self.timesteps.iter().map(|t| *t as f32).collect();
        let mut named = vec![
            ("reference_noise".to_owned(), self.reference_noise.shallow_clone()),
            ("timesteps".to_owned(), Tensor::f_from_slice(&timesteps)?),
            ("latents".to_owned(), self.latents.shallow_clone()),
        ];
        if let Some(latents) = &self.reference_latents {
            named.push(("reference_latents".to_owned(), latents.shallow_clone()));
        }
        for (e, edit) in self.edits.iter().enumerate() {
            for (n, score) in edit.scores.iter().enumerate() {
                named.push((format!("score.{e}.{n}"), score.shallow_clone()));
            }
            named.push((format!("mask.{e}"), edit.mask.f_to_kind(tch::Kind::Uint8)?));
            named.push((format!("latents_before.{e}"), edit.before.shallow_clone()));
            named.push((format!("latents_after.{e}"), edit.after.shallow_clone()));
        }
        named.into_iter().map(|(name, tensor)| Ok((name, tensor.f_contiguous()?))).collect()
    }
}
