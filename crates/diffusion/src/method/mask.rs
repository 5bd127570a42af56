//! From scores to masks: smoothing, threshold, dilation. Scores `[4, h, w]` float32, masks `[4, h, w]` bool; each latent
//! channel by itself.

use tch::{Kind, Tensor};

use super::settings::Smoothing;
use crate::error::Result;

/// The score as it is thresholded.
pub fn smooth(score: &Tensor, smoothing: Smoothing) -> Result<Tensor> {
    match smoothing {
        Smoothing::Gaussian(sigma) => blur(score, sigma),
        Smoothing::BoxSum => box_sum(score),
    }
}

/// The sum over a 3×3 box, zero beyond the edge.
fn box_sum(score: &Tensor) -> Result<Tensor> {
    let channels = score.size3()?.0;
    let ones = Tensor::f_ones([channels, 1, 3, 3], (Kind::Float, score.device()))?;
    let sum = score.f_unsqueeze(0)?.f_conv2d(&ones, None::<&Tensor>, [1, 1], [1, 1], [1, 1], channels)?;
    Ok(sum.f_squeeze_dim(0)?)
}

/// A 3×3 Gaussian of `sigma` latent elements, reflected at the edge, as torchvision's `gaussian_blur`. 0 leaves the
/// score as it is.
fn blur(score: &Tensor, sigma: f64) -> Result<Tensor> {
    let (channels, height, width) = score.size3()?;
    if sigma <= 0.0 {
        return Ok(score.shallow_clone());
    }
    let side = (-0.5 / (sigma * sigma)).exp();
    let line = [side, 1.0, side].map(|x| (x / (1.0 + 2.0 * side)) as f32);
    let line = Tensor::f_from_slice(&line)?.f_to_device(score.device())?;
    let kernel = line.f_outer(&line)?.f_expand([channels, 1, 3, 3], false)?;
    // Reflection needs a second element to reflect; a single row or column is repeated.
    let score = score.f_unsqueeze(0)?;
    let padded = if height > 1 && width > 1 {
        score.f_reflection_pad2d([1, 1, 1, 1])?
    } else {
        score.f_replication_pad2d([1, 1, 1, 1])?
    };
    Ok(padded.f_conv2d(&kernel, None::<&Tensor>, [1, 1], [0, 0], [1, 1], channels)?.f_squeeze_dim(0)?)
}

/// `score > mean + k·std` over the positions of each channel; the deviation with n − 1.
pub fn threshold(score: &Tensor, k: f64) -> Result<Tensor> {
    let positions = [1i64, 2].as_slice();
    let mean = score.f_mean_dim(positions, true, Kind::Float)?;
    let std = score.f_std_dim(positions, true, true)?;
    Ok(score.f_gt_tensor(&mean.f_add(&std.f_mul_scalar(k)?)?)?)
}

/// Dilation by a 3×3 square, `times` over.
pub fn dilate(mask: &Tensor, times: u32) -> Result<Tensor> {
    let mut grown = mask.f_to_kind(Kind::Float)?.f_unsqueeze(0)?;
    for _ in 0..times {
        grown = grown.f_max_pool2d([3, 3], [1, 1], [1, 1], [1, 1], false)?;
    }
    Ok(grown.f_squeeze_dim(0)?.f_to_kind(Kind::Bool)?)
}

/// The share of elements that are set, 0 to 1.
pub fn coverage(mask: &Tensor) -> Result<f64> {
    Ok(mask.f_mean(Kind::Double)?.f_double_value(&[])?)
}

/// What tells of a mask, without knowing the truth, whether it can be right. All of the mask's union over channels, which is
/// what the picture of the mask shows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Extent {
    /// The share of positions that are set, 0 to 1.
    pub covered: f64,
    /// The share of the outermost rows and columns that is set, 0 to 1.
    pub border: f64,
}

impl Extent {
    /// Of a mask `[c, h, w]`.
    pub fn of(mask: &Tensor) -> Result<Self> {
        let flat = mask.f_any_dim(0, false)?;
        let (height, width) = flat.size2()?;
        let (inner_height, inner_width) = ((height - 2).max(0), (width - 2).max(0));
        let count = |x: &Tensor| -> Result<i64> { Ok(x.f_sum(Kind::Int64)?.f_int64_value(&[])?) };
        let all = count(&flat)?;
        let has_inner = inner_height > 0 && inner_width > 0;
        let inner = match has_inner {
            true => count(&flat.f_narrow(0, 1, inner_height)?.f_narrow(1, 1, inner_width)?)?,
            false => 0,
        };
        let edge = height * width - if has_inner { inner_height * inner_width } else { 0 };
        let share = |some: i64, of: i64| some as f64 / of.max(1) as f64;
        Ok(Self { covered: share(all, height * width), border: share(all - inner, edge) })
    }
}

/// The two masks `[c, h, w]` that have most in common, with the IoU of their unions over channels; `None` of fewer than
/// two. Two that are empty have nothing in common.
pub fn most_alike(masks: &[Tensor]) -> Result<Option<(usize, usize, f64)>> {
    let flat = masks.iter().map(|mask| Ok(mask.f_any_dim(0, false)?.f_flatten(0, -1)?)).collect::<Result<Vec<_>>>()?;
    if flat.len() < 2 {
        return Ok(None);
    }
    let flat = Tensor::f_stack(&flat, 0)?.f_to_kind(Kind::Float)?;
    let shared = flat.f_matmul(&flat.f_transpose(0, 1)?)?;
    let areas = shared.f_diagonal(0, 0, 1)?;
    let either = areas.f_unsqueeze(0)?.f_add(&areas.f_unsqueeze(1)?)?.f_sub(&shared)?;
    let pairs = shared.f_div(&either.f_clamp_min(1.0)?)?.f_triu(1)?;
    let at = pairs.f_argmax(None, false)?.f_int64_value(&[])?;
    let (a, b) = (at / masks.len() as i64, at % masks.len() as i64);
    Ok(Some((a as usize, b as usize, pairs.f_double_value(&[a, b])?)))
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    #[test]
    fn the_threshold_counts_standard_deviations_of_each_channel() {
        let score = Tensor::from_slice(&[0f32, 0.0, 0.0, 4.0, 10.0, 10.0, 10.0, 10.0]).view([2, 2, 2]);
        // Channel 0: mean 1, deviation 2. Channel 1 is flat: nothing is above its mean.
        let bits = |k: f64| Vec::<bool>::try_from(threshold(&score, k).unwrap().flatten(0, -1)).unwrap();
        assert_eq!(bits(1.4), [false, false, false, true, false, false, false, false]);
        assert_eq!(bits(1.6), [false; 8]);
    }

    #[test]
    fn dilation_grows_by_one_element_in_each_direction_and_blur_keeps_a_flat_score() {
        let mask = Tensor::zeros([1, 5, 5], (Kind::Bool, Device::Cpu));
        let _ = mask.get(0).get(0).get(0).fill_(1);
        assert_eq!(coverage(&dilate(&mask, 1).unwrap()).unwrap(), 4.0 / 25.0);
        assert_eq!(coverage(&dilate(&mask, 2).unwrap()).unwrap(), 9.0 / 25.0);
        assert!(dilate(&mask, 0).unwrap().equal(&mask));
        let flat = Tensor::full([4, 3, 1], 2.0, (Kind::Float, Device::Cpu));
        assert!((blur(&flat, 6.0).unwrap() - flat).abs().max().double_value(&[]) < 1e-6);
    }

    #[test]
    fn the_extent_of_a_mask_is_that_of_its_union_and_tells_the_border_apart() {
        let mask = Tensor::zeros([2, 4, 5], (Kind::Bool, Device::Cpu));
        let _ = mask.get(0).get(1).get(1).fill_(1);
        let _ = mask.get(1).get(1).get(1).fill_(1);
        let _ = mask.get(1).get(0).fill_(1);
        // Six of twenty positions, five of the fourteen at the border.
        assert_eq!(Extent::of(&mask).unwrap(), Extent { covered: 0.3, border: 5.0 / 14.0 });
        let line = Tensor::ones([1, 1, 5], (Kind::Bool, Device::Cpu));
        assert_eq!(Extent::of(&line).unwrap(), Extent { covered: 1.0, border: 1.0 });
    }

    #[test]
    fn the_masks_that_have_most_in_common_are_found_and_empty_ones_have_nothing() {
        let mask = |set: &[i64]| {
            let mask = Tensor::zeros([1, 2, 3], (Kind::Bool, Device::Cpu));
            set.iter().for_each(|at| drop(mask.view([-1]).get(*at).fill_(1)));
            mask
        };
        let masks = [mask(&[0, 1]), mask(&[]), mask(&[3, 4]), mask(&[1, 0, 5]), mask(&[])];
        assert_eq!(most_alike(&masks).unwrap(), Some((0, 3, f64::from(2.0_f32 / 3.0))));
        assert_eq!(most_alike(&[mask(&[]), mask(&[])]).unwrap().map(|(.., alike)| alike), Some(0.0));
        assert_eq!(most_alike(&masks[..1]).unwrap(), None);
    }

    #[test]
    fn a_box_sum_is_less_at_the_edge_because_nothing_is_beyond_it() {
        let flat = Tensor::full([1, 3, 4], 2.0, (Kind::Float, Device::Cpu));
        let sums = Vec::<f32>::try_from(smooth(&flat, Smoothing::BoxSum).unwrap().flatten(0, -1)).unwrap();
        assert_eq!(sums, [8.0, 12.0, 12.0, 8.0, 12.0, 18.0, 18.0, 12.0, 8.0, 12.0, 12.0, 8.0]);
    }
}
