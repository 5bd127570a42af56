//! Settings that are one of a few words.

use serde::{Deserialize, Serialize};
use strum::{Display, IntoStaticStr, VariantNames};

/// How the picture is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Display, IntoStaticStr, VariantNames)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Method {
    /// Abs-Grad-SAM masked latent replacement (METHOD: arXiv 2408.16232).
    AbsGradSam,
    /// Stable Diffusion image-to-image at the strength given (default 0.9).
    Img2img,
    /// The same at strength 0.6: keeps more of the place and less of the prompt.
    Img2imgReduced,
    /// Text only; the reference is not used.
    Txt2img,
}

impl Method {
    /// The method as it is written.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// A named set of defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Display, VariantNames)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Preset {
    /// What we recommend.
    Default,
    /// What the paper's author published and ran, its slips included.
    Paper,
    /// What the paper's text says: the same schedule with the absolute value of the gradient and the subject's own token.
    PaperText,
}

/// What says which latent elements belong to the subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Display, VariantNames)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Score {
    /// `Σ A·|∂ẑ/∂A|`.
    AbsGrad,
    /// `Σ A·ReLU(∂ẑ/∂A)`.
    ReluGrad,
    /// `Σ A·ReLU` of random mixtures of eight neighbours' `∂ẑ/∂A`: what the published code computes.
    MixedReluGrad,
    /// `Σ A`, without a gradient.
    Attention,
    /// `|ε_c − ε_u|`, as in DiffEdit.
    GuidanceDifference,
}

/// The sampler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Display, VariantNames)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Scheduler {
    /// Ancestral sampling of the training process (Ho et al. 2020), fixed-small variance.
    Ddpm,
    /// Deterministic implicit sampling (Song et al. 2021), eta 0.
    Ddim,
    /// Euler on the probability-flow ODE (Karras et al. 2022).
    Euler,
    /// DPM-Solver++(2M) (Lu et al. 2022).
    #[serde(rename = "dpmpp-2m")]
    #[strum(serialize = "dpmpp-2m")]
    DpmppTwoM,
}

/// How a reference of another shape becomes the picture's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Display, VariantNames)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Fit {
    /// Its largest part in the middle that has the picture's shape is used.
    Crop,
    /// All of it is used, and its edges are repeated where it leaves room.
    Pad,
    /// All of it is used, squashed into the picture's shape.
    Stretch,
}

/// How much of a model's `scheduler_config.json` is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Display, VariantNames)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum SchedulerConfig {
    /// As the Stable Diffusion pipelines of diffusers read it: `steps_offset` 1, `clip_sample` false.
    Pipeline,
    /// As it stands.
    AsIs,
}

/// Where denoising starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Display, VariantNames)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Start {
    /// The noised reference `q(z_{t0} | z0)`.
    Reference,
    /// Noise of its own, as published: the reference enters only through the replacements.
    Noise,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two attributes say how a choice is written: that for files and wire, and that for help and messages.
    #[test]
    fn each_choice_that_a_message_names_can_be_read() {
        fn read<T: serde::de::DeserializeOwned + ToString>(words: &[&str]) {
            for word in words {
                let choice: T = serde_json::from_value((*word).into()).unwrap();
                assert_eq!(choice.to_string(), *word);
            }
        }
        read::<Method>(Method::VARIANTS);
        read::<Preset>(Preset::VARIANTS);
        read::<Score>(Score::VARIANTS);
        read::<Scheduler>(Scheduler::VARIANTS);
        read::<SchedulerConfig>(SchedulerConfig::VARIANTS);
        read::<Start>(Start::VARIANTS);
        read::<Fit>(Fit::VARIANTS);
    }
}
