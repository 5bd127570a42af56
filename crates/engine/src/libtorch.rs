//! The model as a [`Generator`]: translates between the fleet's words and the model's.

use std::path::{Path, PathBuf};

use diorama_core::generator::{BatchKey, Generated, Generator, GeneratorError, Heatmap, Job, ReferencePicture};
use diorama_core::outcome::{ErrorCode, TaskError};
use diorama_core::picture::{Gray8, Rgb8};
use diorama_core::record::{EditRecord, GeneratorInfo, Record, ReferenceRecord, SubjectRecord};
use diorama_core::settings as core;
use diorama_core::task::Task;
use diorama_diffusion::device::{Device, Dtype};
use diorama_diffusion::image_processor::{Gray, Rgb};
use diorama_diffusion::method::{Score, Settings};
use diorama_diffusion::pipeline::{LoadOptions, Request, Sample, StableDiffusion};
use diorama_diffusion::{Error, LIBTORCH_VERSION, memory, reproducible_arithmetic};

use crate::resolve::resolve;

/// Settles what holds for a whole process that uses libtorch. Belongs at its start.
pub fn prepare_process() {
    memory::keep_freed_memory();
    reproducible_arithmetic();
}

/// What to load.
pub struct LibtorchOptions {
    /// The model's folder, in diffusers layout.
    pub model_dir: PathBuf,
    /// The weight files' variant, such as `fp16`; unset: the plain files, else the only variant that there is.
    pub variant: Option<String>,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    pub device: String,
    /// `f32`, `bf16` or `f16`; unset: what suits the device.
    pub dtype: Option<String>,
    /// Tasks in a padded batch.
    pub batch_size: usize,
}

/// A loaded model.
pub struct LibtorchGenerator {
    model: StableDiffusion,
    info: GeneratorInfo,
}

impl LibtorchGenerator {
    /// Loads a model. An error says what is wrong with its folder or its device.
    pub fn load(options: &LibtorchOptions) -> Result<Self, Error> {
        let device: Device = options.device.parse()?;
        let dtype = match &options.dtype {
            Some(dtype) => dtype.parse()?,
            None => device.best_dtype(),
        };
        let dtype: Dtype = dtype;
        let load = LoadOptions {
            variant: options.variant.clone(),
            device,
            dtype,
            batch_size: options.batch_size,
            apart: None,
        };
        let model = StableDiffusion::load(&options.model_dir, &load)?;
        let named = options.model_dir.canonicalize().unwrap_or_else(|_| options.model_dir.clone());
        let info = GeneratorInfo {
            engine: format!("diorama {}", env!("CARGO_PKG_VERSION")),
            library: format!("libtorch {LIBTORCH_VERSION}"),
            model: named.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
            model_sha256: model.digest().iter().map(|byte| format!("{byte:02x}")).collect(),
            device: device.to_string(),
            dtype: dtype.as_str().to_owned(),
            batch_size: options.batch_size,
        };
        Ok(Self { model, info })
    }

    /// Makes one picture; with `save_tensors`, everything between reference and picture goes there.
    pub fn generate_one(
        &mut self,
        job: &Job,
        save_tensors: Option<&Path>,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Generated, TaskError> {
        let request = self.request(job)?;
        let sample = self
            .model
            .generate(std::slice::from_ref(&request), stop)
            .map_err(|error| task_error(&error))?
            .pop()
            .unwrap_or_else(|| Err(Error::Torch("the model gave no picture".to_owned())))
            .map_err(|error| task_error(&error))?;
        if let Some(path) = save_tensors {
            sample.save_tensors(path).map_err(|error| {
                TaskError::transient(ErrorCode::OutputUnwritable, format!("writing {}: {error}", path.display()))
            })?;
        }
        self.explained(job, &request.settings, &sample)
    }

    fn request(&self, job: &Job) -> Result<Request, TaskError> {
        Ok(Request {
            prompt: job.task.prompt.clone(),
            subjects: job.task.subjects.clone(),
            seed: job.task.seed.get(),
            reference: job.reference.as_ref().map(|reference| Rgb {
                width: reference.picture.width,
                height: reference.picture.height,
                data: reference.picture.data.clone(),
            }),
            settings: resolve(&self.model, &job.task.settings),
        })
    }

    fn explained(&self, job: &Job, settings: &Settings, sample: &Sample) -> Result<Generated, TaskError> {
        let failed = |error: Error| task_error(&error);
        let heatmaps = sample.heat_maps().map_err(failed)?;
        Ok(Generated {
            image: rgb8(sample.image.clone()),
            mask: sample.mask().cloned().map(gray8),
            overlay: sample.overlay().map_err(failed)?.map(rgb8),
            heatmaps: heatmaps
                .into_iter()
                .map(|(subject, picture)| Heatmap { subject, picture: rgb8(picture) })
                .collect(),
            record: self.record(job, settings, sample)?,
        })
    }

    fn record(&self, job: &Job, settings: &Settings, sample: &Sample) -> Result<Record, TaskError> {
        let task = &job.task;
        let mut resolved = serde_json::to_value(settings)
            .map_err(|error| TaskError::permanent(ErrorCode::ModelError, format!("writing the record: {error}")))?;
        if let Some(object) = resolved.as_object_mut() {
            object
                .insert("method".to_owned(), task.settings.method.unwrap_or(core::Method::AbsGradSam).as_str().into());
        }
        let source = task.reference.as_ref().map(ToString::to_string).unwrap_or_default();
        let reference = |reference: &ReferencePicture| ReferenceRecord {
            source: source.clone(),
            sha256: reference.sha256.clone(),
            width: reference.picture.width,
            height: reference.picture.height,
        };
        Ok(Record {
            version: 1,
            custom_id: task.custom_id.clone(),
            prompt: task.prompt.clone(),
            prompt_truncated_to: sample.prompt.truncated_to.clone(),
            subjects: sample
                .prompt
                .subjects
                .iter()
                .map(|subject| SubjectRecord { text: subject.text.clone(), positions: subject.positions.clone() })
                .collect(),
            seed: task.seed,
            reference: job.reference.as_deref().map(reference),
            region: None,
            settings: resolved,
            generator: self.info.clone(),
            edits: sample
                .edits
                .iter()
                .map(|edit| EditRecord {
                    step: edit.step as u32,
                    timestep: edit.timestep,
                    layers: if settings.score == Score::GuidanceDifference {
                        Vec::new()
                    } else {
                        settings.layers.clone()
                    },
                    coverage: edit.coverage,
                    subject_coverage: edit.subject_coverage.clone(),
                    estimator: edit.estimator.describe(),
                })
                .collect(),
            mask_coverage: sample.mask().map(covered),
            warnings: sample.warnings.clone(),
            task: task.clone(),
        })
    }
}

impl Generator for LibtorchGenerator {
    fn info(&self) -> &GeneratorInfo {
        &self.info
    }

    fn check(&self, task: &Task) -> Result<BatchKey, TaskError> {
        let settings = resolve(&self.model, &task.settings);
        self.model.check(&task.prompt, task.subjects.as_deref(), &settings).map_err(|error| task_error(&error))?;
        Ok(BatchKey(settings.batch_key()))
    }

    fn generate(
        &mut self,
        batch: &[Job],
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Vec<Result<Generated, TaskError>>, GeneratorError> {
        let requests = batch.iter().map(|job| self.request(job)).collect::<Result<Vec<_>, _>>();
        let requests = requests.map_err(|error| GeneratorError::Failed(error.to_string()))?;
        let samples = self.model.generate(&requests, stop).map_err(|error| match error {
            Error::OutOfMemory(message) => {
                // Fewer tasks alone would not help: a batch is padded to its size. Records say which size it was.
                let batch = self.info.batch_size;
                self.info.batch_size = (batch / 2).max(1);
                self.model.set_batch_size(self.info.batch_size);
                GeneratorError::OutOfMemory { batch, message }
            }
            Error::Stopped => GeneratorError::Stopped,
            Error::Torch(message) if message.contains("CUDA error") => GeneratorError::DeviceLost(message),
            other => GeneratorError::Failed(other.to_string()),
        })?;
        Ok(batch
            .iter()
            .zip(&requests)
            .zip(samples)
            .map(|((job, request), sample)| match sample {
                Ok(sample) => self.explained(job, &request.settings, &sample),
                Err(error) => Err(task_error(&error)),
            })
            .collect())
    }
}

/// What the fleet makes of a model's error.
fn task_error(error: &Error) -> TaskError {
    let message = error.to_string();
    match error {
        Error::Setting { .. } => TaskError::permanent(ErrorCode::InvalidSettings, message),
        Error::NoSubject { .. } => TaskError::permanent(ErrorCode::NoSubject, message),
        Error::SubjectNotInPrompt { .. } => TaskError::permanent(ErrorCode::SubjectNotInPrompt, message),
        // The same noise gives the same latents: another try ends the same way.
        Error::NonFinite { .. } => TaskError::permanent(ErrorCode::NonFiniteLatents, message),
        Error::Picture(_) => TaskError::permanent(ErrorCode::ReferenceUndecodable, message),
        Error::Model { .. } => TaskError::permanent(ErrorCode::ModelError, message),
        Error::OutOfMemory(_) => TaskError::transient(ErrorCode::OutOfMemory, message),
        _ => TaskError::transient(ErrorCode::ModelError, message),
    }
}

/// The share of a mask's pixels that are set.
fn covered(mask: &Gray) -> f64 {
    mask.data.iter().filter(|value| **value != 0).count() as f64 / mask.data.len().max(1) as f64
}

fn rgb8(picture: Rgb) -> Rgb8 {
    Rgb8 { width: picture.width, height: picture.height, data: picture.data }
}

fn gray8(picture: Gray) -> Gray8 {
    Gray8 { width: picture.width, height: picture.height, data: picture.data }
}
