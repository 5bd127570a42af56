//! Resizing of floating point pictures `[b, 3, h, w]`: the ways of TensorFlow 1 and of torch, which differ from each
//! other and from Pillow's by more than the measures do.

use diorama_diffusion::error::Result;
use diorama_diffusion::image_processor::resample::{Filter, matrix};
use tch::{Device, Kind, Tensor};

/// TensorFlow 1's `resize_bilinear` to a square, as FID was defined with: a pixel's corner, not its centre, is its place,
/// and nothing is averaged where a picture shrinks.
pub fn tf1_bilinear(x: &Tensor, side: i64) -> Result<Tensor> {
    let (_, _, height, width) = x.size4()?;
    let rows = tf1_matrix(height, side, x.device())?;
    let columns = tf1_matrix(width, side, x.device())?;
    // Columns first, as TensorFlow does.
    Ok(rows.f_matmul(&x.f_matmul(&columns.f_transpose(0, 1)?)?)?)
}

/// `[to, from]`: two neighbours a row.
fn tf1_matrix(from: i64, to: i64, device: Device) -> Result<Tensor> {
    let (from_size, to_size) = (from as usize, to as usize);
    let scale = (from as f64 / to as f64) as f32;
    let mut matrix = vec![0.0_f32; from_size * to_size];
    for at in 0..to_size {
        let place = at as f32 * scale;
        let low = place as usize;
        let high = (low + 1).min(from_size - 1);
        let share = place - low as f32;
        matrix[at * from_size + low] += 1.0 - share;
        matrix[at * from_size + high] += share;
    }
    Ok(Tensor::f_from_slice(&matrix)?.f_view([to, from])?.f_to_device(device)?)
}

/// torch's bilinear to (`height`, `width`), pixel centres; with `antialias`, averaged where it shrinks, as torchvision's
/// `Resize` does by default, else as OpenCV's `INTER_LINEAR`.
pub fn bilinear(x: &Tensor, (height, width): (i64, i64), antialias: bool) -> Result<Tensor> {
    let size = [height, width];
    Ok(match antialias {
        true => x.f_internal_upsample_bilinear2d_aa(size, false, None, None)?,
        false => x.f_upsample_bilinear2d(size, false, None, None)?,
    })
}

/// Keys' cubic (a = -0.5) in floating point, averaged where it shrinks, of `[3, h, w]` to a square: what JAX's `bicubic`
/// is.
pub(super) fn bicubic(x: &Tensor, side: i64) -> Result<Tensor> {
    let (_, height, width) = x.size3()?;
    let pass = |from: i64| -> Result<Tensor> {
        let values = matrix(from as usize, side as usize, Filter::Bicubic);
        Ok(Tensor::f_from_slice(&values)?.f_view([side, from])?.f_to_device(x.device())?)
    };
    let x = x.f_to_kind(Kind::Double)?;
    Ok(pass(height)?.f_matmul(&x.f_matmul(&pass(width)?.f_transpose(0, 1)?)?)?)
}

/// `[…, 3, h, w]` less the mean, by the deviation of each channel.
pub(super) fn normalized(x: &Tensor, mean: [f64; 3], deviation: [f64; 3]) -> Result<Tensor> {
    let channels = |values: [f64; 3]| -> Result<Tensor> {
        Ok(Tensor::f_from_slice(&values)?.f_view([3, 1, 1])?.f_to_kind(x.kind())?.f_to_device(x.device())?)
    };
    Ok(x.f_sub(&channels(mean)?)?.f_div(&channels(deviation)?)?)
}
