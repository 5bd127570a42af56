//! The settings of one picture, all of them decided.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::scheduler::{ConfigReading, SchedulerKind};

/// The edit indices of the paper, as shares of its 45 timesteps.
pub const PAPER_EDIT_FRACTIONS: [f64; 3] = [5.0 / 45.0, 18.0 / 45.0, 28.0 / 45.0];

/// How the picture is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Abs-Grad-SAM masked latent replacement.
    AbsGradSam,
    /// Stable Diffusion image-to-image.
    Img2img,
    /// Text only.
    Txt2img,
}

/// What says which latent elements belong to the subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Score {
    /// `Σ A·|J|`.
    AbsGrad,
    /// `Σ A·max(J, 0)`.
    ReluGrad,
    /// `Σ A·max(random mixtures of eight neighbours' J, 0)`: what the paper's author computed.
    MixedReluGrad,
    /// `Σ A`.
    Attention,
    /// `|ε_c − ε_u|`.
    GuidanceDifference,
}

impl Score {
    /// Whether it tells positive derivatives from negative ones, so that squares of them are no substitute.
    pub fn needs_signs(self) -> bool {
        matches!(self, Self::ReluGrad | Self::MixedReluGrad)
    }
}

/// What is done to a score before its threshold.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Smoothing {
    /// A 3×3 Gaussian of this σ in latent elements, reflected at the edge; 0 is none.
    Gaussian(f64),
    /// The sum over a 3×3 box, zero beyond the edge, as the paper's author published it.
    BoxSum,
}

/// Which positions of the text encoder a subject is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SubjectTokens {
    /// Those of all its BPE pieces.
    Pieces,
    /// For each of its words, the number of the word in the prompt, counted from 0: what the paper's author took, though
    /// position 0 is the start token.
    WordNumber,
}

/// Where denoising starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// The noised reference.
    Reference,
    /// Pure noise, a draw of its own.
    Noise,
}

/// Where in the truncated list of timesteps latents are replaced.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Edits {
    /// By index: 1 to the list's length − 1.
    Steps(Vec<usize>),
    /// As shares of the list's length, 0 to 1.
    Fractions(Vec<f64>),
}

impl Edits {
    /// The indices in a list of `length` timesteps, rising.
    ///
    /// # Errors
    /// [`Error::Setting`] if an index is not in the list, or the list is too short for any.
    pub fn indices(&self, length: usize) -> Result<Vec<usize>> {
        let refuse = |message: String| Err(Error::Setting { param: "edit_steps", message });
        if length < 2 {
            return refuse(format!(
                "{length} timesteps are left by steps and strength; abs-grad-sam needs at least 2: raise steps or strength"
            ));
        }
        let mut indices = match self {
            Self::Steps(steps) => {
                if let Some(outside) = steps.iter().find(|step| !(1..length).contains(*step)) {
                    return refuse(format!(
                        "{outside} is not in the list of timesteps; steps and strength leave {length}, so an edit \
                         step must be 1 to {}",
                        length - 1
                    ));
                }
                steps.clone()
            }
            Self::Fractions(shares) => {
                shares.iter().map(|share| ((share * length as f64).round() as usize).clamp(1, length - 1)).collect()
            }
        };
        indices.sort_unstable();
        indices.dedup();
        if indices.is_empty() { refuse("names no step".to_owned()) } else { Ok(indices) }
    }
}

/// Everything that decides a picture beside model, prompt, subjects, reference and seed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Settings {
    /// How the picture is made.
    pub method: Method,
    /// The sampler.
    pub scheduler: SchedulerKind,
    /// How much of the model's scheduler configuration is believed.
    pub scheduler_config: ConfigReading,
    /// Whether timesteps are the paper's: leading spacing without offset (980, 960 … 0 for 50 steps), whatever the
    /// model's configuration says.
    pub published_timesteps: bool,
    /// Steps of the whole schedule: at least 1.
    pub steps: usize,
    /// The share of the schedule that runs: above 0, at most 1. `txt2img` runs all of it.
    pub strength: f64,
    /// Classifier-free guidance scale; at most 1 is no guidance, and the negative prompt is not used.
    pub guidance: f64,
    /// What should not appear.
    pub negative_prompt: String,
    /// Where latents are replaced.
    pub edits: Edits,
    /// k in `score > mean + k·std`.
    pub threshold: f64,
    /// How often the mask is dilated.
    pub dilation: u32,
    /// What is done to a score before its threshold.
    pub smoothing: Smoothing,
    /// Which positions a subject is.
    pub subject_tokens: SubjectTokens,
    /// The cross-attention layers that the score is taken from, by their diffusers paths.
    pub layers: Vec<String>,
    /// Which score.
    pub score: Score,
    /// Random-sign probes, for layers without a closed form.
    pub probes: u32,
    /// Where denoising starts.
    pub start: Start,
    /// The picture's width in pixels.
    pub width: u32,
    /// The picture's height in pixels.
    pub height: u32,
    /// Whether reference pixels are put back outside the mask, with an edge this many pixels soft.
    pub paste_back: Option<u32>,
}

impl Settings {
    /// The share of the schedule that runs.
    pub fn effective_strength(&self) -> f64 {
        if self.method == Method::Txt2img { 1.0 } else { self.strength }
    }

    /// Whether the unconditional row is needed.
    pub fn guided(&self) -> bool {
        self.guidance > 1.0
    }

    /// Pictures of equal keys may be made in one batch: everything but what each row has of its own (guidance scale,
    /// negative prompt, threshold, dilation, smoothing, tokens of subjects, paste-back).
    pub fn batch_key(&self) -> String {
        format!(
            "{:?} {:?} {:?} {} {} {} {} {:?} {:?} {:?} {} {:?} {}x{}",
            self.method,
            self.scheduler,
            self.scheduler_config,
            self.published_timesteps,
            self.steps,
            self.effective_strength(),
            self.guided(),
            self.edits,
            self.layers,
            self.score,
            self.probes,
            self.start,
            self.width,
            self.height,
        )
    }
}

#[cfg(test)]
impl Settings {
    /// For tests, each of which sets what it is about.
    pub(crate) fn example() -> Self {
        Self {
            method: Method::AbsGradSam,
            scheduler: SchedulerKind::Ddim,
            scheduler_config: ConfigReading::Pipeline,
            published_timesteps: false,
            steps: 10,
            strength: 0.9,
            guidance: 8.0,
            negative_prompt: String::new(),
            edits: Edits::Steps(vec![5]),
            threshold: 0.5,
            dilation: 1,
            smoothing: Smoothing::Gaussian(6.0),
            subject_tokens: SubjectTokens::Pieces,
            layers: Vec::new(),
            score: Score::AbsGrad,
            probes: 1,
            start: Start::Reference,
            width: 64,
            height: 64,
            paste_back: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_paper_edits_at_5_18_and_28_of_45() {
        assert_eq!(Edits::Fractions(PAPER_EDIT_FRACTIONS.to_vec()).indices(45).unwrap(), [5, 18, 28]);
        // A short list still has as many edits as fit.
        assert_eq!(Edits::Fractions(PAPER_EDIT_FRACTIONS.to_vec()).indices(2).unwrap(), [1]);
    }

    #[test]
    fn an_edit_outside_the_list_is_refused_with_the_range() {
        let error = Edits::Steps(vec![5, 45]).indices(45).unwrap_err().to_string();
        assert!(error.contains("edit_steps") && error.contains("45") && error.contains("1 to 44"), "{error}");
        assert!(Edits::Steps(vec![1]).indices(1).unwrap_err().to_string().contains("at least 2"));
    }
}
