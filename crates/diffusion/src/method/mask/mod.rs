//! From scores to masks: smoothing, threshold, dilation. Scores `[R, 4, h, w]` float32, masks `[R, 4, h, w]` bool; each
//! row in its own way, each latent channel by itself. Nothing is read from the device.

use tch::{Device, Kind, Tensor};

use super::settings::{Settings, Smoothing};
use crate::error::Result;

/// How the scores of R rows become masks, on the device, so that no edit step has to bring it there.
pub struct Masking {
    /// Of the smoothing, `[R, 1, 3, 3]`.
    kernels: Tensor,
    /// Whether a score counts as zero beyond the edge rather than as reflected, `[R, 1, 1, 1]`.
    zero_beyond: Tensor,
    /// k in `score > mean + k·std`, `[R, 1, 1, 1]`.
    threshold: Tensor,
    /// Dilations, `[R, 1, 1, 1]`, and the most of them.
    dilation: Tensor,
    most_dilations: u32,
}

impl Masking {
    /// As the settings of each row say.
    pub fn new(rows: &[&Settings], device: Device) -> Result<Self> {
        let column = |x: Tensor| -> Result<Tensor> { Ok(x.f_view([-1, 1, 1, 1])?.f_to_device(device)?) };
        let each = |of_row: &dyn Fn(&Settings) -> f32| {
            column(Tensor::f_from_slice(&rows.iter().map(|row| of_row(row)).collect::<Vec<_>>())?)
        };
        let kernels: Vec<f32> = rows.iter().flat_map(|row| kernel(row.smoothing)).collect();
        let dilations: Vec<i64> = rows.iter().map(|row| i64::from(row.dilation)).collect();
        Ok(Self {
            kernels: Tensor::f_from_slice(&kernels)?.f_view([-1, 1, 3, 3])?.f_to_device(device)?,
            zero_beyond: each(&|row| f32::from(u8::from(row.smoothing == Smoothing::BoxSum)))?.f_to_kind(Kind::Bool)?,
            threshold: each(&|row| row.threshold as f32)?,
            dilation: column(Tensor::f_from_slice(&dilations)?)?,
            most_dilations: rows.iter().map(|row| row.dilation).max().unwrap_or(0),
        })
    }

    /// Of `count` rows from `first` on.
    pub fn rows(&self, first: i64, count: i64) -> Result<Self> {
        let part = |x: &Tensor| x.f_narrow(0, first, count);
        Ok(Self {
            kernels: part(&self.kernels)?,
            zero_beyond: part(&self.zero_beyond)?,
            threshold: part(&self.threshold)?,
            dilation: part(&self.dilation)?,
            most_dilations: self.most_dilations,
        })
    }

    /// The masks of these scores.
    pub fn masks(&self, scores: &Tensor) -> Result<Tensor> {
        self.dilate(&self.threshold(&self.smooth(scores)?)?)
    }

    /// The scores as they are thresholded.
    fn smooth(&self, scores: &Tensor) -> Result<Tensor> {
        let (rows, channels, height, width) = scores.size4()?;
        // Reflection needs a second element to reflect; a single row or column is repeated.
        let reflected = if height > 1 && width > 1 {
            scores.f_reflection_pad2d([1, 1, 1, 1])?
        } else {
            scores.f_replication_pad2d([1, 1, 1, 1])?
        };
        let padded = scores.f_constant_pad_nd([1, 1, 1, 1])?.f_where_self(&self.zero_beyond, &reflected)?;
        let padded = padded.f_view([1, rows * channels, height + 2, width + 2])?;
        let kernels = self.kernels.f_expand([rows, channels, 3, 3], false)?.f_reshape([rows * channels, 1, 3, 3])?;
        let smooth = padded.f_conv2d(&kernels, None::<&Tensor>, [1, 1], [0, 0], [1, 1], rows * channels)?;
        Ok(smooth.f_view([rows, channels, height, width])?)
    }

    /// `score > mean + k·std` over the positions of each channel; the deviation with n − 1.
    fn threshold(&self, scores: &Tensor) -> Result<Tensor> {
        let positions = [2i64, 3].as_slice();
        let mean = scores.f_mean_dim(positions, true, Kind::Float)?;
        let std = scores.f_std_dim(positions, true, true)?;
        Ok(scores.f_gt_tensor(&mean.f_add(&std.f_mul(&self.threshold)?)?)?)
    }

    /// Dilation by a 3×3 square, as often as each row says.
    fn dilate(&self, masks: &Tensor) -> Result<Tensor> {
        let mut grown = masks.f_to_kind(Kind::Float)?;
        for time in 1..=i64::from(self.most_dilations) {
            let more = grown.f_max_pool2d([3, 3], [1, 1], [1, 1], [1, 1], false)?;
            grown = more.f_where_self(&self.dilation.f_ge(time)?, &grown)?;
        }
        Ok(grown.f_to_kind(Kind::Bool)?)
    }
}

/// The weights of a 3×3 neighbourhood, row by row: a Gaussian of sigma latent elements, as torchvision's
/// `gaussian_blur` (0 leaves the score as it is), or ones.
fn kernel(smoothing: Smoothing) -> [f32; 9] {
    match smoothing {
        Smoothing::BoxSum => [1.0; 9],
        Smoothing::Gaussian(sigma) if sigma <= 0.0 => std::array::from_fn(|i| if i == 4 { 1.0 } else { 0.0 }),
        Smoothing::Gaussian(sigma) => {
            let side = (-0.5 / (sigma * sigma)).exp();
            let line = [side, 1.0, side].map(|x| (x / (1.0 + 2.0 * side)) as f32);
            std::array::from_fn(|i| line[i / 3] * line[i % 3])
        }
    }
}

/// The share of each row's elements that are set, 0 to 1: `[R]` float64.
pub fn coverage(masks: &Tensor) -> Result<Tensor> {
    Ok(masks.f_mean_dim([1i64, 2, 3].as_slice(), false, Kind::Double)?)
}

#[cfg(test)]
mod tests;
