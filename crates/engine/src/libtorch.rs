//! The model as a [`Generator`]: translates between the fleet's words and the model's.

use std::path::{Path, PathBuf};

use diorama_core::fit::Placement;
use diorama_core::generator::{BatchKey, Generated, Generator, GeneratorError, Job, Made, ReferencePicture};
use diorama_core::outcome::{ErrorCode, TaskError};
use diorama_core::picture::Rgb8;
use diorama_core::record::{GeneratorInfo, OWN_KERNELS};
use diorama_core::settings as core;
use diorama_core::task::Task;
use diorama_diffusion::device::{Device, Dtype};
use diorama_diffusion::image_processor::{Rgb, resize};
use diorama_diffusion::kernels::KernelChoice;
use diorama_diffusion::method::Settings;
use diorama_diffusion::pipeline::{LoadOptions, Request, Sample, StableDiffusion};
use diorama_diffusion::{Error, LIBTORCH_VERSION, memory, reproducible_arithmetic};

use crate::explained::Unexplained;
use crate::resolve::{fit, resolve, score_name};

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
    /// `f32`, `bf16` or `f16`; unset: what suits the device, bf16 on a GPU and f32 on a CPU.
    pub dtype: Option<String>,
    /// Tasks in a padded batch; unset: what suits the device's memory.
    pub batch_size: Option<usize>,
    /// Whether our own GPU kernels run where they agree with libtorch's.
    pub own_kernels: bool,
}

/// What is in force where a task leaves settings open, as far as a mask depends on it.
#[derive(Debug, Clone, PartialEq)]
pub struct InForce {
    /// Which score.
    pub score: core::Score,
    /// The cross-attention layers that it is taken from, by their diffusers paths.
    pub layers: Vec<String>,
    /// k in `score > mean + k·std`.
    pub threshold: f64,
    /// The timesteps before which latents are replaced.
    pub edit_steps: Vec<u32>,
    /// How many timesteps run.
    pub timesteps: u32,
    /// The picture's width and height in pixels.
    pub size: (u32, u32),
    /// Every setting, as the record has them.
    pub all: serde_json::Value,
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
            batch_size: options.batch_size.unwrap_or(1),
            apart: None,
            kernels: if options.own_kernels { KernelChoice::Auto } else { KernelChoice::Libtorch },
        };
        let mut model = StableDiffusion::load(&options.model_dir, &load)?;
        model.set_batch_size(options.batch_size.unwrap_or_else(|| model.best_batch_size()));
        let named = options.model_dir.canonicalize().unwrap_or_else(|_| options.model_dir.clone());
        let info = GeneratorInfo {
            engine: format!("diorama {}", env!("CARGO_PKG_VERSION")),
            library: library(model.has_own_kernels()),
            model: named.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
            model_sha256: model.digest().iter().map(|byte| format!("{byte:02x}")).collect(),
            device: device.to_string(),
            dtype: dtype.as_str().to_owned(),
            batch_size: model.batch_size(),
        };
        Ok(Self { model, info })
    }

    /// The model's cross-attention layers by their diffusers paths, in the order in which they run.
    pub fn cross_attention_layers(&self) -> &[String] {
        self.model.cross_attention_layers()
    }

    /// What is in force for a task of these settings; a size that follows the reference is the model's own here.
    ///
    /// # Errors
    /// [`Error::Setting`] and [`Error::Model`], as for a task.
    pub fn in_force(&self, wanted: &core::Settings) -> Result<InForce, Error> {
        let settings = resolve(&self.model, wanted, None)?;
        let (timesteps, edits) = self.model.edit_steps(&settings)?;
        Ok(InForce {
            score: score_name(settings.score),
            layers: settings.layers.clone(),
            threshold: settings.threshold,
            edit_steps: edits.into_iter().map(|step| step as u32).collect(),
            timesteps: timesteps as u32,
            size: (settings.width, settings.height),
            all: serde_json::to_value(&settings).unwrap_or_default(),
        })
    }

    /// Whose kernels run and why, for people.
    pub fn kernels(&self) -> &str {
        self.model.kernels()
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
        self.unexplained(job, request.settings, sample).draw()
    }

    fn unexplained(&self, job: &Job, settings: Settings, sample: Sample) -> Unexplained {
        Unexplained { job: job.clone(), settings, sample, info: self.info.clone() }
    }

    fn request(&self, job: &Job) -> Result<Request, TaskError> {
        let (task, reference) = (&job.task, job.reference.as_deref());
        let size = reference.map(|reference| (reference.width, reference.height));
        if task.settings.size == Some(core::Size::Reference) && size.is_none() {
            return Err(no_size());
        }
        let settings = resolve(&self.model, &task.settings, size).map_err(|error| task_error(&error))?;
        let wanted = reference.filter(|_| task.settings.method != Some(core::Method::Txt2img));
        let used = |reference| as_used(reference, &placement(task, &settings, reference));
        Ok(Request {
            prompt: task.prompt.clone(),
            subjects: task.subjects.clone(),
            seed: task.seed.get(),
            reference: wanted.map(used).transpose().map_err(|error| task_error(&error))?,
            settings,
        })
    }
}

impl Generator for LibtorchGenerator {
    fn info(&self) -> &GeneratorInfo {
        &self.info
    }

    fn check(&self, task: &Task) -> Result<BatchKey, TaskError> {
        if task.settings.size == Some(core::Size::Reference) && task.reference.is_none() {
            return Err(no_size());
        }
        let settings = resolve(&self.model, &task.settings, None).map_err(|error| task_error(&error))?;
        self.model.check(&task.prompt, task.subjects.as_deref(), &settings).map_err(|error| task_error(&error))?;
        Ok(BatchKey(settings.batch_key()))
    }

    fn generate(
        &mut self,
        batch: &[Job],
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Vec<Result<Generated, TaskError>>, GeneratorError> {
        Ok(self.make(batch, stop)?.into_iter().map(|made| made.and_then(Made::finish)).collect())
    }

    fn make(
        &mut self,
        batch: &[Job],
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Vec<Result<Made, TaskError>>, GeneratorError> {
        let mut ends: Vec<Option<Result<Made, TaskError>>> = batch.iter().map(|_| None).collect();
        // Sizes that follow references may differ within what shares a key.
        let mut alike: Vec<(Vec<usize>, Vec<Request>)> = Vec::new();
        for (place, job) in batch.iter().enumerate() {
            let request = match self.request(job) {
                Ok(request) => request,
                Err(error) => {
                    ends[place] = Some(Err(error));
                    continue;
                }
            };
            let size = |request: &Request| (request.settings.width, request.settings.height);
            match alike.iter_mut().find(|(_, others)| others.first().map(size) == Some(size(&request))) {
                Some((places, requests)) => {
                    places.push(place);
                    requests.push(request);
                }
                None => alike.push((vec![place], vec![request])),
            }
        }
        for (places, requests) in alike {
            let samples = self.model.generate(&requests, stop).map_err(|error| self.failed(error))?;
            for ((place, request), sample) in places.into_iter().zip(requests).zip(samples) {
                let made = sample.map(|sample| {
                    let unexplained = self.unexplained(&batch[place], request.settings, sample);
                    Made::unfinished(|| unexplained.draw())
                });
                ends[place] = Some(made.map_err(|error| task_error(&error)));
            }
        }
        let lost = || Err(TaskError::transient(ErrorCode::ModelError, "the model gave no picture"));
        Ok(ends.into_iter().map(|end| end.unwrap_or_else(lost)).collect())
    }
}

impl LibtorchGenerator {
    /// What a failure of a whole batch means.
    fn failed(&mut self, error: Error) -> GeneratorError {
        match error {
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
        }
    }
}

/// What the networks run on, as records say it: kernels round differently.
fn library(own_kernels: bool) -> String {
    format!("libtorch {LIBTORCH_VERSION}{}", if own_kernels { OWN_KERNELS } else { "" })
}

/// Where a task's reference lies in its picture.
pub(crate) fn placement(task: &Task, settings: &Settings, reference: &ReferencePicture) -> Placement {
    fit(&task.settings).place((reference.width, reference.height), (settings.width, settings.height))
}

/// A reference at the picture's size.
fn as_used(reference: &ReferencePicture, placement: &Placement) -> Result<Rgb, Error> {
    let used = reference.as_used(placement, |Rgb8 { width, height, data }, to_width, to_height| {
        resize(&Rgb { width, height, data }, to_width, to_height).map(rgb8)
    });
    used.map(|Rgb8 { width, height, data }| Rgb { width, height, data })
}

fn no_size() -> TaskError {
    let message = "size: reference needs a reference, and this task has none; give a size such as 512x512";
    TaskError::permanent(ErrorCode::InvalidSettings, message)
}

/// What the fleet makes of a model's error.
pub(crate) fn task_error(error: &Error) -> TaskError {
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

pub(crate) fn rgb8(picture: Rgb) -> Rgb8 {
    Rgb8 { width: picture.width, height: picture.height, data: picture.data }
}

#[cfg(test)]
mod tests {
    use diorama_core::fit::Region;
    use diorama_core::id::Sha256Hex;
    use diorama_core::settings::Fit;

    use super::*;

    fn reference(width: u32, height: u32) -> ReferencePicture {
        let value = |x: u32, y: u32, c: u32| ((x * 37 + y * 91 + x * y * (c + 1)) % 256) as u8;
        let pixel = |y: u32, x: u32| (0..3).map(move |c| value(x, y, c));
        let data = (0..height).flat_map(|y| (0..width).flat_map(move |x| pixel(y, x))).collect();
        ReferencePicture { picture: Rgb8 { width, height, data }, width, height, sha256: Sha256Hex::of(b"") }
    }

    fn used(reference: &ReferencePicture, fit: Fit, side: u32) -> Rgb {
        as_used(reference, &fit.place((reference.width, reference.height), (side, side))).unwrap()
    }

    fn plain(reference: &ReferencePicture) -> Rgb {
        let Rgb8 { width, height, data } = reference.picture.clone();
        Rgb { width, height, data }
    }

    #[test]
    fn a_square_reference_and_a_stretched_one_are_resized_as_ever() {
        for side in [16, 64, 200, 301] {
            let square = reference(side, side);
            for fit in [Fit::Crop, Fit::Pad, Fit::Stretch] {
                assert_eq!(used(&square, fit, 64), resize(&plain(&square), 64, 64).unwrap(), "{fit} {side}");
            }
        }
        let wide = reference(300, 200);
        assert_eq!(used(&wide, Fit::Stretch, 64), resize(&plain(&wide), 64, 64).unwrap());
    }

    #[test]
    fn what_is_cropped_is_resized_as_if_nothing_had_been_around_it() {
        let wide = reference(300, 200);
        let middle = wide.picture.cut(Region { x: 50, y: 0, width: 200, height: 200 });
        let alone = ReferencePicture { picture: middle, width: 200, height: 200, ..wide.clone() };
        assert_eq!(used(&wide, Fit::Crop, 64), used(&alone, Fit::Stretch, 64));
        let padded = used(&wide, Fit::Pad, 60);
        let part = rgb8(padded.clone()).cut(Region { x: 0, y: 10, width: 60, height: 40 });
        assert_eq!(part.data, resize(&plain(&wide), 60, 40).unwrap().data);
        assert_eq!(padded.data[..180], padded.data[180 * 10..180 * 11], "its first row goes on");
    }

    #[test]
    fn of_a_reference_that_is_kept_smaller_the_same_part_is_used() {
        let wide = ReferencePicture { width: 9000, height: 6000, ..reference(300, 200) };
        assert_eq!(used(&wide, Fit::Crop, 64), used(&reference(300, 200), Fit::Crop, 64));
    }
}
