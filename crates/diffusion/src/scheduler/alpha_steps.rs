//! Steps of the schedulers that count in `ᾱ`: DDPM and DDIM. Coefficients are float32, as in diffusers.

use tch::Tensor;

use super::options::{FixedVariance, Options, PredictionType};
use crate::error::Result;

/// `ᾱ` where a step starts and where it ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct AlphaStep {
    pub(super) from: f32,
    pub(super) to: f32,
}

/// `ᾱ` at a timestep; beyond the last, where only steps are that are not run, that of the last.
fn alpha_at(alphas_cumprod: &[f32], timestep: f64) -> f32 {
    alphas_cumprod[(timestep as usize).min(alphas_cumprod.len() - 1)]
}

/// The steps of DDPM: each ends at the next timestep of the list, the last at `ᾱ = 1`.
pub(super) fn ddpm_steps(alphas_cumprod: &[f32], timesteps: &[f64]) -> Vec<AlphaStep> {
    let ends = timesteps.iter().skip(1).map(|&t| alpha_at(alphas_cumprod, t)).chain([1.0]);
    timesteps.iter().zip(ends).map(|(&t, to)| AlphaStep { from: alpha_at(alphas_cumprod, t), to }).collect()
}

/// The steps of DDIM: each ends a whole ratio of training steps earlier, which is the next timestep of the list only
/// for even spacing.
pub(super) fn ddim_steps(options: &Options, alphas_cumprod: &[f32], timesteps: &[f64]) -> Vec<AlphaStep> {
    let ratio = options.num_train_timesteps / timesteps.len().max(1);
    let end = if options.set_alpha_to_one { 1.0 } else { alphas_cumprod[0] };
    timesteps
        .iter()
        .map(|&t| AlphaStep {
            from: alpha_at(alphas_cumprod, t),
            to: (t as usize).checked_sub(ratio).map_or(end, |earlier| alpha_at(alphas_cumprod, earlier as f64)),
        })
        .collect()
}

/// Ho et al. 2020, equation 7, and the variance that the configuration names.
pub(super) fn ddpm_step(
    options: &Options,
    step: AlphaStep,
    output: &Tensor,
    sample: &Tensor,
    noise: Option<&Tensor>,
) -> Result<Tensor> {
    let original = predict_original(options, step.from, output, sample)?;
    let (beta_prod, beta_prod_to) = (1.0 - step.from, 1.0 - step.to);
    let alpha = step.from / step.to;
    let beta = 1.0 - alpha;
    let mean = scaled(&original, step.to.sqrt() * beta / beta_prod)?
        .f_add(&scaled(sample, alpha.sqrt() * beta_prod_to / beta_prod)?)?;
    let Some(noise) = noise else { return Ok(mean) };
    let small = (beta_prod_to / beta_prod * beta).max(1e-20);
    let deviation = match options.variance_type {
        FixedVariance::Small => small.sqrt(),
        FixedVariance::SmallLog => (0.5 * small.ln()).exp(),
        FixedVariance::Large => beta.sqrt(),
    };
    Ok(mean.f_add(&scaled(noise, deviation)?)?)
}

/// Song et al. 2021, equation 12 with eta 0.
pub(super) fn ddim_step(options: &Options, step: AlphaStep, output: &Tensor, sample: &Tensor) -> Result<Tensor> {
    let original = predict_original(options, step.from, output, sample)?;
    let (root, root_beta) = (step.from.sqrt(), (1.0 - step.from).sqrt());
    // Not recomputed from the clipped sample, as in diffusers (`use_clipped_model_output` is off in its pipelines).
    let epsilon = match options.prediction_type {
        PredictionType::Epsilon => output.f_detach()?,
        PredictionType::Sample => divided(&sample.f_sub(&scaled(output, root)?)?, root_beta)?,
        PredictionType::VPrediction => scaled(output, root)?.f_add(&scaled(sample, root_beta)?)?,
    };
    Ok(scaled(&original, step.to.sqrt())?.f_add(&scaled(&epsilon, (1.0 - step.to).sqrt())?)?)
}

/// `q(z_t | z0)` at `ᾱ`.
pub(super) fn add_noise(alpha: f32, original: &Tensor, noise: &Tensor) -> Result<Tensor> {
    Ok(scaled(original, alpha.sqrt())?.f_add(&scaled(noise, (1.0 - alpha).sqrt())?)?)
}

fn predict_original(options: &Options, alpha: f32, output: &Tensor, sample: &Tensor) -> Result<Tensor> {
    let (root, root_beta) = (alpha.sqrt(), (1.0 - alpha).sqrt());
    let original = match options.prediction_type {
        PredictionType::Epsilon => divided(&sample.f_sub(&scaled(output, root_beta)?)?, root)?,
        PredictionType::Sample => output.f_detach()?,
        PredictionType::VPrediction => scaled(sample, root)?.f_sub(&scaled(output, root_beta)?)?,
    };
    match options.clip_sample() {
        Some(range) => Ok(original.f_clamp(-range, range)?),
        None => Ok(original),
    }
}

pub(super) fn scaled(tensor: &Tensor, factor: f32) -> Result<Tensor> {
    Ok(tensor.f_mul_scalar(f64::from(factor))?)
}

pub(super) fn divided(tensor: &Tensor, by: f32) -> Result<Tensor> {
    Ok(tensor.f_div_scalar(f64::from(by))?)
}
