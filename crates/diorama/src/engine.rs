//! The model as a [`Generator`]: decides every setting that a task leaves open, and translates between the fleet's
//! words and the model's.

use std::path::{Path, PathBuf};

use diorama_core::generator::{
    BatchKey, Generated, Generator, GeneratorError, GeneratorInfo, Heatmap, Job, ReferencePicture,
};
use diorama_core::outcome::{ErrorCode, TaskError};
use diorama_core::picture::{Gray8, Rgb8};
use diorama_core::record::{EditRecord, Record, ReferenceRecord, SubjectRecord};
use diorama_core::settings::{self as core, Layers, Preset};
use diorama_core::task::Task;
use diorama_diffusion::device::{Device, Dtype};
use diorama_diffusion::image_processor::{Gray, Rgb};
use diorama_diffusion::method::settings::PAPER_EDIT_FRACTIONS;
use diorama_diffusion::method::{Edits, Method, Score, Settings, Start};
use diorama_diffusion::pipeline::{LoadOptions, Request, Sample, StableDiffusion};
use diorama_diffusion::scheduler::SchedulerKind;
use diorama_diffusion::{Error, LIBTORCH_VERSION};

/// The method's own defaults, where neither user nor preset nor the model's measured settings say otherwise.
mod default {
    pub(super) const STEPS: u32 = 50;
    pub(super) const STRENGTH: f64 = 0.9;
    /// The strength of `img2img-reduced`, as in the paper.
    pub(super) const REDUCED_STRENGTH: f64 = 0.6;
    pub(super) const GUIDANCE: f64 = 8.0;
    pub(super) const THRESHOLD: f64 = 0.5;
    pub(super) const DILATION: u32 = 1;
    pub(super) const BLUR: f64 = 6.0;
    pub(super) const PROBES: u32 = 64;
}

/// What to load.
pub(crate) struct EngineOptions {
    /// The model's folder, in diffusers layout.
    pub(crate) model_dir: PathBuf,
    /// The weight files' variant, such as `fp16`; unset: the plain files, else the only variant that there is.
    pub(crate) variant: Option<String>,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    pub(crate) device: String,
    /// `f32`, `bf16` or `f16`; unset: what suits the device.
    pub(crate) dtype: Option<String>,
    /// Tasks in a padded batch.
    pub(crate) batch_size: usize,
}

/// A loaded model.
pub(crate) struct Engine {
    model: StableDiffusion,
    info: GeneratorInfo,
}

impl Engine {
    pub(crate) fn load(options: &EngineOptions) -> Result<Self, Error> {
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
    pub(crate) fn generate_one(
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

    /// Every setting decided: what the task says, else the preset, else what was measured for the model, else the
    /// model's configuration and the method's defaults.
    fn resolve(&self, wanted: &core::Settings) -> Settings {
        let paper = wanted.preset == Some(Preset::Paper);
        let measured = self.model.measured();
        let method = wanted.method.unwrap_or(core::Method::AbsGradSam);
        let config = self.model.scheduler_config();
        // `wanted`, then the paper's value, then the measured one, then the default.
        fn pick<T>(wanted: Option<T>, paper: Option<T>, measured: Option<T>, default: T) -> T {
            wanted.or(paper).or(measured).unwrap_or(default)
        }
        let paper_is = |value: f64| paper.then_some(value);
        let last = || self.model.cross_attention_layers().last().cloned().into_iter().collect::<Vec<_>>();
        let native = self.model.native_size();
        Settings {
            method: match method {
                core::Method::AbsGradSam => Method::AbsGradSam,
                core::Method::Img2img | core::Method::Img2imgReduced => Method::Img2img,
                core::Method::Txt2img => Method::Txt2img,
            },
            scheduler: pick(
                wanted.scheduler.map(scheduler_kind),
                paper.then_some(SchedulerKind::Ddpm),
                measured.scheduler,
                config.kind(),
            ),
            published_timesteps: paper,
            steps: pick(wanted.steps, paper.then_some(50), measured.steps, default::STEPS) as usize,
            strength: if method == core::Method::Img2imgReduced {
                default::REDUCED_STRENGTH
            } else {
                pick(wanted.strength, paper_is(0.9), measured.strength, default::STRENGTH)
            },
            guidance: pick(wanted.guidance, paper_is(8.0), measured.guidance, default::GUIDANCE),
            negative_prompt: wanted.negative_prompt.clone().unwrap_or_default(),
            edits: match &wanted.edit_steps {
                Some(steps) => Edits::Steps(steps.iter().map(|step| *step as usize).collect()),
                None if paper => Edits::Fractions(PAPER_EDIT_FRACTIONS.to_vec()),
                None => {
                    Edits::Fractions(measured.edit_fractions.clone().unwrap_or_else(|| PAPER_EDIT_FRACTIONS.to_vec()))
                }
            },
            threshold: pick(wanted.threshold, paper_is(0.5), measured.threshold, default::THRESHOLD),
            dilation: pick(wanted.dilation, paper.then_some(1), measured.dilation, default::DILATION),
            blur: pick(wanted.blur, paper_is(0.0), measured.blur, default::BLUR),
            layers: match &wanted.layers {
                Some(Layers::Paths(paths)) => paths.clone(),
                Some(Layers::Last) => last(),
                None if paper => last(),
                Some(Layers::Auto) | None => measured.layers.clone().unwrap_or_else(last),
            },
            score: match wanted.score {
                Some(core::Score::AbsGrad) => Score::AbsGrad,
                Some(core::Score::ReluGrad) => Score::ReluGrad,
                Some(core::Score::Attention) => Score::Attention,
                Some(core::Score::GuidanceDifference) => Score::GuidanceDifference,
                None if paper => Score::ReluGrad,
                None => Score::AbsGrad,
            },
            probes: wanted.probes.unwrap_or(default::PROBES),
            start: match wanted.start {
                // The baselines start from the reference, as image-to-image does.
                _ if method != core::Method::AbsGradSam => Start::Reference,
                Some(core::Start::Reference) => Start::Reference,
                Some(core::Start::Noise) => Start::Noise,
                None if paper => Start::Noise,
                None => Start::Reference,
            },
            width: wanted.size.map_or(native, |size| size.width),
            height: wanted.size.map_or(native, |size| size.height),
            paste_back: wanted.paste_back.map(|feather| feather.round() as u32),
        }
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
            settings: self.resolve(&job.task.settings),
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

impl Generator for Engine {
    fn info(&self) -> &GeneratorInfo {
        &self.info
    }

    fn check(&self, task: &Task) -> Result<BatchKey, TaskError> {
        let settings = self.resolve(&task.settings);
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

fn scheduler_kind(scheduler: core::Scheduler) -> SchedulerKind {
    match scheduler {
        core::Scheduler::Ddpm => SchedulerKind::Ddpm,
        core::Scheduler::Ddim => SchedulerKind::Ddim,
        core::Scheduler::Euler => SchedulerKind::Euler,
        core::Scheduler::DpmppTwoM => SchedulerKind::DpmppTwoM,
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn engine(model: &str) -> Engine {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let options = EngineOptions {
            model_dir: root.join(model),
            variant: None,
            device: "cpu".to_owned(),
            dtype: None,
            batch_size: 1,
        };
        Engine::load(&options).unwrap()
    }

    const TINY: &str = "../diffusion/tests/golden/sd1/model";

    #[test]
    fn the_paper_preset_is_what_its_author_published_whatever_was_measured() {
        for model in [TINY, "../../models/demo"] {
            let engine = engine(model);
            let wanted = core::Settings { preset: Some(Preset::Paper), ..core::Settings::default() };
            let paper = engine.resolve(&wanted);
            assert_eq!((paper.scheduler, paper.published_timesteps, paper.steps), (SchedulerKind::Ddpm, true, 50));
            assert_eq!((paper.strength, paper.guidance, paper.threshold), (0.9, 8.0, 0.5));
            assert_eq!((paper.score, paper.start, paper.blur), (Score::ReluGrad, Start::Noise, 0.0));
            assert_eq!(paper.edits.indices(45).unwrap(), [5, 18, 28]);
            assert_eq!(paper.layers.first(), engine.model.cross_attention_layers().last());
            // What the user says goes before the preset.
            let changed = engine.resolve(&core::Settings { guidance: Some(2.0), ..wanted });
            assert_eq!((changed.guidance, changed.steps), (2.0, 50));
        }
    }

    #[test]
    fn measured_settings_of_a_model_go_before_the_defaults_and_behind_the_user() {
        let measured = engine("../../models/demo");
        let file = measured.model.measured().clone();
        let settings = measured.resolve(&core::Settings::default());
        assert_eq!(Some(settings.steps as u32), file.steps);
        assert_eq!(Some(settings.layers), file.layers);
        let user = core::Settings { steps: Some(7), layers: Some(Layers::Last), ..core::Settings::default() };
        let settings = measured.resolve(&user);
        assert_eq!(settings.steps, 7);
        assert_eq!(settings.layers.first(), measured.model.cross_attention_layers().last());
        // Without such a file: the method's own.
        let settings = engine(TINY).resolve(&core::Settings::default());
        assert_eq!((settings.steps, settings.guidance, settings.strength), (50, 8.0, 0.9));
    }

    #[test]
    fn the_baselines_start_from_the_reference_and_reduced_means_0_6() {
        let engine = engine(TINY);
        let with = |method| core::Settings {
            method: Some(method),
            preset: Some(Preset::Paper),
            strength: Some(0.8),
            ..core::Settings::default()
        };
        let img2img = engine.resolve(&with(core::Method::Img2img));
        assert_eq!((img2img.start, img2img.strength), (Start::Reference, 0.8));
        assert_eq!(engine.resolve(&with(core::Method::Img2imgReduced)).strength, 0.6);
    }
}
