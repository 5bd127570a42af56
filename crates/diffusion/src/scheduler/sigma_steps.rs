//! Steps of the schedulers that count in σ: Euler and DPM-Solver++(2M). Coefficients are float32, as in diffusers.

use tch::Tensor;

use super::alpha_steps::{divided, scaled};
use super::options::{FinalSigmas, Options, PredictionType, SolverType};
use super::sigmas::alpha_sigma;
use crate::error::Result;

/// Karras et al. 2022, Algorithm 1 without the second order: along `(x − x0)/σ` to the next level.
pub(super) fn euler_step(options: &Options, sigma: f32, next: f32, output: &Tensor, sample: &Tensor) -> Result<Tensor> {
    let original = match options.prediction_type {
        PredictionType::Epsilon => sample.f_sub(&scaled(output, sigma)?)?,
        PredictionType::Sample => output.f_detach()?,
        PredictionType::VPrediction => {
            let square = sigma * sigma + 1.0;
            scaled(output, -sigma / square.sqrt())?.f_add(&divided(sample, square)?)?
        }
    };
    let derivative = divided(&sample.f_sub(&original)?, sigma)?;
    Ok(sample.f_add(&scaled(&derivative, next - sigma)?)?)
}

/// What the second order needs of the step before: its level and its predicted clean sample.
pub(super) struct Before {
    pub(super) index: usize,
    original: Tensor,
}

/// Lu et al. 2022, Algorithm 2: DPM-Solver++(2M). `i` counts in the whole schedule. Returns the sample at the next
/// level and what the next step needs.
pub(super) fn dpmpp_step(
    options: &Options,
    sigmas: &[f32],
    i: usize,
    output: &Tensor,
    sample: &Tensor,
    before: Option<&Before>,
) -> Result<(Tensor, Before)> {
    let (alpha_s, sigma_s) = alpha_sigma(sigmas[i]);
    let (alpha_t, sigma_t) = alpha_sigma(sigmas[i + 1]);
    let original = match options.prediction_type {
        PredictionType::Epsilon => divided(&sample.f_sub(&scaled(output, sigma_s)?)?, alpha_s)?,
        PredictionType::Sample => output.f_detach()?,
        PredictionType::VPrediction => scaled(sample, alpha_s)?.f_sub(&scaled(output, sigma_s)?)?,
    };
    let lambda_s = alpha_s.ln() - sigma_s.ln();
    let h = (alpha_t.ln() - sigma_t.ln()) - lambda_s;
    let gain = alpha_t * ((-h).exp() - 1.0);
    let first_order = scaled(sample, sigma_t / sigma_s)?.f_sub(&scaled(&original, gain)?)?;

    let next = match before.filter(|before| second_order(options, sigmas.len() - 1, i, before)) {
        None => first_order,
        Some(before) => {
            let (alpha_b, sigma_b) = alpha_sigma(sigmas[i - 1]);
            let ratio = (lambda_s - (alpha_b.ln() - sigma_b.ln())) / h;
            let slope = scaled(&original.f_sub(&before.original)?, 1.0 / ratio)?;
            match options.solver_type {
                SolverType::Midpoint => first_order.f_sub(&scaled(&slope, 0.5 * gain)?)?,
                SolverType::Heun => first_order.f_add(&scaled(&slope, alpha_t * (((-h).exp() - 1.0) / h + 1.0))?)?,
            }
        }
    };
    Ok((next, Before { index: i, original }))
}

/// Short runs end, and runs to σ = 0 always end, with a first-order step.
fn second_order(options: &Options, steps: usize, i: usize, before: &Before) -> bool {
    let last_is_first_order = options.euler_at_final
        || (options.lower_order_final && steps < 15)
        || options.final_sigmas_type == FinalSigmas::Zero;
    options.solver_order == 2 && before.index + 1 == i && !(i + 1 == steps && last_is_first_order)
}
