//! Scores of layers that have no closed form, by passes through the network behind them: exact reverse mode, one
//! backward pass a latent element, or an estimate of the L2 form from random signs.

use tch::{Kind, Tensor};

use crate::error::{Error, Result};
use crate::method::closed_form::ScoreForm;
use crate::method::mixed_form::STRIP;
use crate::model::unet::{Perturbation, Tap, TextContext, Unet};

/// The relative size of a finite difference: large enough for float32, small enough for its square to vanish.
const DIFFERENCE: f64 = 2e-2;
/// Latent positions that are differentiated at once, summed over copies of the picture.
const POSITIONS_AT_ONCE: i64 = 16_384;
/// Copies of the picture in one pass, at most.
const MOST_COPIES: i64 = 64;

/// One picture in the middle of its denoising, of which the network can be run again.
pub(super) struct Moment<'a> {
    /// The network.
    pub(super) unet: &'a Unet,
    /// What the network was given: `[1, 4, h, w]`.
    pub(super) input: &'a Tensor,
    /// At which timestep.
    pub(super) timestep: f64,
    /// With which text: one row.
    pub(super) text: &'a TextContext,
}

impl Moment<'_> {
    fn copies(&self) -> Result<i64> {
        let (_, _, height, width) = self.input.size4()?;
        Ok((POSITIONS_AT_ONCE / (height * width)).clamp(1, MOST_COPIES))
    }

    fn forward(&self, copies: i64, tap: &mut Tap) -> Result<Tensor> {
        let (_, channels, height, width) = self.input.size4()?;
        let input = self.input.f_expand([copies, channels, height, width], false)?;
        self.unet.forward(&input, self.timestep, &self.text.copies(0, copies)?, tap)
    }

    /// `Σ A·|J|` (or of the positive part) over heads and positions of `layer`, exactly, for each token: `[4, h, w]`. With
    /// `mixtures` `[⌈4·h·w / 8⌉, 8, 8]`, `J` of an element is that mixture of its strip's.
    pub(super) fn reverse_mode(
        &self,
        layer: usize,
        tokens: &[i64],
        form: ScoreForm,
        mixtures: Option<&Tensor>,
    ) -> Result<Vec<Tensor>> {
        let (_, channels, height, width) = self.input.size4()?;
        let outputs = channels * height * width;
        let copies = self.copies()?.min(outputs);
        let device = self.input.device();
        let columns = Tensor::f_from_slice(tokens)?.f_to_device(device)?;
        let mut tap = Tap::capture(&[layer], false);
        tap.differentiable = true;
        // Copies of the picture do not see each other: the gradient of a sum over copies is each copy's own.
        let output =
            tch::with_grad(|| -> Result<Tensor> { Ok(self.forward(copies, &mut tap)?.f_view([copies, outputs])?) })?;
        let captured = tap.captured.pop().ok_or_else(|| Error::Torch(format!("layer {layer} captured nothing")))?;
        let a = captured.probabilities;
        let mut parts = Vec::new();
        for start in (0..outputs).step_by(copies as usize) {
            let elements =
                Tensor::f_arange_start(start, start + copies, (Kind::Int64, device))?.f_clamp_max(outputs - 1)?;
            let chosen = tch::with_grad(|| -> Result<Tensor> {
                Ok(match mixtures {
                    None => output.f_gather(1, &elements.f_unsqueeze(1)?, false)?.f_sum(Kind::Float)?,
                    Some(mixtures) => mixed(&output, &elements, mixtures)?,
                })
            })?;
            let last = start + copies >= outputs;
            let gradient = Tensor::f_run_backward(&[chosen], &[&a], !last, false)?.remove(0);
            let part = tch::no_grad(|| -> Result<Tensor> {
                let j = gradient.f_index_select(-1, &columns)?;
                let j = match form {
                    ScoreForm::Abs => j.f_abs()?,
                    ScoreForm::Relu => j.f_relu()?,
                };
                let weighted = a.f_detach()?.f_index_select(-1, &columns)?.f_mul(&j)?;
                Ok(weighted.f_sum_dim_intlist([1i64, 2].as_slice(), false, Kind::Float)?)
            })?;
            parts.push(part.f_narrow(0, 0, copies.min(outputs - start))?);
        }
        let all = Tensor::f_cat(&parts, 0)?;
        (0..tokens.len() as i64).map(|i| Ok(all.f_select(1, i)?.f_reshape([channels, height, width])?)).collect()
    }

    /// `sqrt(Σ A²·J²)`, estimated for each token: `J (A⊙r)` for random signs `r` `[K, H, N]`, squared and averaged, by
    /// central differences of the network's output. Its relative error falls with `sqrt(K)`.
    pub(super) fn random_signs(&self, layer: usize, tokens: &[i64], signs: &Tensor) -> Result<Vec<Tensor>> {
        let (probes, heads, positions) = signs.size3()?;
        let length = self.text.length()?;
        let at_once = (self.copies()? / 2).max(1);
        let signs = signs.f_to_device(self.input.device())?;
        tokens
            .iter()
            .map(|&token| {
                let mut total: Option<Tensor> = None;
                for start in (0..probes).step_by(at_once as usize) {
                    let count = at_once.min(probes - start);
                    let change = signs.f_narrow(0, start, count)?.f_mul_scalar(DIFFERENCE)?;
                    let change = Tensor::f_cat(&[change.shallow_clone(), change.f_neg()?], 0)?;
                    let factor = Tensor::f_ones([2 * count, heads, positions, length], (Kind::Float, signs.device()))?;
                    let _ = factor.f_select(-1, token)?.f_add_(&change)?;
                    let mut tap = Tap { perturb: Some(Perturbation { layer, factor }), ..Tap::default() };
                    let halves = self.forward(2 * count, &mut tap)?.f_chunk(2, 0)?;
                    let along = halves[0].f_sub(&halves[1])?.f_div_scalar(2.0 * DIFFERENCE)?;
                    let squares = along.f_square()?.f_sum_dim_intlist(0, false, Kind::Float)?;
                    total = Some(match total {
                        None => squares,
                        Some(sum) => sum.f_add(&squares)?,
                    });
                }
                let total = total.ok_or_else(|| Error::Setting {
                    param: "probes",
                    message: "0 is out of range; it must be 1 to 4096".to_owned(),
                })?;
                Ok(total.f_div_scalar(probes as f64)?.f_sqrt()?)
            })
            .collect()
    }
}

/// The sum over copies, each with its own element's mixture of the eight outputs of that element's strip.
fn mixed(output: &Tensor, elements: &Tensor, mixtures: &Tensor) -> Result<Tensor> {
    let outputs = output.size2()?.1;
    let strip = elements.f_divide_scalar_mode(STRIP, "floor")?;
    let weights = mixtures.f_view([-1, STRIP])?.f_index_select(0, elements)?;
    let members = strip.f_mul_scalar(STRIP)?.f_unsqueeze(1)?;
    let members = members.f_add(&Tensor::f_arange(STRIP, (Kind::Int64, elements.device()))?)?;
    // A last strip that is cut short has nothing to mix beyond the end.
    let weights = weights.f_mul(&members.f_lt(outputs)?)?;
    Ok(output.f_gather(1, &members.f_clamp_max(outputs - 1)?, false)?.f_mul(&weights)?.f_sum(Kind::Float)?)
}
