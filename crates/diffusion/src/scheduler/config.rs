//! Reads diffusers' `scheduler_config.json` as it stands. What of it counts depends on the class that runs, which a task
//! may choose: that is for [`Options`](super::options) to say.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::keys;
use crate::error::{Error, Result};

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

impl std::fmt::Display for SchedulerKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ddpm => "ddpm",
            Self::Ddim => "ddim",
            Self::Euler => "euler",
            Self::DpmppTwoM => "dpmpp-2m",
        })
    }
}

impl SchedulerKind {
    /// What runs where a file names this class of diffusers; `None` where nothing of ours does what it does.
    fn of_class(class: &str) -> Option<Self> {
        match class {
            "DDPMScheduler" => Some(Self::Ddpm),
            "DDIMScheduler" | "PNDMScheduler" => Some(Self::Ddim),
            "EulerDiscreteScheduler" => Some(Self::Euler),
            "DPMSolverMultistepScheduler" => Some(Self::DpmppTwoM),
            _ => None,
        }
    }
}

/// How much of a `scheduler_config.json` is believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConfigReading {
    /// As the Stable Diffusion pipelines of diffusers read it: their constructors set `steps_offset` to 1 and
    /// `clip_sample` to false, whatever the file says.
    #[default]
    Pipeline,
    /// As it stands.
    AsIs,
}

/// A `scheduler_config.json`.
#[derive(Clone, Debug)]
pub struct SchedulerConfig {
    pub(super) path: PathBuf,
    /// The class that `model_index.json` names.
    of_index: Option<String>,
    pub(super) values: Map<String, Value>,
}

impl SchedulerConfig {
    /// Reads a `scheduler_config.json`.
    ///
    /// # Errors
    /// [`Error::Model`] if the file cannot be read or is not a JSON object.
    pub fn load(path: &Path) -> Result<Self> {
        let problem = |problem: String| Error::Model { path: path.to_owned(), problem };
        let text = std::fs::read_to_string(path).map_err(|error| problem(format!("cannot be read: {error}")))?;
        let values = serde_json::from_str(&quote_infinities(&text))
            .map_err(|error| problem(format!("is not a JSON object: {error}")))?;
        Ok(Self { path: path.to_owned(), of_index: None, values })
    }

    /// With the class that `model_index.json` names, which must not contradict the file's own.
    #[must_use]
    pub fn named_by_index(mut self, class: String) -> Self {
        self.of_index = Some(class);
        self
    }

    pub(super) fn problem(&self, problem: String) -> Error {
        Error::Model { path: self.path.clone(), problem }
    }

    fn class(&self) -> Option<&str> {
        self.values.get("_class_name").and_then(Value::as_str).or(self.of_index.as_deref())
    }

    /// What runs where nobody chooses.
    ///
    /// # Errors
    /// [`Error::Model`] if the file names no class, one that we do not have, or another than `model_index.json`.
    pub fn kind(&self) -> Result<SchedulerKind> {
        let choose = "name one with --scheduler: ddpm, ddim, euler or dpmpp-2m";
        let Some(class) = self.class() else {
            return Err(self.problem(format!("_class_name: is missing; {choose}")));
        };
        let Some(kind) = SchedulerKind::of_class(class) else {
            return Err(self.problem(format!("_class_name: {class:?} is not a scheduler that Diorama has; {choose}")));
        };
        match &self.of_index {
            Some(other) if SchedulerKind::of_class(other) != Some(kind) => Err(self.problem(format!(
                "_class_name: is {class:?}, but model_index.json names {other:?}; one of them belongs to another \
                 model: {choose}"
            ))),
            _ => Ok(kind),
        }
    }

    /// Refuses a file whose noise is not the discrete betas that all of our schedulers run on, such as that of a model
    /// that predicts a flow: no choice of a scheduler would mend that.
    ///
    /// # Errors
    /// [`Error::Model`].
    pub fn check_noise(&self) -> Result<()> {
        for class in self.class().into_iter().chain(self.of_index.as_deref()) {
            if !keys::BETA_CLASSES.contains(&class) {
                return Err(self.problem(format!(
                    "_class_name: {class:?} is not known to run on the noise schedule of Stable Diffusion 1.x and 2.x; \
                     no other scheduler can stand in for it"
                )));
            }
        }
        Ok(())
    }

    /// As it is read so.
    #[must_use]
    pub fn read_as(self, reading: ConfigReading) -> Self {
        match reading {
            ConfigReading::AsIs => self,
            ConfigReading::Pipeline => self.with_steps_offset(1).with("clip_sample", Value::Bool(false)),
        }
    }

    /// With another offset of the timesteps; counts only for `leading` spacing.
    #[must_use]
    pub fn with_steps_offset(self, offset: usize) -> Self {
        self.with("steps_offset", offset.into())
    }

    /// With `leading` spacing of the timesteps.
    #[must_use]
    pub fn with_leading_spacing(self) -> Self {
        self.with("timestep_spacing", "leading".into())
    }

    fn with(mut self, key: &str, value: Value) -> Self {
        self.values.insert(key.to_owned(), value);
        self
    }
}

pub(super) const MINUS_INFINITY: &str = "-Infinity";

/// diffusers writes Python's JSON, which has bare `-Infinity` (the default of `lambda_min_clipped`): quoted here.
fn quote_infinities(text: &str) -> String {
    text.replace(&format!(": {MINUS_INFINITY}"), &format!(": \"{MINUS_INFINITY}\""))
}
