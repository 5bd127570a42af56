//! Noise levels `σ = sqrt((1−ᾱ)/ᾱ)` of the schedulers that step in them (Karras et al. 2022), and what belongs to each:
//! its timestep, and the pair (α, σ) of the variance-preserving form.

use super::config::SchedulerKind;
use super::options::{BetaSchedule, FinalSigmas, Options, PredictionType, TimestepType};
use super::schedule;
use crate::error::Result;

/// Levels and timesteps of one run: one level more than timesteps, the last being where the run ends.
pub(super) struct Levels {
    pub(super) sigmas: Vec<f32>,
    pub(super) timesteps: Vec<f64>,
}

/// As `set_timesteps` of diffusers' Euler and DPM-Solver++ classes. The first `skipped` are not run.
pub(super) fn levels(
    options: &Options,
    kind: SchedulerKind,
    alphas_cumprod: &[f32],
    steps: usize,
    skipped: usize,
) -> Result<Levels> {
    let trained: Vec<f32> = alphas_cumprod.iter().map(|alpha| ((1.0 - alpha) / alpha).sqrt()).collect();
    let mut timesteps = schedule::timesteps(options, kind, steps, skipped)?;
    let mut sigmas: Vec<f64> = timesteps.iter().map(|&t| interpolate(&trained, t)).collect();
    if options.use_karras_sigmas {
        // Euler spans what it would have used, DPM-Solver++ the whole schedule of training.
        let (first, last) = match kind {
            SchedulerKind::Euler => (sigmas.first().copied(), sigmas.last().copied()),
            _ => (trained.last().copied().map(f64::from), trained.first().copied().map(f64::from)),
        };
        let max = options.sigma_max.or(first).unwrap_or_default();
        let min = options.sigma_min.or(last).unwrap_or_default();
        sigmas = karras(min, max, steps);
        timesteps = sigmas.iter().map(|&sigma| timestep_of(sigma, &trained)).collect();
        if kind == SchedulerKind::DpmppTwoM {
            timesteps = timesteps.into_iter().map(|t| whole(options, t)).collect();
        }
    }
    let last = match options.final_sigmas_type {
        FinalSigmas::Zero => 0.0,
        FinalSigmas::SigmaMin => trained.first().copied().unwrap_or_default(),
    };
    let sigmas: Vec<f32> = sigmas.into_iter().map(|sigma| sigma as f32).chain([last]).collect();
    if kind == SchedulerKind::Euler {
        let continuous =
            options.timestep_type == TimestepType::Continuous && options.prediction_type == PredictionType::VPrediction;
        timesteps = timesteps
            .into_iter()
            .zip(&sigmas)
            .map(|(t, sigma)| f64::from(if continuous { 0.25 * sigma.ln() } else { t as f32 }))
            .collect();
    }
    Ok(Levels { sigmas, timesteps })
}

/// `α = 1/sqrt(σ²+1)` and `σ·α`: a sample of level σ, scaled to unit variance.
pub(super) fn alpha_sigma(sigma: f32) -> (f32, f32) {
    let alpha = 1.0 / (sigma * sigma + 1.0).sqrt();
    (alpha, sigma * alpha)
}

/// Karras et al. 2022, equation 5, rho 7.
fn karras(min: f64, max: f64, steps: usize) -> Vec<f64> {
    const RHO: f64 = 7.0;
    let (min, max) = (min.powf(1.0 / RHO), max.powf(1.0 / RHO));
    schedule::linspace(0.0, 1.0, steps).into_iter().map(|ramp| (max + ramp * (min - max)).powf(RHO)).collect()
}

/// numpy's `interp` over the indices of `table`.
fn interpolate(table: &[f32], at: f64) -> f64 {
    let low = at.floor().max(0.0) as usize;
    match (table.get(low), table.get(low + 1)) {
        (Some(&left), Some(&right)) => {
            let left = f64::from(left);
            (f64::from(right) - left) * (at - low as f64) + left
        }
        _ => table.last().copied().map(f64::from).unwrap_or_default(),
    }
}

/// The timestep whose level is `sigma`, interpolated in its logarithm (`_sigma_to_t`). `trained` rises.
fn timestep_of(sigma: f64, trained: &[f32]) -> f64 {
    let log_sigma = sigma.max(1e-10).ln();
    let below = trained.partition_point(|&level| f64::from(level.ln()) <= log_sigma);
    let low = below.saturating_sub(1).min(trained.len() - 2);
    let (left, right) = (trained[low].ln(), trained[low + 1].ln());
    let weight = ((f64::from(left) - log_sigma) / f64::from(left - right)).clamp(0.0, 1.0);
    (1.0 - weight) * low as f64 + weight * (low + 1) as f64
}

/// DPM-Solver++ keeps whole timesteps: rounded, or cut for the cosine schedule.
fn whole(options: &Options, timestep: f64) -> f64 {
    match options.beta_schedule {
        BetaSchedule::SquaredcosCapV2 => timestep.trunc(),
        _ => timestep.round_ties_even(),
    }
}
