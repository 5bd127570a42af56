//! Measures of one picture that need no network. Tensors are `[3, h, w]`, float64, in [0, 255], on the CPU.

mod background;
mod light;
mod phash;
mod region;

pub use background::{Background, background, zero_filled};
pub use light::{Light, light};
pub use phash::phash;
pub use region::{Region, RegionError};

use diorama_core::picture::Rgb8;
use tch::{Kind, Tensor};

use crate::error::Result;

/// A picture as numbers.
///
/// # Errors
/// libtorch's, where size and data do not belong together.
pub fn tensor(picture: &Rgb8) -> Result<Tensor> {
    let (height, width) = (i64::from(picture.height), i64::from(picture.width));
    let bytes = Tensor::f_from_slice(&picture.data)?.f_view([height, width, 3])?;
    Ok(bytes.f_permute([2, 0, 1])?.f_contiguous()?.f_to_kind(Kind::Double)?)
}
