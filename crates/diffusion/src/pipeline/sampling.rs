//! The way of a batch's pictures, together or apart: the denoising loop with the edits of Abs-Grad-SAM in it, and what
//! is around it.

use tch::{Kind, Tensor};

use super::predict::Texts;
use super::warnings::warnings;
use super::{Edit, Prompt, Request, Sample, StableDiffusion};
use crate::apart::{Threads, group_size};
use crate::error::{Error, Result};
use crate::explain;
use crate::image_processor::{Rgb, postprocess, preprocess, resize};
use crate::method::score::{Plan, ScoredRow};
use crate::method::{Method, Start, mask};
use crate::noise::{Draws, TaskNoise};
use crate::scheduler::Scheduler;

/// Spreads the seeds of one task's edits over all seeds.
const EDIT_SEED_STRIDE: u64 = 0x9e37_79b9_7f4a_7c15;

/// What one row starts from. Tensors are on the device, `[1, 4, h, w]` float32.
struct Row<'a> {
    request: &'a Request,
    prompt: Prompt,
    reference: Option<Rgb>,
    /// `z0`.
    clean: Option<Tensor>,
    noise: TaskNoise,
    edits: Vec<Edit>,
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
            let timesteps = scheduler.timesteps().to_vec();
            let mut finished = Vec::with_capacity(rows.len());
            for (row, latents) in rows.into_iter().zip(latents) {
                finished.push(match latents {
                    Ok(latents) => self.finish(row, &latents, &timesteps),
                    Err(error) => Err(error),
                });
            }
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
                let message = "is missing; only txt2img does without".to_owned();
                return Err(Error::Setting { param: "reference", message });
            }
            (_, None) => (None, None),
        };
        Ok(Row { request, prompt, reference, clean, noise, edits: Vec::new() })
    }

    /// Runs the loop; gives each row's final latents `[1, 4, h, w]`.
    fn denoise(
        &self,
        rows: &mut [Row<'_>],
        size: usize,
        apart: Option<&Threads>,
        scheduler: &mut Scheduler,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Vec<Result<Tensor>>> {
        let Some(first) = rows.first() else { return Ok(Vec::new()) };
        let shared = &first.request.settings;
        let device = self.options.device.torch();
        // Rows beyond the last repeat the first: every picture is made in a batch of the same size.
        let padded: Vec<usize> = (0..size).map(|i| if i < rows.len() { i } else { 0 }).collect();
        let stack = |rows: &[Row<'_>], part: &dyn Fn(&Row<'_>) -> Option<Tensor>| -> Result<Option<Tensor>> {
            let parts: Option<Vec<Tensor>> = padded.iter().map(|&i| part(&rows[i])).collect();
            parts.map(|parts| Ok(Tensor::f_cat(&parts, 0)?.f_to_device(device)?)).transpose()
        };
        let missing = || Error::Torch("a batch without noise".to_owned());
        let clean = stack(rows, &|row| row.clean.as_ref().map(Tensor::shallow_clone))?;
        let noise = stack(rows, &|row| Some(row.noise.reference.shallow_clone()))?.ok_or_else(missing)?;
        let steps = scheduler.timesteps().len();
        let needing: Vec<usize> = (0..steps).filter(|&i| scheduler.needs_noise(i)).collect();
        let scales: Vec<f32> = padded.iter().map(|&i| rows[i].request.settings.guidance as f32).collect();
        let scales = Tensor::f_from_slice(&scales)?.f_view([size as i64, 1, 1, 1])?.f_to_device(device)?;
        let (edits, plan) = if shared.method == Method::AbsGradSam {
            let elements = noise.size()[1..].iter().product();
            (shared.edits.indices(steps)?, Some(self.scorer.plan(&self.unet, shared, elements)?))
        } else {
            (Vec::new(), None)
        };
        let texts = self.texts(rows, &padded, apart)?;

        let own_start = stack(rows, &|row| row.noise.start.as_ref().map(Tensor::shallow_clone))?;
        let mut latents = match (&clean, &own_start) {
            (Some(clean), None) => scheduler.add_noise(clean, &noise, 0)?,
            (_, own_start) => own_start.as_ref().unwrap_or(&noise).f_mul_scalar(scheduler.init_noise_sigma())?,
        };
        // The first step after which a row's latents are not finite, else −1; read once at the end.
        let mut first_bad = Tensor::f_full([size as i64], -1, (Kind::Int64, device))?;
        for i in 0..steps {
            if stop() {
                return Err(Error::Stopped);
            }
            let timestep = scheduler.timesteps()[i];
            tracing::debug!(step = i, timestep, "denoising");
            let input = scheduler.scale_model_input(&latents, i)?;
            let edit = plan.as_ref().filter(|_| edits.contains(&(i + 1)));
            let predicted = self.predict(&input, timestep, &texts, edit)?;
            let guided = predicted.guided(&scales)?;
            let variance = match needing.iter().position(|&step| step == i) {
                Some(draw) => stack(rows, &|row| row.noise.variance.get(draw).map(Tensor::shallow_clone))?,
                None => None,
            };
            latents = scheduler.step(&guided, i, &latents, variance.as_ref())?;
            first_bad = note_bad(&latents, &first_bad, i)?;

            let (Some(plan), Some(clean)) = (edit, &clean) else { continue };
            let noised = scheduler.add_noise(clean, &noise, i + 1)?;
            for (index, row) in rows.iter_mut().enumerate() {
                let index = index as i64;
                let text = texts.conditional(index)?;
                let unconditional = predicted.unconditional.as_ref().map(|u| u.f_get(index)).transpose()?;
                let scored = ScoredRow {
                    unet: &self.unet,
                    tap: &predicted.tap,
                    row: predicted.first_conditional + index,
                    input: &input.f_narrow(0, index, 1)?,
                    timestep,
                    text: &text,
                    conditional: &predicted.conditional.f_get(index)?,
                    unconditional: unconditional.as_ref(),
                    seed: row.request.seed.wrapping_add(EDIT_SEED_STRIDE.wrapping_mul(i as u64 + 1)),
                };
                let before = latents.f_get(index)?.f_detach_copy()?;
                let edit = self.edit(row, plan, &scored, &before, &noised.f_get(index)?)?;
                latents.f_get(index)?.f_copy_(&edit.after)?;
                row.edits.push(Edit { step: i + 1, timestep: scheduler.timesteps()[i + 1], ..edit.on_cpu()? });
            }
        }
        let bad = Vec::<i64>::try_from(first_bad)?;
        (0..rows.len())
            .map(|index| match usize::try_from(bad[index]) {
                Ok(step) => Ok(Err(Error::NonFinite {
                    step,
                    timestep: scheduler.timesteps()[step],
                    hint: self.precision_hint(),
                })),
                Err(_) => Ok(Ok(latents.f_narrow(0, index as i64, 1)?)),
            })
            .collect()
    }

    /// Scores and masks one row, and replaces what the mask leaves out.
    fn edit(
        &self,
        row: &Row<'_>,
        plan: &Plan,
        scored: &ScoredRow<'_>,
        before: &Tensor,
        noised: &Tensor,
    ) -> Result<Edit> {
        let settings = &row.request.settings;
        let positions: Vec<&[i64]> = row.prompt.subjects.iter().map(|subject| subject.positions.as_slice()).collect();
        let scores = self.scorer.scores(plan, scored, &positions)?;
        let mut masks = Vec::with_capacity(scores.len());
        for score in &scores {
            let smooth = mask::smooth(score, settings.smoothing)?;
            masks.push(mask::dilate(&mask::threshold(&smooth, settings.threshold)?, settings.dilation)?);
        }
        let mut union: Option<Tensor> = None;
        for mask in &masks {
            union = Some(match union {
                None => mask.shallow_clone(),
                Some(union) => union.f_logical_or(mask)?,
            });
        }
        let mask = union.ok_or_else(|| Error::Torch("an edit without subjects".to_owned()))?;
        Ok(Edit {
            step: 0,
            timestep: scored.timestep,
            estimator: plan.estimator,
            scores,
            subject_coverage: masks.iter().map(mask::coverage).collect::<Result<_>>()?,
            coverage: mask::coverage(&mask)?,
            extent: mask::Extent::of(&mask)?,
            most_alike: mask::most_alike(&masks)?,
            after: before.f_where_self(&mask, noised)?,
            before: before.shallow_clone(),
            mask,
        })
    }

    /// Keys and values of the rows' texts.
    fn texts<'a>(&self, rows: &[Row<'_>], padded: &[usize], apart: Option<&'a Threads>) -> Result<Texts<'a>> {
        let guided = rows.iter().any(|row| row.request.settings.guided());
        let prompts = padded.iter().map(|&i| self.encode_text(&rows[i].request.prompt, &rows[i].prompt.ids));
        let prompts = prompts.collect::<Result<Vec<_>>>()?;
        let negative = |&i: &usize| {
            let text = &rows[i].request.settings.negative_prompt;
            self.encode_text(text, &self.tokenizer.encode(text)?.ids)
        };
        let negatives = padded.iter().filter(|_| guided).map(negative).collect::<Result<Vec<_>>>()?;
        self.prepare_texts(apart, &negatives, &prompts)
    }

    /// Decodes a row by itself, and gathers what explains it.
    fn finish(&self, row: Row<'_>, latents: &Tensor, timesteps: &[f64]) -> Result<Sample> {
        let settings = &row.request.settings;
        let decoded = self.vae.decode(latents)?;
        if !crate::model::weights::all_finite(&decoded)? {
            let (step, timestep) = (timesteps.len() - 1, timesteps.last().copied().unwrap_or_default());
            let hint = format!("the decoder made them so; {}", self.precision_hint());
            return Err(Error::NonFinite { step, timestep, hint });
        }
        let mut image =
            postprocess(&decoded)?.pop().ok_or_else(|| Error::Torch("the decoder gave no picture".to_owned()))?;
        let mask = row.edits.last().map(|edit| explain::mask_picture(&edit.mask, settings.width, settings.height));
        let mask = mask.transpose()?;
        if let (Some(feather), Some(mask), Some(reference)) = (settings.paste_back, &mask, &row.reference) {
            image = explain::paste_back(&image, reference, mask, feather)?;
        }
        let cpu = |x: &Tensor| -> Result<Tensor> { Ok(x.f_get(0)?.f_to_device(tch::Device::Cpu)?) };
        Ok(Sample {
            image,
            mask,
            warnings: warnings(&row.prompt, settings, &row.edits),
            timesteps: timesteps.to_vec(),
            reference_latents: row.clean.as_ref().map(cpu).transpose()?,
            reference_noise: cpu(&row.noise.reference)?,
            latents: cpu(latents)?,
            reference: row.reference,
            prompt: row.prompt,
            edits: row.edits,
        })
    }

    fn precision_hint(&self) -> String {
        if self.options.dtype == crate::device::Dtype::F32 {
            "a smaller guidance or another scheduler may help".to_owned()
        } else {
            format!("{} may be too narrow for this model: try f32", self.options.dtype.as_str())
        }
    }
}

impl Edit {
    fn on_cpu(self) -> Result<Self> {
        let cpu = |x: &Tensor| x.f_to_device(tch::Device::Cpu);
        Ok(Self {
            scores: self.scores.iter().map(cpu).collect::<Result<_, _>>()?,
            mask: cpu(&self.mask)?,
            before: cpu(&self.before)?,
            after: cpu(&self.after)?,
            ..self
        })
    }
}

/// Keeps the first step at which each row is not finite.
fn note_bad(latents: &Tensor, first_bad: &Tensor, step: usize) -> Result<Tensor> {
    let finite = latents.f_isfinite()?.f_flatten(1, -1)?.f_all_dim(1, false)?;
    let newly = finite.f_logical_not()?.f_logical_and(&first_bad.f_lt(0)?)?;
    Ok(first_bad.f_masked_fill(&newly, step as i64)?)
}
