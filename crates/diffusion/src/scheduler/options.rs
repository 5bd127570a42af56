//! What a scheduler's configuration means to the class that runs.
//!
//! A key that is absent or null takes the default of that class, as with diffusers' `from_config`: so
//! `timestep_spacing` is `leading` for DDPM and DDIM, `linspace` for Euler and DPM-Solver++. Keys of other classes are
//! passed over, as diffusers passes them over. A value that this crate does not support is an error that names the file
//! and the key; so is a key that no class of diffusers has.

use std::path::PathBuf;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::config::{MINUS_INFINITY, SchedulerConfig, SchedulerKind};
use super::keys::{is_key_of, is_known};
use crate::error::{Error, Result};

/// Switches that would change results and are not supported: accepted only when off.
const MUST_BE_OFF: [&str; 6] = [
    "thresholding",
    "use_beta_sigmas",
    "use_dynamic_shifting",
    "use_exponential_sigmas",
    "use_flow_sigmas",
    "use_lu_lambdas",
];

/// What the network predicts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum PredictionType {
    /// The noise.
    #[default]
    Epsilon,
    /// The velocity `sqrt(ᾱ)·ε − sqrt(1−ᾱ)·x0` (Salimans and Ho 2022).
    VPrediction,
    /// The clean sample.
    Sample,
}

/// How inference steps are laid over training steps (Lin et al. 2023, table 2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum TimestepSpacing {
    /// Multiples of a whole ratio from 0, plus `steps_offset`.
    Leading,
    /// Counted back from the last training step.
    Trailing,
    /// Evenly from the first to the last training step.
    Linspace,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum BetaSchedule {
    #[default]
    Linear,
    ScaledLinear,
    #[serde(rename = "squaredcos_cap_v2")]
    SquaredcosCapV2,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
pub(super) enum FixedVariance {
    #[default]
    #[serde(rename = "fixed_small")]
    Small,
    #[serde(rename = "fixed_small_log")]
    SmallLog,
    #[serde(rename = "fixed_large")]
    Large,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FinalSigmas {
    #[default]
    Zero,
    SigmaMin,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum TimestepType {
    #[default]
    Discrete,
    Continuous,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum SolverType {
    // diffusers, too, takes the names of other solvers for the midpoint rule.
    #[default]
    #[serde(alias = "logrho", alias = "bh1", alias = "bh2")]
    Midpoint,
    Heun,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
enum AlgorithmType {
    // diffusers, too, runs a "deis" configuration as dpmsolver++.
    #[serde(rename = "dpmsolver++", alias = "deis")]
    DpmSolverPlusPlus,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum InterpolationType {
    Linear,
}

/// What decides a run of one class.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) path: PathBuf,
    pub(super) num_train_timesteps: usize,
    pub(super) beta_start: f64,
    pub(super) beta_end: f64,
    pub(super) beta_schedule: BetaSchedule,
    pub(super) trained_betas: Option<Vec<f32>>,
    pub(super) rescale_betas_zero_snr: bool,
    pub(super) prediction_type: PredictionType,
    pub(super) spacing: TimestepSpacing,
    pub(super) steps_offset: usize,
    clip_sample: bool,
    clip_sample_range: f64,
    pub(super) variance_type: FixedVariance,
    pub(super) set_alpha_to_one: bool,
    pub(super) use_karras_sigmas: bool,
    pub(super) sigma_min: Option<f64>,
    pub(super) sigma_max: Option<f64>,
    pub(super) final_sigmas_type: FinalSigmas,
    pub(super) timestep_type: TimestepType,
    pub(super) solver_order: usize,
    pub(super) solver_type: SolverType,
    pub(super) lower_order_final: bool,
    pub(super) euler_at_final: bool,
}

impl Options {
    /// Reads what `config` says to a scheduler of this kind.
    ///
    /// # Errors
    /// [`Error::Model`] for a key that is not known or a value that is not supported.
    pub(super) fn read(config: &SchedulerConfig, kind: SchedulerKind) -> Result<Self> {
        let mut keys = Keys { config, kind, values: Map::new() };
        for (key, value) in &config.values {
            if is_key_of(kind, key) {
                keys.values.insert(key.clone(), value.clone());
            } else if !is_known(key) && !value.is_null() {
                return Err(config.problem(format!(
                    "{key}: no diffusers scheduler has this key, and it may change results; remove it"
                )));
            }
        }
        for key in MUST_BE_OFF {
            if !matches!(keys.values.remove(key), None | Some(Value::Null | Value::Bool(false))) {
                return Err(keys.problem(format!("{key}: only false is supported")));
            }
        }
        keys.optional::<AlgorithmType>("algorithm_type")?;
        keys.optional::<InterpolationType>("interpolation_type")?;
        keys.only("lambda_min_clipped", &Value::from(MINUS_INFINITY))?;
        keys.only("predict_epsilon", &Value::Bool(true))?;
        let spacing = keys.optional("timestep_spacing")?.unwrap_or(match kind {
            SchedulerKind::Ddpm | SchedulerKind::Ddim => TimestepSpacing::Leading,
            SchedulerKind::Euler | SchedulerKind::DpmppTwoM => TimestepSpacing::Linspace,
        });
        let options = Self {
            path: config.path.clone(),
            num_train_timesteps: keys.or("num_train_timesteps", 1000)?,
            beta_start: keys.or("beta_start", 0.0001)?,
            beta_end: keys.or("beta_end", 0.02)?,
            beta_schedule: keys.or_default("beta_schedule")?,
            trained_betas: keys.optional("trained_betas")?,
            rescale_betas_zero_snr: keys.or_default("rescale_betas_zero_snr")?,
            prediction_type: keys.or_default("prediction_type")?,
            spacing,
            steps_offset: keys.or_default("steps_offset")?,
            clip_sample: keys.or_default("clip_sample")?,
            clip_sample_range: keys.or("clip_sample_range", 1.0)?,
            variance_type: keys.or_default("variance_type")?,
            set_alpha_to_one: keys.or("set_alpha_to_one", true)?,
            use_karras_sigmas: keys.or_default("use_karras_sigmas")?,
            sigma_min: keys.optional("sigma_min")?,
            sigma_max: keys.optional("sigma_max")?,
            final_sigmas_type: keys.or_default("final_sigmas_type")?,
            timestep_type: keys.or_default("timestep_type")?,
            solver_order: keys.or("solver_order", 2)?,
            solver_type: keys.or_default("solver_type")?,
            lower_order_final: keys.or("lower_order_final", true)?,
            euler_at_final: keys.or_default("euler_at_final")?,
        };
        options.check(config)?;
        Ok(options)
    }

    fn check(&self, config: &SchedulerConfig) -> Result<()> {
        if !(2..=1_000_000).contains(&self.num_train_timesteps) {
            return Err(config
                .problem(format!("num_train_timesteps: {} is not between 2 and 1000000", self.num_train_timesteps)));
        }
        if let Some(betas) = &self.trained_betas
            && (betas.len() != self.num_train_timesteps || betas.iter().any(|beta| !(0.0..1.0).contains(beta)))
        {
            return Err(config.problem(format!(
                "trained_betas: must be {} numbers from 0 to below 1 (num_train_timesteps)",
                self.num_train_timesteps
            )));
        }
        for (key, beta) in [("beta_start", self.beta_start), ("beta_end", self.beta_end)] {
            if !(beta > 0.0 && beta < 1.0) {
                return Err(config.problem(format!("{key}: {beta} is not between 0 and 1")));
            }
        }
        if !(1..=2).contains(&self.solver_order) {
            return Err(config.problem(format!("solver_order: {} is not supported; 1 and 2 are", self.solver_order)));
        }
        Ok(())
    }

    /// To which range the predicted clean sample is clipped. Only a file that says so clips: the classes' own default is
    /// for pictures in [−1, 1], and ruins latents.
    pub(super) fn clip_sample(&self) -> Option<f64> {
        self.clip_sample.then_some(self.clip_sample_range)
    }
}

/// The keys that the running class has, taken one by one.
struct Keys<'a> {
    config: &'a SchedulerConfig,
    kind: SchedulerKind,
    values: Map<String, Value>,
}

impl Keys<'_> {
    fn problem(&self, problem: String) -> Error {
        self.config.problem(format!("{problem} by {}; name another with --scheduler", self.kind))
    }

    fn optional<T: DeserializeOwned>(&mut self, key: &str) -> Result<Option<T>> {
        let value = self.values.remove(key).unwrap_or(Value::Null);
        serde_json::from_value(value.clone())
            .map_err(|error| self.problem(format!("{key}: {value} is not supported ({error})")))
    }

    fn or<T: DeserializeOwned>(&mut self, key: &str, default: T) -> Result<T> {
        Ok(self.optional(key)?.unwrap_or(default))
    }

    fn or_default<T: DeserializeOwned + Default>(&mut self, key: &str) -> Result<T> {
        Ok(self.optional(key)?.unwrap_or_default())
    }

    fn only(&mut self, key: &str, supported: &Value) -> Result<()> {
        match self.values.remove(key) {
            None | Some(Value::Null) => Ok(()),
            Some(value) if value == *supported => Ok(()),
            Some(value) => Err(self.problem(format!("{key}: {value} is not supported ({supported} is)"))),
        }
    }
}
