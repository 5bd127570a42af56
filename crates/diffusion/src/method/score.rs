//! The score of a token: how much each latent element of the model output depends on it, `[4, h, w]` float32.

use std::collections::BTreeMap;

use tch::{Kind, Tensor};

use super::closed_form::{ClosedForm, ScoreForm, token_of};
use super::gradients::Moment;
use super::mixed_form;
use super::settings::{Score, Settings};
use crate::error::{Error, Result};
use crate::model::unet::{Captured, Tap, TextContext, Unet};
use crate::noise::{mixtures, random_signs};

/// How a score comes about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Estimator {
    /// No gradient is needed: attention and guidance difference.
    Direct,
    /// The exact closed form at the last layer.
    ClosedForm,
    /// Exact: one backward pass a latent element.
    ReverseMode,
    /// `sqrt(Σ A² J²)`, estimated from this many random sign vectors.
    RandomSigns(u32),
}

impl Estimator {
    /// What a record says of it; nothing if it is exact.
    pub fn describe(self) -> Option<String> {
        match self {
            Self::RandomSigns(probes) => Some(format!("L2 form from {probes} random-sign probes")),
            Self::Direct | Self::ClosedForm | Self::ReverseMode => None,
        }
    }
}

/// What to capture at an edit step, and how to score it.
#[derive(Debug, Clone)]
pub struct Plan {
    score: Score,
    layers: Vec<usize>,
    /// How the score comes about.
    pub estimator: Estimator,
}

impl Plan {
    /// A tap that captures what the score needs.
    pub fn tap(&self) -> Tap {
        Tap::capture(&self.layers, self.estimator == Estimator::ClosedForm)
    }
}

/// Scores for one model.
pub struct Scorer {
    closed_form: Option<ClosedForm>,
    last: usize,
}

/// One row of a forward pass that was just done with [`Plan::tap`].
pub struct ScoredRow<'a> {
    /// The network.
    pub unet: &'a Unet,
    /// What the forward pass captured.
    pub tap: &'a Tap,
    /// The conditional row in the batch.
    pub row: i64,
    /// What the network was given for it, `[1, 4, h, w]`.
    pub input: &'a Tensor,
    /// At which timestep.
    pub timestep: f64,
    /// With which text: this row alone.
    pub text: &'a TextContext,
    /// `ε_c` `[4, h, w]`.
    pub conditional: &'a Tensor,
    /// `ε_u` `[4, h, w]`, where guidance is in use.
    pub unconditional: Option<&'a Tensor>,
    /// Seeds random signs and mixtures: of the task and of the edit.
    pub seed: u64,
}

impl Scorer {
    /// Prepares the closed form where the network has one.
    pub fn new(unet: &Unet) -> Result<Self> {
        Ok(Self {
            closed_form: unet.closed_form_tail().map(|tail| ClosedForm::new(&tail)).transpose()?,
            last: unet.cross_attention_layers().len().saturating_sub(1),
        })
    }

    /// Decides how `settings` are scored on `unet`, for latents of `elements` numbers.
    ///
    /// The last layer alone has the closed form. Where several layers add up, or another is named, all of them are
    /// taken by the same means, so that their scales agree: exactly, if that needs no more passes than `probes` would,
    /// else estimated.
    ///
    /// # Errors
    /// [`Error::Setting`] for a layer that the model does not have, or a score that cannot be had of these layers.
    pub fn plan(&self, unet: &Unet, settings: &Settings, elements: i64) -> Result<Plan> {
        let refuse = |param: &'static str, message: String| Err(Error::Setting { param, message });
        let mut layers = settings.layers.iter().map(|path| unet.layer_index(path)).collect::<Result<Vec<_>>>()?;
        layers.sort_unstable();
        layers.dedup();
        if layers.is_empty() && settings.score != Score::GuidanceDifference {
            return refuse("layers", "names no layer".to_owned());
        }
        let estimator = match settings.score {
            Score::Attention => Estimator::Direct,
            Score::GuidanceDifference => {
                if settings.guidance <= 1.0 {
                    return refuse("score", "guidance-difference needs a guidance above 1".to_owned());
                }
                layers.clear();
                Estimator::Direct
            }
            Score::AbsGrad | Score::ReluGrad | Score::MixedReluGrad => {
                if layers == [self.last] && self.closed_form.is_some() {
                    Estimator::ClosedForm
                } else if i64::from(settings.probes) >= elements {
                    Estimator::ReverseMode
                } else if settings.score.needs_signs() {
                    return refuse(
                        "score",
                        format!(
                            "relu-grad and mixed-relu-grad are exact at the last layer only; for other layers set probes \
                             to at least {elements} (one backward pass a latent element), or choose attention or abs-grad"
                        ),
                    );
                } else {
                    Estimator::RandomSigns(settings.probes)
                }
            }
        };
        Ok(Plan { score: settings.score, layers, estimator })
    }

    /// The score of each subject, given by the positions of its tokens: `[4, h, w]` float32.
    pub fn scores(&self, plan: &Plan, row: &ScoredRow<'_>, subjects: &[&[i64]]) -> Result<Vec<Tensor>> {
        if plan.score == Score::GuidanceDifference {
            let unconditional = row.unconditional.ok_or_else(|| Error::Setting {
                param: "score",
                message: "guidance-difference needs a guidance above 1".to_owned(),
            })?;
            let difference = row.conditional.f_sub(unconditional)?.f_abs()?;
            return Ok(subjects.iter().map(|_| difference.shallow_clone()).collect());
        }
        let mut tokens: Vec<i64> = subjects.iter().copied().flatten().copied().collect();
        tokens.sort_unstable();
        tokens.dedup();
        let mut of_token: BTreeMap<i64, Tensor> = BTreeMap::new();
        for captured in &row.tap.captured {
            for (&token, score) in tokens.iter().zip(self.layer_scores(plan, row, captured, &tokens)?) {
                let sum = match of_token.remove(&token) {
                    None => score,
                    Some(sum) => sum.f_add(&score)?,
                };
                of_token.insert(token, sum);
            }
        }
        subjects
            .iter()
            .map(|positions| {
                let mut sum: Option<Tensor> = None;
                for score in positions.iter().filter_map(|token| of_token.get(token)) {
                    sum = Some(match sum {
                        None => score.shallow_clone(),
                        Some(sum) => sum.f_add(score)?,
                    });
                }
                sum.ok_or_else(|| Error::Torch("a subject without tokens has no score".to_owned()))
            })
            .collect()
    }

    /// The score of each token in one layer.
    fn layer_scores(&self, plan: &Plan, row: &ScoredRow<'_>, layer: &Captured, tokens: &[i64]) -> Result<Vec<Tensor>> {
        let form = if plan.score.needs_signs() { ScoreForm::Relu } else { ScoreForm::Abs };
        let mixtures = match plan.score {
            Score::MixedReluGrad => {
                let elements = row.conditional.numel() as i64;
                Some(mixtures(row.seed, elements)?.f_to_device(row.conditional.device())?)
            }
            _ => None,
        };
        let moment = Moment { unet: row.unet, input: row.input, timestep: row.timestep, text: row.text };
        match plan.estimator {
            Estimator::Direct => tokens.iter().map(|&token| attention(row, layer, token)).collect(),
            Estimator::ClosedForm => {
                let missing = || Error::Torch("the closed form has nothing to work on".to_owned());
                let closed_form = self.closed_form.as_ref().ok_or_else(missing)?;
                let stream = row.tap.tail_residual.as_ref().ok_or_else(missing)?.f_get(row.row)?;
                let last = row.tap.tail_input.as_ref().ok_or_else(missing)?.f_get(row.row)?;
                let activations = closed_form.activations(&stream, &last)?;
                tokens
                    .iter()
                    .map(|&token| {
                        let (column, values) = token_of(layer, row.row, token)?;
                        let factors = closed_form.factors(&activations, &column, &values)?;
                        match &mixtures {
                            Some(mixtures) => mixed_form::score(&factors, mixtures),
                            None => factors.score(form),
                        }
                    })
                    .collect()
            }
            Estimator::ReverseMode => moment.reverse_mode(layer.layer, tokens, form, mixtures.as_ref()),
            Estimator::RandomSigns(probes) => {
                let (_, heads, positions, _) = layer.probabilities.size4()?;
                let seed = row.seed.wrapping_add(layer.layer as u64);
                let signs = random_signs(seed, &[i64::from(probes), heads, positions])?;
                moment.random_signs(layer.layer, tokens, &signs)
            }
        }
    }
}

/// `Σ_h A[h, p, n]`: the attention that each position pays to the token, the same for each latent channel; brought to
/// the latents' size where the layer has another.
fn attention(row: &ScoredRow<'_>, layer: &Captured, token: i64) -> Result<Tensor> {
    let (channels, height, width) = row.conditional.size3()?;
    let paid = layer.probabilities.f_get(row.row)?.f_select(-1, token)?.f_to_kind(Kind::Float)?;
    let paid = paid.f_sum_dim_intlist(0, false, Kind::Float)?.f_reshape([1, 1, layer.height, layer.width])?;
    let paid = if (layer.height, layer.width) == (height, width) {
        paid
    } else {
        paid.f_upsample_bilinear2d([height, width], false, None, None)?
    };
    Ok(paid.f_reshape([1, height, width])?.f_expand([channels, height, width], false)?.f_contiguous()?)
}
