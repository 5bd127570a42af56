//! The noise schedule of training and the timesteps of inference, in the arithmetic of diffusers: betas and their
//! products are float32 tensors, spacings are numpy's float64.

use tch::{Device, Kind, Tensor};

use super::config::SchedulerKind;
use super::options::{BetaSchedule, Options, TimestepSpacing};
use crate::error::{Error, Result};

/// `ᾱ_t` for each training step.
pub(super) fn alphas_cumprod(options: &Options, kind: SchedulerKind) -> Result<Vec<f32>> {
    let mut betas = betas(options)?;
    if options.rescale_betas_zero_snr {
        betas = rescale_zero_terminal_snr(&betas)?;
    }
    let products = one_minus(&betas)?.f_cumprod(0, Kind::Float)?;
    let mut alphas_cumprod = Vec::<f32>::try_from(&products)?;
    // Sigma is infinite where ᾱ is 0: diffusers' sigma-based classes put a small number in its place.
    if options.rescale_betas_zero_snr
        && matches!(kind, SchedulerKind::Euler | SchedulerKind::DpmppTwoM)
        && let Some(last) = alphas_cumprod.last_mut()
    {
        *last = f32::powi(2.0, -24);
    }
    Ok(alphas_cumprod)
}

fn betas(options: &Options) -> Result<Tensor> {
    if let Some(betas) = &options.trained_betas {
        return Ok(Tensor::f_from_slice(betas)?);
    }
    let (start, end, count) = (options.beta_start, options.beta_end, options.num_train_timesteps as i64);
    let linspace = |start: f64, end: f64| Tensor::f_linspace(start, end, count, (Kind::Float, Device::Cpu));
    Ok(match options.beta_schedule {
        BetaSchedule::Linear => linspace(start, end)?,
        BetaSchedule::ScaledLinear => linspace(start.sqrt(), end.sqrt())?.f_square()?,
        BetaSchedule::SquaredcosCapV2 => Tensor::f_from_slice(&squaredcos_cap_v2(options.num_train_timesteps))?,
    })
}

/// Nichol and Dhariwal 2021, equation 17, with betas capped at 0.999.
fn squaredcos_cap_v2(count: usize) -> Vec<f32> {
    let alpha_bar = |t: f64| ((t + 0.008) / 1.008 * std::f64::consts::PI / 2.0).cos().powi(2);
    let count_f = count as f64;
    (0..count)
        .map(|i| {
            let beta = 1.0 - alpha_bar((i + 1) as f64 / count_f) / alpha_bar(i as f64 / count_f);
            beta.min(0.999) as f32
        })
        .collect()
}

/// Lin et al. 2023, Algorithm 1: shifts and scales `sqrt(ᾱ)` so that the last step is pure noise.
fn rescale_zero_terminal_snr(betas: &Tensor) -> Result<Tensor> {
    let root = one_minus(betas)?.f_cumprod(0, Kind::Float)?.f_sqrt()?;
    let first = root.f_get(0)?;
    let last = root.f_get(-1)?;
    let scale = first.f_div(&first.f_sub(&last)?)?;
    let products = root.f_sub(&last)?.f_mul(&scale)?.f_square()?;
    let count = i64::try_from(products.numel()).unwrap_or_default();
    let ratios = products.f_narrow(0, 1, count - 1)?.f_div(&products.f_narrow(0, 0, count - 1)?)?;
    one_minus(&Tensor::f_cat(&[products.f_narrow(0, 0, 1)?, ratios], 0)?)
}

fn one_minus(tensor: &Tensor) -> Result<Tensor> {
    Ok(tensor.f_neg()?.f_add_scalar(1.0)?)
}

/// The timesteps of inference: falling, all different, and all that are run steps of training (whole except for Euler).
/// The first `skipped` are not run: with an offset, the first of as many steps as were trained lies beyond the last.
///
/// # Errors
/// [`Error::Setting`] if the schedule of training has no room for so many steps.
pub(super) fn timesteps(options: &Options, kind: SchedulerKind, steps: usize, skipped: usize) -> Result<Vec<f64>> {
    let trained = options.num_train_timesteps;
    if steps == 0 || steps > trained {
        return Err(Error::Setting { param: "steps", message: format!("{steps} is not between 1 and {trained}") });
    }
    let timesteps = spaced(options, kind, steps);
    let in_range = timesteps.get(skipped).is_none_or(|&noisiest| noisiest < trained as f64);
    if in_range && timesteps.windows(2).all(|pair| pair[0] > pair[1]) {
        return Ok(timesteps);
    }
    Err(Error::Setting {
        param: "steps",
        message: format!(
            "{steps} steps do not fit into the {trained} that the model was trained on ({:?} spacing, offset {}); \
             take fewer, or less strength",
            options.spacing, options.steps_offset
        ),
    })
}

fn spaced(options: &Options, kind: SchedulerKind, steps: usize) -> Vec<f64> {
    let trained = options.num_train_timesteps;
    // DPM-Solver++ lays one step more than it takes, and leaves out the last.
    let laid = if kind == SchedulerKind::DpmppTwoM { steps + 1 } else { steps };
    let rising: Vec<f64> = match options.spacing {
        TimestepSpacing::Trailing => return trailing(trained, steps),
        TimestepSpacing::Leading => {
            let ratio = trained / laid;
            (0..laid).map(|i| (i * ratio).saturating_add(options.steps_offset) as f64).collect()
        }
        TimestepSpacing::Linspace => {
            let even = linspace(0.0, (trained - 1) as f64, laid);
            match kind {
                // Keeps broken timesteps, as float32.
                SchedulerKind::Euler => even.into_iter().map(|t| f64::from(t as f32)).collect(),
                _ => even.into_iter().map(f64::round_ties_even).collect(),
            }
        }
    };
    rising.into_iter().rev().take(steps).collect()
}

/// numpy's `arange(trained, 0, -trained/steps).round() - 1`. For some counts (61 of 1000, say) rounding gives numpy one
/// step more, at timestep -1, which diffusers would look up as the last of training: that one is left out.
fn trailing(trained: usize, steps: usize) -> Vec<f64> {
    let start = trained as f64;
    let second = start - start / steps as f64;
    let delta = second - start;
    (0..steps).map(|i| (start + i as f64 * delta).round_ties_even() - 1.0).collect()
}

/// numpy's `linspace`.
pub(super) fn linspace(start: f64, stop: f64, count: usize) -> Vec<f64> {
    if count < 2 {
        return vec![start; count];
    }
    let step = (stop - start) / (count - 1) as f64;
    let mut values: Vec<f64> = (0..count).map(|i| i as f64 * step + start).collect();
    values[count - 1] = stop;
    values
}
