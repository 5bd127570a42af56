//! Reads diffusers' `scheduler_config.json`.
//!
//! A key that is absent or null takes the default of the class that is *run*, not of the class that the file names, as
//! diffusers' `from_config` does: so `timestep_spacing` is `leading` for DDPM and DDIM, `linspace` for Euler and
//! DPM-Solver++. The exception is `clip_sample`, which is off unless the file turns it on. A value that this crate does not support is an error that names the file and the key; so is a key that
//! it does not know, unless the key cannot change a result ([`IGNORED`]).

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Keys that cannot change a result, either at all or while the switch that they belong to is off (and every such
/// switch is refused when on).
const IGNORED: [&str; 12] = [
    "_class_name",
    "_diffusers_version",
    "_name_or_path",
    "_use_default_values",
    // Pictures as numpy or torch, in files of 2022.
    "tensor_format",
    // Only PNDM's warm-up, which is not run (see `SchedulerKind`).
    "skip_prk_steps",
    // Belong to `thresholding`.
    "dynamic_thresholding_ratio",
    "sample_max_value",
    // Belong to `use_flow_sigmas` and `use_dynamic_shifting`.
    "flow_shift",
    "time_shift_type",
    "base_shift",
    "max_shift",
];

/// Switches that would change results and are not supported: accepted only when off.
const MUST_BE_OFF: [&str; 9] = [
    "invert_sigmas",
    "stochastic_sampling",
    "thresholding",
    "use_beta_sigmas",
    "use_dynamic_shifting",
    "use_exponential_sigmas",
    "use_flow_sigmas",
    "use_lu_lambdas",
    // Once named the timesteps of training; always null in files.
    "timestep_values",
];

/// Which algorithm denoises.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SchedulerKind {
    /// Ho et al. 2020: ancestral sampling, one noise a step.
    Ddpm,
    /// Song et al. 2021 with eta 0: deterministic. A `PNDMScheduler` configuration (the default of Stable Diffusion
    /// 1.x) also selects this class: PLMS needs four earlier outputs at even spacing, which an edit in the middle of
    /// the list makes stale, and DDIM runs on the same betas and timesteps.
    Ddim,
    /// Karras et al. 2022, Algorithm 2 without churn.
    Euler,
    /// Lu et al. 2022: DPM-Solver++(2M), deterministic.
    #[serde(rename = "dpmpp-2m")]
    DpmppTwoM,
}

/// What the network predicts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PredictionType {
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
pub enum TimestepSpacing {
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

/// A `scheduler_config.json`, checked.
#[derive(Clone, Debug)]
pub struct SchedulerConfig {
    kind: SchedulerKind,
    pub(super) path: PathBuf,
    pub(super) num_train_timesteps: usize,
    pub(super) beta_start: f64,
    pub(super) beta_end: f64,
    pub(super) beta_schedule: BetaSchedule,
    pub(super) trained_betas: Option<Vec<f32>>,
    pub(super) rescale_betas_zero_snr: bool,
    pub(super) prediction_type: PredictionType,
    spacing: Option<TimestepSpacing>,
    pub(super) steps_offset: usize,
    clip_sample: bool,
    pub(super) clip_sample_range: f64,
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

impl SchedulerConfig {
    /// Reads and checks a `scheduler_config.json`.
    ///
    /// # Errors
    /// [`Error::Model`] if the file cannot be read, is not JSON, or has a key or value that is not supported; the
    /// message names the key.
    pub fn load(path: &Path) -> Result<Self> {
        let problem = |problem: String| Error::Model { path: path.to_owned(), problem };
        let text = std::fs::read_to_string(path).map_err(|error| problem(format!("cannot be read: {error}")))?;
        let object = serde_json::from_str(&quote_infinities(&text))
            .map_err(|error| problem(format!("is not a JSON object: {error}")))?;
        Self::read(&mut Keys { path, object })
    }

    fn read(keys: &mut Keys) -> Result<Self> {
        let class: String = keys.required("_class_name")?;
        let kind = match class.as_str() {
            "DDPMScheduler" => SchedulerKind::Ddpm,
            "DDIMScheduler" | "PNDMScheduler" => SchedulerKind::Ddim,
            "EulerDiscreteScheduler" => SchedulerKind::Euler,
            "DPMSolverMultistepScheduler" => SchedulerKind::DpmppTwoM,
            _ => {
                return Err(keys.problem(format!(
                    "_class_name: {class:?} is not supported; supported are DDPMScheduler, DDIMScheduler, \
                     PNDMScheduler (run as DDIM), EulerDiscreteScheduler and DPMSolverMultistepScheduler"
                )));
            }
        };
        for key in MUST_BE_OFF {
            if !matches!(keys.object.remove(key), None | Some(Value::Null | Value::Bool(false))) {
                return Err(keys.problem(format!("{key}: only false is supported")));
            }
        }
        keys.optional::<AlgorithmType>("algorithm_type")?;
        keys.optional::<InterpolationType>("interpolation_type")?;
        keys.only("lambda_min_clipped", &Value::from(MINUS_INFINITY))?;
        keys.only("predict_epsilon", &Value::Bool(true))?;

        let config = Self {
            kind,
            path: keys.path.to_owned(),
            num_train_timesteps: keys.or("num_train_timesteps", 1000)?,
            beta_start: keys.or("beta_start", 0.0001)?,
            beta_end: keys.or("beta_end", 0.02)?,
            beta_schedule: keys.or_default("beta_schedule")?,
            trained_betas: keys.optional("trained_betas")?,
            rescale_betas_zero_snr: keys.or_default("rescale_betas_zero_snr")?,
            prediction_type: keys.or_default("prediction_type")?,
            spacing: keys.optional("timestep_spacing")?,
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
        if let Some(key) = keys.object.keys().find(|key| !IGNORED.contains(&key.as_str())) {
            return Err(keys.problem(format!("{key}: this key is not known, and may change results")));
        }
        config.check(keys)?;
        Ok(config)
    }

    fn check(&self, keys: &Keys) -> Result<()> {
        if !(2..=1_000_000).contains(&self.num_train_timesteps) {
            return Err(
                keys.problem(format!("num_train_timesteps: {} is not between 2 and 1000000", self.num_train_timesteps))
            );
        }
        if let Some(betas) = &self.trained_betas
            && (betas.len() != self.num_train_timesteps || betas.iter().any(|beta| !(0.0..1.0).contains(beta)))
        {
            return Err(keys.problem(format!(
                "trained_betas: must be {} numbers from 0 to below 1 (num_train_timesteps)",
                self.num_train_timesteps
            )));
        }
        for (key, beta) in [("beta_start", self.beta_start), ("beta_end", self.beta_end)] {
            if !(beta > 0.0 && beta < 1.0) {
                return Err(keys.problem(format!("{key}: {beta} is not between 0 and 1")));
            }
        }
        if !(1..=2).contains(&self.solver_order) {
            return Err(keys.problem(format!("solver_order: {} is not supported; 1 and 2 are", self.solver_order)));
        }
        Ok(())
    }

    /// The class that the file names.
    #[must_use]
    pub fn kind(&self) -> SchedulerKind {
        self.kind
    }

    /// What the network predicts.
    #[must_use]
    pub fn prediction_type(&self) -> PredictionType {
        self.prediction_type
    }

    /// With another offset of the timesteps; counts only for `leading` spacing.
    #[must_use]
    pub fn with_steps_offset(mut self, offset: usize) -> Self {
        self.steps_offset = offset;
        self
    }

    /// With another spacing of the timesteps.
    #[must_use]
    pub fn with_spacing(mut self, spacing: TimestepSpacing) -> Self {
        self.spacing = Some(spacing);
        self
    }

    pub(super) fn spacing(&self, kind: SchedulerKind) -> TimestepSpacing {
        self.spacing.unwrap_or(match kind {
            SchedulerKind::Ddpm | SchedulerKind::Ddim => TimestepSpacing::Leading,
            SchedulerKind::Euler | SchedulerKind::DpmppTwoM => TimestepSpacing::Linspace,
        })
    }

    /// To which range the predicted clean sample is clipped. Only a file that says so clips: the classes' own default is
    /// for pictures in [−1, 1], it ruins latents, and diffusers' Stable Diffusion pipelines turn it off.
    pub(super) fn clip_sample(&self) -> Option<f64> {
        self.clip_sample.then_some(self.clip_sample_range)
    }
}

/// A JSON object, emptied key by key, so that what nobody asked for is left.
struct Keys<'a> {
    path: &'a Path,
    object: Map<String, Value>,
}

impl Keys<'_> {
    fn problem(&self, problem: String) -> Error {
        Error::Model { path: self.path.to_owned(), problem }
    }

    fn optional<T: DeserializeOwned>(&mut self, key: &str) -> Result<Option<T>> {
        let value = self.object.remove(key).unwrap_or(Value::Null);
        serde_json::from_value(value).map_err(|error| self.problem(format!("{key}: {error}")))
    }

    fn required<T: DeserializeOwned>(&mut self, key: &str) -> Result<T> {
        self.optional(key)?.ok_or_else(|| self.problem(format!("{key}: is missing")))
    }

    fn or<T: DeserializeOwned>(&mut self, key: &str, default: T) -> Result<T> {
        Ok(self.optional(key)?.unwrap_or(default))
    }

    fn or_default<T: DeserializeOwned + Default>(&mut self, key: &str) -> Result<T> {
        Ok(self.optional(key)?.unwrap_or_default())
    }

    fn only(&mut self, key: &str, supported: &Value) -> Result<()> {
        match self.object.remove(key) {
            None | Some(Value::Null) => Ok(()),
            Some(value) if value == *supported => Ok(()),
            Some(value) => Err(self.problem(format!("{key}: {value} is not supported; {supported} is"))),
        }
    }
}

const MINUS_INFINITY: &str = "-Infinity";

/// diffusers writes Python's JSON, which has bare `-Infinity` (the default of `lambda_min_clipped`): quoted here.
fn quote_infinities(text: &str) -> String {
    text.replace(&format!(": {MINUS_INFINITY}"), &format!(": \"{MINUS_INFINITY}\""))
}
