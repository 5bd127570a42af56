//! The score of a token: how much each latent element of the model output depends on it, `[4, h, w]` float32.

use std::collections::BTreeMap;

use tch::{Kind, Tensor};

use super::closed_form::{Arithmetic, ClosedForm, ScoreForm, tokens_of};
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

/// R rows of a forward pass that was just done with [`Plan::tap`].
pub struct ScoredRows<'a> {
    /// The network.
    pub unet: &'a Unet,
    /// What the forward pass captured.
    pub tap: &'a Tap,
    /// The first of the rows among those that were captured.
    pub first: i64,
    /// What the network was given for them, `[R, 4, h, w]`.
    pub input: &'a Tensor,
    /// At which timestep.
    pub timestep: f64,
    /// With which text: that of each row alone.
    pub text: &'a dyn Fn(i64) -> Result<TextContext>,
    /// `ε_c` `[R, 4, h, w]`.
    pub conditional: &'a Tensor,
    /// `ε_u` `[R, 4, h, w]`, where guidance is in use.
    pub unconditional: Option<&'a Tensor>,
    /// Seeds of random signs and mixtures, one a row: of the task and of the edit.
    pub seeds: &'a [u64],
}

impl Scorer {
    /// Prepares the closed form where the network has one.
    pub fn new(unet: &Unet, arithmetic: Arithmetic) -> Result<Self> {
        Ok(Self {
            closed_form: unet.closed_form_tail().map(|tail| ClosedForm::new(&tail, arithmetic)).transpose()?,
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

    /// The score of each row's subjects, each given by the positions of its tokens: `[4, h, w]` float32. Nothing is read
    /// from the device, but for scores that take passes through the network.
    pub fn scores(&self, plan: &Plan, rows: &ScoredRows<'_>, subjects: &[Vec<&[i64]>]) -> Result<Vec<Vec<Tensor>>> {
        if plan.score == Score::GuidanceDifference {
            let unconditional = rows.unconditional.ok_or_else(|| Error::Setting {
                param: "score",
                message: "guidance-difference needs a guidance above 1".to_owned(),
            })?;
            let difference = rows.conditional.f_sub(unconditional)?.f_abs()?;
            let of_row =
                |(row, subjects): (i64, &Vec<&[i64]>)| subjects.iter().map(|_| Ok(difference.f_get(row)?)).collect();
            return (0..).zip(subjects).map(of_row).collect();
        }
        let tokens: Vec<Vec<i64>> = subjects.iter().map(|subjects| tokens_in(subjects)).collect();
        let mut of_token: Vec<BTreeMap<i64, Tensor>> = tokens.iter().map(|_| BTreeMap::new()).collect();
        for captured in &rows.tap.captured {
            let scores = self.layer_scores(plan, rows, captured, &tokens)?;
            for ((known, tokens), scores) in of_token.iter_mut().zip(&tokens).zip(scores) {
                for (&token, score) in tokens.iter().zip(scores) {
                    let sum = match known.remove(&token) {
                        None => score,
                        Some(sum) => sum.f_add(&score)?,
                    };
                    known.insert(token, sum);
                }
            }
        }
        let of_row = |(subjects, of_token): (&Vec<&[i64]>, &BTreeMap<i64, Tensor>)| {
            subjects.iter().map(|positions| sum_over(positions, of_token)).collect()
        };
        subjects.iter().zip(&of_token).map(of_row).collect()
    }

    /// The score of each row's tokens in one layer.
    fn layer_scores(
        &self,
        plan: &Plan,
        rows: &ScoredRows<'_>,
        layer: &Captured,
        tokens: &[Vec<i64>],
    ) -> Result<Vec<Vec<Tensor>>> {
        let form = if plan.score.needs_signs() { ScoreForm::Relu } else { ScoreForm::Abs };
        let mixtures = match plan.score {
            Score::MixedReluGrad => {
                let elements = rows.conditional.f_get(0)?.numel() as i64;
                let draw = |&seed| Ok(mixtures(seed, elements)?.f_to_device(rows.conditional.device())?);
                Some(rows.seeds.iter().map(draw).collect::<Result<Vec<_>>>()?)
            }
            _ => None,
        };
        if plan.estimator == Estimator::ClosedForm {
            return self.closed_form_scores(rows, layer, tokens, form, mixtures.as_deref());
        }
        let of_row = |(row, tokens): (i64, &Vec<i64>)| -> Result<Vec<Tensor>> {
            let (input, text) = (rows.input.f_narrow(0, row, 1)?, (rows.text)(row)?);
            let moment = Moment { unet: rows.unet, input: &input, timestep: rows.timestep, text: &text };
            match plan.estimator {
                Estimator::Direct | Estimator::ClosedForm => {
                    tokens.iter().map(|&token| attention(rows, layer, row, token)).collect()
                }
                Estimator::ReverseMode => {
                    let mixtures = mixtures.as_ref().and_then(|of_rows| of_rows.get(row as usize));
                    moment.reverse_mode(layer.layer, tokens, form, mixtures)
                }
                Estimator::RandomSigns(probes) => {
                    let (_, heads, positions, _) = layer.probabilities.size4()?;
                    let seed = rows.seeds[row as usize].wrapping_add(layer.layer as u64);
                    let signs = random_signs(seed, &[i64::from(probes), heads, positions])?;
                    moment.random_signs(layer.layer, tokens, &signs)
                }
            }
        };
        (0..).zip(tokens).map(of_row).collect()
    }

    /// The closed form of all rows together: first of the first token of each, then of the second of each, and so on. A
    /// row that has fewer repeats its first, so that what is computed for the others does not depend on it.
    fn closed_form_scores(
        &self,
        rows: &ScoredRows<'_>,
        layer: &Captured,
        tokens: &[Vec<i64>],
        form: ScoreForm,
        mixtures: Option<&[Tensor]>,
    ) -> Result<Vec<Vec<Tensor>>> {
        let missing = || Error::Torch("the closed form has nothing to work on".to_owned());
        let closed_form = self.closed_form.as_ref().ok_or_else(missing)?;
        let count = tokens.len() as i64;
        let of_rows = |x: &Option<Tensor>| -> Result<Tensor> {
            Ok(x.as_ref().ok_or_else(missing)?.f_narrow(0, rows.first, count)?)
        };
        let activations =
            closed_form.activations(&of_rows(&rows.tap.tail_residual)?, &of_rows(&rows.tap.tail_input)?)?;
        let mut scores: Vec<Vec<Tensor>> = tokens.iter().map(|_| Vec::new()).collect();
        for place in 0..tokens.iter().map(Vec::len).max().unwrap_or(0) {
            let taken = |tokens: &Vec<i64>| tokens.get(place).or(tokens.first()).copied().ok_or_else(missing);
            let taken = tokens.iter().map(taken).collect::<Result<Vec<_>>>()?;
            let (columns, values) = tokens_of(layer, rows.first, &taken)?;
            let factors = closed_form.factors(&activations, &columns, &values)?;
            let of_place = match mixtures {
                Some(mixtures) => {
                    let of_row = |(row, mixtures)| mixed_form::score(&factors, row, mixtures);
                    (0..).zip(mixtures).map(of_row).collect::<Result<Vec<_>>>()?
                }
                None => factors.score(form)?.f_unbind(0)?,
            };
            for ((scores, tokens), score) in scores.iter_mut().zip(tokens).zip(of_place) {
                if place < tokens.len() {
                    scores.push(score);
                }
            }
        }
        Ok(scores)
    }
}

/// The tokens of all subjects, each once.
fn tokens_in(subjects: &[&[i64]]) -> Vec<i64> {
    let mut tokens: Vec<i64> = subjects.iter().copied().flatten().copied().collect();
    tokens.sort_unstable();
    tokens.dedup();
    tokens
}

/// A subject's score: that of its tokens together.
fn sum_over(positions: &[i64], of_token: &BTreeMap<i64, Tensor>) -> Result<Tensor> {
    let mut sum: Option<Tensor> = None;
    for score in positions.iter().filter_map(|token| of_token.get(token)) {
        sum = Some(match sum {
            None => score.shallow_clone(),
            Some(sum) => sum.f_add(score)?,
        });
    }
    sum.ok_or_else(|| Error::Torch("a subject without tokens has no score".to_owned()))
}

/// `Σ_h A[h, p, n]`: the attention that each position pays to the token, the same for each latent channel; brought to
/// the latents' size where the layer has another.
fn attention(rows: &ScoredRows<'_>, layer: &Captured, row: i64, token: i64) -> Result<Tensor> {
    let (_, channels, height, width) = rows.conditional.size4()?;
    let paid = layer.probabilities.f_get(rows.first + row)?.f_select(-1, token)?.f_to_kind(Kind::Float)?;
    let paid = paid.f_sum_dim_intlist(0, false, Kind::Float)?.f_reshape([1, 1, layer.height, layer.width])?;
    let paid = if (layer.height, layer.width) == (height, width) {
        paid
    } else {
        paid.f_upsample_bilinear2d([height, width], false, None, None)?
    };
    Ok(paid.f_reshape([1, height, width])?.f_expand([channels, height, width], false)?.f_contiguous()?)
}
