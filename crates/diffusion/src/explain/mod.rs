//! Pictures that show why the method did what it did, from score maps and masks of latent size; and the paste-back,
//! which gives pixels outside the mask back to the reference. Everything is computed on the CPU, so that the same
//! tensors give the same bytes on every machine.

mod inferno;
mod region;

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::image_processor::{Gray, Rgb};

/// Values above this share of a score map are shown alike: scores have a long tail, and a single peak would leave the
/// rest dark.
const BRIGHTEST: f64 = 0.995;
/// How dark the picture is below a heat map.
const DARKENED: f32 = 0.7;
/// How much of the colour covers the picture at the lowest and at the highest score.
const HEAT_OPACITY: (f32, f32) = (0.25, 0.9);
/// The tint of what a mask keeps, and its share.
const TINT: ([u8; 3], f32) = ([255, 64, 160], 0.35);
/// A mask's outline: light on its inner side, dark on its outer side, so that it shows on any picture.
const OUTLINE: ([u8; 3], [u8; 3]) = ([255, 255, 255], [24, 24, 24]);

/// A subject's score over the latent channels: each channel divided by its mean, because a mask is thresholded channel
/// by channel and invariant to scale, then summed. `[c, h, w]` to `[h, w]` on the CPU, in float64, so that the order in
/// which threads add up cannot show in a picture.
///
/// # Errors
/// [`Error::Torch`] if the tensor is not `[c, h, w]`.
pub fn combine_scores(scores: &Tensor) -> Result<Tensor> {
    scores.size3()?;
    let scores = scores.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?;
    let means = scores.f_mean_dim([1_i64, 2].as_slice(), true, Kind::Double)?;
    // A channel without any score has none to divide by.
    let relative = scores.f_div(&means.f_clamp_min(f64::MIN_POSITIVE)?)?;
    Ok(relative.f_sum_dim_intlist([0_i64].as_slice(), false, Kind::Double)?)
}

/// The picture, dark and grey, under the colours of a subject's scores `[c, h, w]` (from black over purple and orange to
/// yellow), interpolated to its size.
///
/// # Errors
/// [`Error::Picture`] if the picture is none; [`Error::Torch`] if the scores have another shape.
pub fn heat_map(picture: &Rgb, scores: &Tensor) -> Result<Rgb> {
    picture.check()?;
    let combined = combine_scores(scores)?;
    let low = f64::try_from(combined.f_min()?)?;
    let high = f64::try_from(combined.f_quantile_scalar(BRIGHTEST, None, false, "linear")?)?;
    // The same score everywhere says nothing: shown as nothing.
    let range = if high > low { high - low } else { f64::INFINITY };
    let heat = combined.f_sub_scalar(low)?.f_div_scalar(range)?.f_clamp(0.0, 1.0)?.f_to_kind(Kind::Float)?;
    let size = [i64::from(picture.height), i64::from(picture.width)];
    let large = heat.f_unsqueeze(0)?.f_unsqueeze(0)?.f_upsample_bilinear2d(size, false, None, None)?;
    let heat = Vec::<f32>::try_from(large.f_flatten(0, -1)?)?;

    let shown = picture.data.chunks_exact(3).zip(heat).flat_map(|(pixel, heat)| {
        let grey = DARKENED * luminance(pixel);
        let opacity = HEAT_OPACITY.0 + (HEAT_OPACITY.1 - HEAT_OPACITY.0) * heat;
        inferno::colour(heat).map(|colour| to_byte(blend(grey, colour, opacity)))
    });
    Ok(Rgb { data: shown.collect(), ..*picture })
}

/// Where any latent channel keeps the subject: 255, else 0. `[c, h, w]` (bool) to a picture of `width` × `height`, each
/// pixel from the latent that it lies in.
///
/// # Errors
/// [`Error::Picture`] if a side is 0; [`Error::Torch`] if the mask has another shape.
pub fn mask_picture(mask: &Tensor, width: u32, height: u32) -> Result<Gray> {
    let (_, rows, columns) = mask.size3()?;
    if [rows, columns, width.into(), height.into()].contains(&0) {
        return Err(Error::Picture(format!("a mask of {columns}x{rows} latents makes no {width}x{height} pixels")));
    }
    let any = mask.f_to_device(Device::Cpu)?.f_to_kind(Kind::Bool)?.f_any_dim(0, false)?;
    let kept = Vec::<bool>::try_from(any.f_contiguous()?.f_view([-1])?)?;
    let (rows, columns) = (rows as usize, columns as usize);
    let nearest = |at: u32, of: u32, latents: usize| at as usize * latents / of as usize;
    let data = (0..height)
        .flat_map(|y| (0..width).map(move |x| (x, y)))
        .map(|(x, y)| if kept[nearest(y, height, rows) * columns + nearest(x, width, columns)] { 255 } else { 0 })
        .collect();
    Ok(Gray { width, height, data })
}

/// The picture with what the mask keeps tinted and outlined.
///
/// # Errors
/// [`Error::Picture`] if the picture or the mask is none, or their sizes differ.
pub fn overlay(picture: &Rgb, mask: &Gray) -> Result<Rgb> {
    fits(picture, mask.width, mask.height)?;
    mask.check()?;
    let thickness = (picture.width.min(picture.height) / 200).max(1) as f32;
    let kept: Vec<bool> = mask.data.iter().map(|&value| value != 0).collect();
    let left_out: Vec<bool> = kept.iter().map(|kept| !kept).collect();
    let width = mask.width as usize;
    let to_kept = region::distances(&kept, width, thickness);
    let to_left_out = region::distances(&left_out, width, thickness);
    let shown = picture.data.chunks_exact(3).zip(to_kept.iter().zip(&to_left_out)).flat_map(|(pixel, distances)| {
        let pixel = [pixel[0], pixel[1], pixel[2]];
        match distances {
            (inside, to_edge) if *inside == 0.0 && *to_edge <= thickness => OUTLINE.0,
            (inside, _) if *inside == 0.0 => mixed(pixel, TINT.0, TINT.1),
            (to_edge, _) if *to_edge <= thickness => OUTLINE.1,
            _ => pixel,
        }
    });
    Ok(Rgb { data: shown.collect(), ..*picture })
}

/// The picture inside the mask, the reference outside, and a soft edge of `feather` pixels outside the mask between
/// them. From `feather` pixels on, the bytes are the reference's.
///
/// # Errors
/// [`Error::Picture`] if one of the three is no picture, or their sizes differ.
pub fn paste_back(picture: &Rgb, reference: &Rgb, mask: &Gray, feather: u32) -> Result<Rgb> {
    fits(picture, reference.width, reference.height)?;
    fits(reference, mask.width, mask.height)?;
    mask.check()?;
    let kept: Vec<bool> = mask.data.iter().map(|&value| value != 0).collect();
    let feather = feather as f32;
    let distances = region::distances(&kept, mask.width as usize, feather);
    let pixels = picture.data.chunks_exact(3).zip(reference.data.chunks_exact(3));
    let pasted = pixels.zip(distances).flat_map(|((ours, theirs), distance)| {
        let (ours, theirs) = ([ours[0], ours[1], ours[2]], [theirs[0], theirs[1], theirs[2]]);
        match distance {
            0.0 => ours,
            distance if distance < feather => mixed(ours, theirs, smooth(distance / feather)),
            _ => theirs,
        }
    });
    Ok(Rgb { data: pasted.collect(), ..*picture })
}

fn fits(picture: &Rgb, width: u32, height: u32) -> Result<()> {
    picture.check()?;
    if (picture.width, picture.height) == (width, height) {
        return Ok(());
    }
    Err(Error::Picture(format!("{}x{} pixels do not lie on {width}x{height}", picture.width, picture.height)))
}

/// Rec. 601.
fn luminance(pixel: &[u8]) -> f32 {
    0.299 * f32::from(pixel[0]) + 0.587 * f32::from(pixel[1]) + 0.114 * f32::from(pixel[2])
}

/// From 0 to 1 without a corner at either end.
fn smooth(x: f32) -> f32 {
    x * x * (3.0 - 2.0 * x)
}

fn blend(below: f32, above: f32, opacity: f32) -> f32 {
    below + (above - below) * opacity
}

fn mixed(below: [u8; 3], above: [u8; 3], opacity: f32) -> [u8; 3] {
    std::array::from_fn(|c| to_byte(blend(f32::from(below[c]), f32::from(above[c]), opacity)))
}

fn to_byte(value: f32) -> u8 {
    value.round().clamp(0.0, 255.0) as u8
}

#[cfg(test)]
mod tests;
