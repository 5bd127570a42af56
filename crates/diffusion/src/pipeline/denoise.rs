//! The denoising loop of a batch, with the edits of Abs-Grad-SAM in it. On a GPU nothing is read from the device and
//! nothing brought there between its first and its last step, but for more variance noise than is uploaded at once, edits
//! that take passes of their own, and what very many edits leave behind.

use tch::{Kind, Tensor};

use super::StableDiffusion;
use super::edit::{Edits, Scene};
use super::predict::Texts;
use super::sampling::Row;
use super::variance::VarianceNoise;
use crate::apart::Threads;
use crate::error::{Error, Result};
use crate::method::Method;
use crate::method::mask::Masking;
use crate::scheduler::Scheduler;

impl StableDiffusion {
    /// Runs the loop; gives each row's final latents `[1, 4, h, w]`, and leaves its edits with it.
    pub(super) fn denoise(
        &self,
        rows: &mut [Row<'_>],
        size: usize,
        apart: Option<&Threads>,
        scheduler: &mut Scheduler,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Vec<Result<Tensor>>> {
        // Rows beyond the last repeat the first: every picture is made in a batch of the same size.
        let padded: Vec<&Row<'_>> = (0..size).filter_map(|i| rows.get(i).or(rows.first())).collect();
        let Some(first) = rows.first() else { return Ok(Vec::new()) };
        let shared = &first.request.settings;
        let device = self.options.device.torch();
        let stack = |part: &dyn Fn(&Row<'_>) -> Option<Tensor>| -> Result<Option<Tensor>> {
            let parts: Option<Vec<Tensor>> = padded.iter().map(|row| part(row)).collect();
            parts.map(|parts| Ok(Tensor::f_cat(&parts, 0)?.f_to_device(device)?)).transpose()
        };
        let missing = || Error::Torch("a batch without noise".to_owned());
        let clean = stack(&|row| row.clean.as_ref().map(Tensor::shallow_clone))?;
        let noise = stack(&|row| Some(row.noise.reference.shallow_clone()))?.ok_or_else(missing)?;
        let own_start = stack(&|row| row.noise.start.as_ref().map(Tensor::shallow_clone))?;
        let steps = scheduler.timesteps().len();
        let needing: Vec<usize> = (0..steps).filter(|&i| scheduler.needs_noise(i)).collect();
        let draws = padded.iter().map(|row| row.noise.variance.as_slice()).collect();
        let mut variance = VarianceNoise::new(draws, needing, device)?;
        let scales: Vec<f32> = padded.iter().map(|row| row.request.settings.guidance as f32).collect();
        let scales = Tensor::f_from_slice(&scales)?.f_view([size as i64, 1, 1, 1])?.f_to_device(device)?;
        let texts = self.texts(&padded, apart)?;
        let mut edits = if shared.method == Method::AbsGradSam {
            let elements = noise.size()[1..].iter().product();
            let plan = self.scorer.plan(&self.unet, shared, elements)?;
            let settings: Vec<_> = padded.iter().map(|row| &row.request.settings).collect();
            let masking = Masking::new(&settings, device)?;
            Some(Edits::new(shared.edits.indices(steps)?, plan, masking, rows.len(), device))
        } else {
            None
        };

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
            let edit = edits.as_mut().filter(|edits| edits.follow(i));
            let predicted = self.predict(&input, timestep, &texts, edit.as_ref().map(|edits| edits.plan()))?;
            let guided = predicted.guided(&scales)?;
            latents = scheduler.step(&guided, i, &latents, variance.at(i)?.as_ref())?;
            first_bad = note_bad(&latents, &first_bad, i)?;

            let (Some(edits), Some(clean)) = (edit, &clean) else { continue };
            let noised = scheduler.add_noise(clean, &noise, i + 1)?;
            let scene = Scene {
                model: self,
                rows: &padded,
                predicted: &predicted,
                texts: &texts,
                input: &input,
                timestep,
                step: i,
            };
            latents = edits.make(&scene, scheduler.timesteps()[i + 1], latents, &noised)?;
        }
        let bad = Vec::<i64>::try_from(first_bad)?;
        if let Some(edits) = edits {
            for (row, edits) in rows.iter_mut().zip(edits.on_cpu()?) {
                row.edits = edits;
            }
        }
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

    /// Keys and values of the rows' texts.
    fn texts<'a>(&self, rows: &[&Row<'_>], apart: Option<&'a Threads>) -> Result<Texts<'a>> {
        let guided = rows.iter().any(|row| row.request.settings.guided());
        let prompts = rows.iter().map(|row| self.encode_text(&row.request.prompt, &row.prompt.ids));
        let prompts = prompts.collect::<Result<Vec<_>>>()?;
        let negative = |row: &&Row<'_>| {
            let text = &row.request.settings.negative_prompt;
            self.encode_text(text, &self.tokenizer.encode(text)?.ids)
        };
        let negatives = rows.iter().filter(|_| guided).map(negative).collect::<Result<Vec<_>>>()?;
        self.prepare_texts(apart, &negatives, &prompts)
    }
}

/// Keeps the first step at which each row is not finite.
fn note_bad(latents: &Tensor, first_bad: &Tensor, step: usize) -> Result<Tensor> {
    let finite = latents.f_isfinite()?.f_flatten(1, -1)?.f_all_dim(1, false)?;
    let newly = finite.f_logical_not()?.f_logical_and(&first_bad.f_lt(0)?)?;
    Ok(first_bad.f_masked_fill(&newly, step as i64)?)
}
