//! Which generator and which measurer the configuration asks for.

use std::path::{Path, PathBuf};
use std::time::Duration;

use diorama_core::generator::{Generated, Generator, GeneratorError, Job};
use diorama_core::measure::Measurer;
use diorama_core::outcome::{ErrorCode, TaskError};
#[cfg(feature = "engine")]
use diorama_engine::{LibtorchGenerator, LibtorchOptions};
use diorama_engine::{SyntheticGenerator, SyntheticMeasurer, SyntheticOptions};
#[cfg(feature = "engine")]
use diorama_runtime::options::{Dtype, Kernels};
use diorama_runtime::options::{EngineKind, EngineOptions};
use diorama_worker::device::Engine;

#[cfg(feature = "engine")]
use crate::measurer::Measuring;

/// A generator that was made ready.
pub(crate) enum Maker {
    #[cfg(feature = "engine")]
    Libtorch(Box<LibtorchGenerator>),
    Synthetic(SyntheticGenerator),
}

/// Loads what `options` names.
pub(crate) fn make(options: &EngineOptions) -> anyhow::Result<Maker> {
    match options.engine {
        EngineKind::Synthetic => Ok(Maker::Synthetic(SyntheticGenerator::new(SyntheticOptions {
            latency: Duration::from_millis(options.synthetic_latency),
            fail_rate: options.synthetic_fail_rate,
            batch_size: options.batch_size.unwrap_or(SyntheticOptions::default().batch_size),
            ..SyntheticOptions::default()
        }))),
        EngineKind::Libtorch => libtorch(options),
    }
}

/// What measures the pictures of that engine, with the networks in these folders.
pub(crate) fn measurer(options: &EngineOptions, networks: &[PathBuf]) -> anyhow::Result<Box<dyn Measurer>> {
    match options.engine {
        EngineKind::Synthetic => Ok(Box::new(SyntheticMeasurer)),
        #[cfg(feature = "engine")]
        EngineKind::Libtorch => Ok(Box::new(Measuring::load(networks, options.device.as_str())?)),
        #[cfg(not(feature = "engine"))]
        EngineKind::Libtorch => anyhow::bail!("this build has no engine, and measures with no network in {networks:?}"),
    }
}

/// Loads both.
pub(crate) fn engine(options: &EngineOptions, networks: &[PathBuf]) -> anyhow::Result<Engine> {
    let generator = make(options)?.into_generator();
    Ok(Engine { generator, measurer: Some(measurer(options, networks)?) })
}

#[cfg(feature = "engine")]
fn libtorch(options: &EngineOptions) -> anyhow::Result<Maker> {
    let model_dir = options.model.clone().ok_or_else(|| {
        anyhow::anyhow!(
            "no model: name its folder with --model (DIORAMA_MODEL, or model in diorama.toml); models/demo is a small one"
        )
    })?;
    let generator = LibtorchGenerator::load(&LibtorchOptions {
        model_dir,
        variant: options.variant.as_ref().map(|variant| variant.as_str().to_owned()),
        device: options.device.as_str().to_owned(),
        dtype: (options.dtype != Dtype::Auto).then(|| options.dtype.to_string()),
        batch_size: options.batch_size,
        own_kernels: options.kernels == Kernels::Auto,
    })?;
    Ok(Maker::Libtorch(Box::new(generator)))
}

#[cfg(not(feature = "engine"))]
fn libtorch(_options: &EngineOptions) -> anyhow::Result<Maker> {
    anyhow::bail!(
        "this build has no engine: it was built with --no-default-features, as a client and coordinator; use a build with \
         the feature `engine`, or --engine synthetic for a load test without a model"
    )
}

impl Maker {
    pub(crate) fn as_generator(&self) -> &dyn Generator {
        match self {
            #[cfg(feature = "engine")]
            Self::Libtorch(generator) => generator.as_ref(),
            Self::Synthetic(synthetic) => synthetic,
        }
    }

    /// Whose kernels run and why, where a model runs.
    pub(crate) fn kernels(&self) -> Option<&str> {
        match self {
            #[cfg(feature = "engine")]
            Self::Libtorch(generator) => Some(generator.kernels()),
            Self::Synthetic(_) => None,
        }
    }

    pub(crate) fn into_generator(self) -> Box<dyn Generator> {
        match self {
            #[cfg(feature = "engine")]
            Self::Libtorch(generator) => generator,
            Self::Synthetic(synthetic) => Box::new(synthetic),
        }
    }

    /// Makes one picture; with `save_tensors`, what lies between goes there. `stop` is asked before each step; when it
    /// says true, the picture is abandoned.
    pub(crate) fn one(
        &mut self,
        job: Job,
        save_tensors: Option<&Path>,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Generated, TaskError> {
        match self {
            #[cfg(feature = "engine")]
            Self::Libtorch(generator) => generator.generate_one(&job, save_tensors, stop),
            Self::Synthetic(_) if save_tensors.is_some() => Err(TaskError::permanent(
                ErrorCode::InvalidSettings,
                "the synthetic engine has no tensors to save; leave --save-tensors out or use a model",
            )),
            Self::Synthetic(synthetic) => {
                let failed = |error: GeneratorError| TaskError::transient(ErrorCode::ModelError, error.to_string());
                let nothing = || TaskError::transient(ErrorCode::ModelError, "the engine gave no picture");
                synthetic.generate(&[job], stop).map_err(failed)?.pop().unwrap_or_else(|| Err(nothing()))
            }
        }
    }
}
