//! The way of a batch's pictures, together or apart.

use super::{Edit, Prompt, Request, Sample, StableDiffusion};
use crate::apart::{Threads, group_size};
use crate::error::{Error, Result};
use crate::image_processor::{Rgb, preprocess, resize};
use crate::method::{Method, Start};
use crate::noise::{Draws, TaskNoise};

/// What one row starts from, and its edits. Tensors are on the device, `[1, 4, h, w]` float32, but for the noise.
pub(super) struct Row<'a> {
    pub(super) request: &'a Request,
    pub(super) prompt: Prompt,
    pub(super) reference: Option<Rgb>,
    /// `z0`.
    pub(super) clean: Option<tch::Tensor>,
    /// On the CPU.
    pub(super) noise: TaskNoise,
    pub(super) edits: Vec<Edit>,
}

impl StableDiffusion {
    /// Makes the pictures of `requests`: at most [`batch_size`](Self::batch_size), all of one
    /// [`batch_key`](crate::method::Settings::batch_key). A request that fails by itself, such as by a latent that is not finite, does
    /// not touch the others. `stop` is asked between steps.
    ///
    /// # Errors
    /// Of the whole batch: [`Error::Stopped`], [`Error::OutOfMemory`], [`Error::Torch`], and [`Error::Setting`] if the
    /// requests do not belong into one batch.
    pub fn generate(&self, requests: &[Request], stop: &(dyn Fn() -> bool + Sync)) -> Result<Vec<Result<Sample>>> {
        let Some(first) = requests.first() else { return Ok(Vec::new()) };
        let shared = &first.settings;
        let batch_error = |message: String| Err(Error::Setting { param: "batch", message });
        if requests.len() > self.batch_size() {
            return batch_error(format!("{} pictures do not fit a batch of {}", requests.len(), self.batch_size()));
        }
        if requests.iter().any(|request| request.settings.batch_key() != shared.batch_key()) {
            return batch_error("pictures of one batch need the same batch key".to_owned());
        }
        match self.threads_for(shared) {
            None => tch::no_grad(|| self.make(requests, self.batch_size(), None, stop)),
            Some(threads) => {
                let size = group_size(self.batch_size());
                // A picture that is alone leaves the other threads idle, unless its two rows of guidance part too.
                let apart = (self.batch_size() == 1).then_some(threads);
                let groups = requests.chunks(size).collect();
                let made = threads.each(groups, |group| self.make(group, size, apart, stop))?;
                Ok(made.into_iter().flatten().collect())
            }
        }
    }

    /// Makes pictures together, in a batch padded to `size`; the rows of a single one `apart`, if on these threads.
    fn make(
        &self,
        requests: &[Request],
        size: usize,
        apart: Option<&Threads>,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Vec<Result<Sample>>> {
        let Some(first) = requests.first() else { return Ok(Vec::new()) };
        let shared = &first.settings;
        let mut results: Vec<Option<Result<Sample>>> = Vec::new();
        let mut rows = Vec::new();
        for request in requests {
            match self.prepare(request) {
                Ok(row) => {
                    rows.push(row);
                    results.push(None);
                }
                Err(error @ (Error::OutOfMemory(_) | Error::Torch(_))) => return Err(error),
                Err(error) => results.push(Some(Err(error))),
            }
        }
        if !rows.is_empty() {
            let mut scheduler = self.scheduler(shared)?;
            let latents = self.denoise(&mut rows, size, apart, &mut scheduler, stop)?;
            let finished = self.finish(rows, latents, size, scheduler.timesteps())?;
            let mut finished = finished.into_iter();
            for result in results.iter_mut().filter(|result| result.is_none()) {
                *result = finished.next();
            }
        }
        Ok(results.into_iter().flatten().collect())
    }

    /// Checks a request, draws its noise and encodes its reference, by itself.
    fn prepare<'a>(&self, request: &'a Request) -> Result<Row<'a>> {
        let settings = &request.settings;
        let (prompt, scheduler) = self.examine(&request.prompt, request.subjects.as_deref(), settings)?;
        let factor = self.vae.factor();
        let shape = [1, 4, i64::from(settings.height) / factor, i64::from(settings.width) / factor];
        let with_reference = settings.method != Method::Txt2img;
        let draws = Draws {
            with_reference,
            own_start: with_reference && settings.start == Start::Noise,
            variance: (0..scheduler.timesteps().len()).filter(|&i| scheduler.needs_noise(i)).count(),
        };
        let noise = TaskNoise::draw(request.seed, shape, draws)?;
        let (reference, clean) = match (&request.reference, &noise.posterior) {
            (Some(picture), Some(posterior)) => {
                let resized = resize(picture, settings.width, settings.height)?;
                let pixels = preprocess(&resized, settings.width, settings.height)?;
                let clean = self.vae.encode(&pixels, posterior)?;
                (Some(resized), Some(clean))
            }
            (None, Some(_)) => {
                let message = "is missing; only txt2img needs none".to_owned();
                return Err(Error::Setting { param: "reference", message });
            }
            (_, None) => (None, None),
        };
        Ok(Row { request, prompt, reference, clean, noise, edits: Vec::new() })
    }

    pub(super) fn precision_hint(&self) -> String {
        if self.options.dtype == crate::device::Dtype::F32 {
            "a smaller guidance or another scheduler may help".to_owned()
        } else {
            format!("{} may be too narrow for this model: try f32", self.options.dtype.as_str())
        }
    }
}
