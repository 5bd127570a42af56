//! Schedulers: DDPM, DDIM, Euler and DPM-Solver++(2M), with the results of diffusers 0.42 for the same configuration.
//!
//! A [`Scheduler`] is one denoising run of one batch. It counts in indices of its (possibly truncated) list of
//! timesteps: `step(…, i, …)` takes the sample from the level of timestep i to that of i+1. It draws no noise: whoever
//! calls gives it, so that a task's noise never depends on its batch mates. Tensors are `[n, c, h, w]` of any kind;
//! half precision is widened to float32 inside a step, and the result has the kind of the sample. Nothing here is
//! differentiated: results are cut off from the graph.

mod alpha_steps;
mod config;
mod keys;
mod options;
mod schedule;
mod sigma_steps;
mod sigmas;
#[cfg(test)]
mod tests;

use tch::{Kind, Tensor};

use alpha_steps::AlphaStep;
pub use config::{ConfigReading, SchedulerConfig, SchedulerKind};
use options::{Options, PredictionType, TimestepSpacing};
use sigma_steps::Before;

use crate::error::{Error, Result};

/// One denoising run of one batch.
pub struct Scheduler {
    options: Options,
    timesteps: Vec<f64>,
    /// Index of the first timestep that is used: 0 until truncated.
    first: usize,
    /// Steps that were asked for.
    steps: usize,
    algorithm: Algorithm,
}

enum Algorithm {
    Ddpm(Vec<AlphaStep>),
    Ddim(Vec<AlphaStep>),
    Euler { sigmas: Vec<f32> },
    DpmppTwoM { sigmas: Vec<f32>, before: Option<Before> },
}

impl Scheduler {
    /// Lays `steps` inference steps over the schedule of training, all of which are run.
    ///
    /// # Errors
    /// As [`truncated`](Self::truncated).
    pub fn new(config: &SchedulerConfig, kind: SchedulerKind, steps: usize) -> Result<Self> {
        Self::truncated(config, kind, steps, 1.0)
    }

    /// Lays `steps` inference steps over the schedule of training and leaves out the noisiest, as
    /// `StableDiffusionImg2ImgPipeline.get_timesteps` does: `strength` 1 keeps all, 0 none.
    ///
    /// # Errors
    /// [`Error::Setting`] if `steps` is 0 or more than the schedule has room for; [`Error::Model`] if the configuration
    /// has something that is not supported, or no level to start from.
    pub fn truncated(config: &SchedulerConfig, kind: SchedulerKind, steps: usize, strength: f64) -> Result<Self> {
        let options = Options::read(config, kind)?;
        let first = skipped(steps, strength);
        let alphas_cumprod = schedule::alphas_cumprod(&options, kind)?;
        let (timesteps, algorithm) = match kind {
            SchedulerKind::Ddpm => {
                let timesteps = schedule::timesteps(&options, kind, steps, first)?;
                let table = alpha_steps::ddpm_steps(&alphas_cumprod, &timesteps);
                (timesteps, Algorithm::Ddpm(table))
            }
            SchedulerKind::Ddim => {
                let timesteps = schedule::timesteps(&options, kind, steps, first)?;
                let table = alpha_steps::ddim_steps(&options, &alphas_cumprod, &timesteps);
                (timesteps, Algorithm::Ddim(table))
            }
            SchedulerKind::Euler => {
                let levels = sigmas::levels(&options, kind, &alphas_cumprod, steps, first)?;
                (levels.timesteps, Algorithm::Euler { sigmas: levels.sigmas })
            }
            SchedulerKind::DpmppTwoM => {
                let levels = sigmas::levels(&options, kind, &alphas_cumprod, steps, first)?;
                (levels.timesteps, Algorithm::DpmppTwoM { sigmas: levels.sigmas, before: None })
            }
        };
        let scheduler = Self { options, timesteps, first, steps, algorithm };
        scheduler.check_levels()?;
        Ok(scheduler)
    }

    /// A level that is not finite, or a sample that cannot be told from its noise, would end in NaN pictures.
    fn check_levels(&self) -> Result<()> {
        let usable = match &self.algorithm {
            Algorithm::Ddpm(table) | Algorithm::Ddim(table) => {
                table.iter().all(|step| step.from > 0.0 || self.options.prediction_type != PredictionType::Epsilon)
            }
            Algorithm::Euler { sigmas } => falls(sigmas, |level, next| level > 0.0 && level >= next),
            // Two equal levels would divide by zero.
            Algorithm::DpmppTwoM { sigmas, .. } => falls(sigmas, |level, next| level > next),
        };
        if usable {
            return Ok(());
        }
        Err(Error::Model {
            path: self.options.path.clone(),
            problem: format!(
                "has no usable noise level for each of {} steps (beta_schedule, rescale_betas_zero_snr, sigma_min, \
                 sigma_max and prediction_type together); try fewer steps",
                self.steps
            ),
        })
    }

    /// The timesteps that are run, falling: of the schedule that diffusers' `set_timesteps` gives, what strength leaves.
    #[must_use]
    pub fn timesteps(&self) -> &[f64] {
        &self.timesteps[self.first..]
    }

    /// The factor of unit noise that starts a run from noise alone.
    #[must_use]
    pub fn init_noise_sigma(&self) -> f64 {
        match &self.algorithm {
            Algorithm::Euler { sigmas } => {
                let max = sigmas.iter().copied().fold(0.0, f32::max);
                f64::from(match self.options.spacing {
                    TimestepSpacing::Leading => (max * max + 1.0).sqrt(),
                    TimestepSpacing::Linspace | TimestepSpacing::Trailing => max,
                })
            }
            Algorithm::Ddpm(_) | Algorithm::Ddim(_) | Algorithm::DpmppTwoM { .. } => 1.0,
        }
    }

    /// What the network is given for a sample at timestep i.
    ///
    /// # Errors
    /// [`Error::Setting`] if there is no timestep i; [`Error::Torch`].
    pub fn scale_model_input(&self, sample: &Tensor, i: usize) -> Result<Tensor> {
        let at = self.whole_index(i)?;
        match &self.algorithm {
            Algorithm::Euler { sigmas } => {
                let scale = (sigmas[at] * sigmas[at] + 1.0).sqrt();
                alpha_steps::divided(&wide(sample)?, scale)?.as_kind_of(sample)
            }
            Algorithm::Ddpm(_) | Algorithm::Ddim(_) | Algorithm::DpmppTwoM { .. } => Ok(sample.f_detach()?),
        }
    }

    /// A clean sample, noised to the level of timestep i. Euler's samples keep the scale of the clean one
    /// (`original + σ·noise`), those of the others have unit variance.
    ///
    /// # Errors
    /// [`Error::Setting`] if there is no timestep i; [`Error::Torch`].
    pub fn add_noise(&self, original: &Tensor, noise: &Tensor, i: usize) -> Result<Tensor> {
        let at = self.whole_index(i)?;
        let (clean, noise) = (wide(original)?, wide(noise)?);
        let noised = match &self.algorithm {
            Algorithm::Ddpm(table) | Algorithm::Ddim(table) => alpha_steps::add_noise(table[at].from, &clean, &noise)?,
            Algorithm::Euler { sigmas } => clean.f_add(&alpha_steps::scaled(&noise, sigmas[at])?)?,
            Algorithm::DpmppTwoM { sigmas, .. } => {
                let (alpha, sigma) = sigmas::alpha_sigma(sigmas[at]);
                alpha_steps::scaled(&clean, alpha)?.f_add(&alpha_steps::scaled(&noise, sigma)?)?
            }
        };
        noised.as_kind_of(original)
    }

    /// Whether step i takes a noise of its own.
    #[must_use]
    pub fn needs_noise(&self, i: usize) -> bool {
        matches!(self.algorithm, Algorithm::Ddpm(_)) && self.timesteps().get(i).is_some_and(|&t| t > 0.0)
    }

    /// Takes the sample from the level of timestep i to that of timestep i+1, or to the end after the last.
    /// `variance_noise` is used where [`needs_noise`](Self::needs_noise) says so.
    ///
    /// # Errors
    /// [`Error::Setting`] if there is no timestep i, or its noise is not given; [`Error::Torch`].
    pub fn step(
        &mut self,
        model_output: &Tensor,
        i: usize,
        sample: &Tensor,
        variance_noise: Option<&Tensor>,
    ) -> Result<Tensor> {
        let at = self.whole_index(i)?;
        let needs_noise = self.needs_noise(i);
        let (output, wide_sample) = (wide(model_output)?, wide(sample)?);
        let options = &self.options;
        let next = match &mut self.algorithm {
            Algorithm::Ddpm(table) => {
                let noise = if needs_noise {
                    let noise = variance_noise.ok_or_else(|| misuse(format!("step {i} needs a variance noise")))?;
                    Some(wide(noise)?)
                } else {
                    None
                };
                alpha_steps::ddpm_step(options, table[at], &output, &wide_sample, noise.as_ref())?
            }
            Algorithm::Ddim(table) => alpha_steps::ddim_step(options, table[at], &output, &wide_sample)?,
            Algorithm::Euler { sigmas } => {
                sigma_steps::euler_step(options, sigmas[at], sigmas[at + 1], &output, &wide_sample)?
            }
            Algorithm::DpmppTwoM { sigmas, before } => {
                let (next, this) =
                    sigma_steps::dpmpp_step(options, sigmas, at, &output, &wide_sample, before.as_ref())?;
                *before = Some(this);
                next
            }
        };
        next.as_kind_of(sample)
    }

    fn whole_index(&self, i: usize) -> Result<usize> {
        let count = self.timesteps().len();
        if i < count { Ok(self.first + i) } else { Err(misuse(format!("there is no step {i}, only {count} steps"))) }
    }
}

/// How many of `steps` are left out.
fn skipped(steps: usize, strength: f64) -> usize {
    // A cast to usize cuts as Python's int() does, and takes what is negative or NaN for 0.
    let kept = ((steps as f64 * strength) as usize).min(steps);
    steps - kept
}

fn falls(sigmas: &[f32], to: impl Fn(f32, f32) -> bool) -> bool {
    sigmas.iter().all(|sigma| sigma.is_finite()) && sigmas.windows(2).all(|pair| to(pair[0], pair[1]))
}

fn misuse(message: String) -> Error {
    Error::Setting { param: "steps", message }
}

/// In at least float32, and cut off from any graph: DPM-Solver++ would keep the graph of an edit step alive.
fn wide(tensor: &Tensor) -> Result<Tensor> {
    let tensor = tensor.f_detach()?;
    Ok(match tensor.f_kind()? {
        Kind::Half | Kind::BFloat16 => tensor.f_to_kind(Kind::Float)?,
        _ => tensor,
    })
}

trait AsKindOf {
    fn as_kind_of(&self, other: &Tensor) -> Result<Tensor>;
}

impl AsKindOf for Tensor {
    fn as_kind_of(&self, other: &Tensor) -> Result<Tensor> {
        Ok(self.f_to_kind(other.f_kind()?)?)
    }
}
