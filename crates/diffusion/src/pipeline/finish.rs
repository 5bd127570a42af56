//! From final latents to pictures, and what explains them.

use tch::Tensor;

use super::host::copies;
use super::sampling::Row;
use super::warnings::warnings;
use super::{Sample, StableDiffusion};
use crate::error::{Error, Result};
use crate::explain;
use crate::image_processor::{Rgb, postprocess};
use crate::method::Arithmetic;

/// Pixels that a GPU decodes at once: four pictures of 512×512, for which the decoder of Stable Diffusion v1.5 takes about
/// 2 GB in half precision.
const PIXELS_AT_ONCE: u64 = 4 * 512 * 512;

impl StableDiffusion {
    /// Decodes the rows of a batch of `size` whose latents `[1, 4, h, w]` came to something, and gathers what explains
    /// them.
    pub(super) fn finish(
        &self,
        rows: Vec<Row<'_>>,
        latents: Vec<Result<Tensor>>,
        size: usize,
        timesteps: &[f64],
    ) -> Result<Vec<Result<Sample>>> {
        let good: Vec<&Tensor> = latents.iter().filter_map(|latents| latents.as_ref().ok()).collect();
        let mut images = self.decode(&good, size)?.into_iter();
        let mut kept = copies(&good)?.into_iter();
        let clean: Vec<&Tensor> = rows.iter().filter_map(|row| row.clean.as_ref()).collect();
        let mut clean = copies(&clean)?.into_iter();
        let lost = || Error::Torch("the decoder gave no picture".to_owned());
        let mut finished = Vec::with_capacity(rows.len());
        for (row, latents) in rows.into_iter().zip(latents) {
            let clean = if row.clean.is_some() { clean.next() } else { None };
            if let Err(error) = latents {
                finished.push(Err(error));
                continue;
            }
            let (image, latents) = (images.next().ok_or_else(lost)?, kept.next().ok_or_else(lost)?);
            finished.push(match image {
                Some(image) => explained(row, image, &latents, clean.as_ref(), timesteps),
                None => Err(self.not_finite(timesteps)),
            });
        }
        Ok(finished)
    }

    /// Pictures from latents `[1, 4, h, w]`; none where the decoder makes something that is not finite. On a GPU a few at a
    /// time and always as many, however many there are, so that a picture does not depend on the others.
    fn decode(&self, latents: &[&Tensor], size: usize) -> Result<Vec<Option<Rgb>>> {
        let mut images = Vec::with_capacity(latents.len());
        let Some(first) = latents.first() else { return Ok(images) };
        let at_once = self.decoded_at_once(first, size)?;
        for group in latents.chunks(at_once) {
            let padded: Vec<&Tensor> = (0..at_once).filter_map(|i| group.get(i).or(group.first()).copied()).collect();
            let made = postprocess(&self.vae.decode(&Tensor::f_cat(&padded, 0)?)?)?;
            images.extend(made.into_iter().take(group.len()));
        }
        Ok(images)
    }

    /// Pictures that are decoded together in a batch of `size`; on a CPU each by itself.
    fn decoded_at_once(&self, latents: &Tensor, size: usize) -> Result<usize> {
        if self.arithmetic == Arithmetic::Cpu {
            return Ok(1);
        }
        let (_, _, height, width) = latents.size4()?;
        let pixels = (height * width * self.vae.factor().pow(2)) as u64;
        Ok(((PIXELS_AT_ONCE / pixels.max(1)) as usize).clamp(1, size))
    }

    fn not_finite(&self, timesteps: &[f64]) -> Error {
        let (step, timestep) = (timesteps.len().saturating_sub(1), timesteps.last().copied().unwrap_or_default());
        Error::NonFinite { step, timestep, hint: format!("the decoder made them so; {}", self.precision_hint()) }
    }
}

/// A picture with everything that explains it; tensors `[1, 4, h, w]` on the CPU.
fn explained(
    row: Row<'_>,
    image: Rgb,
    latents: &Tensor,
    reference_latents: Option<&Tensor>,
    timesteps: &[f64],
) -> Result<Sample> {
    let settings = &row.request.settings;
    let mask = row.edits.last().map(|edit| explain::mask_picture(&edit.mask, settings.width, settings.height));
    let mask = mask.transpose()?;
    let image = match (settings.paste_back, &mask, &row.reference) {
        (Some(feather), Some(mask), Some(reference)) => explain::paste_back(&image, reference, mask, feather)?,
        _ => image,
    };
    Ok(Sample {
        image,
        mask,
        warnings: warnings(&row.prompt, settings, &row.edits),
        timesteps: timesteps.to_vec(),
        reference_latents: reference_latents.map(|latents| latents.f_get(0)).transpose()?,
        reference_noise: row.noise.reference.f_get(0)?,
        latents: latents.f_get(0)?,
        reference: row.reference,
        prompt: row.prompt,
        edits: row.edits,
    })
}
