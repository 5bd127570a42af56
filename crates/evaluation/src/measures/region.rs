//! Where the background of a picture is: outside a region that does not depend on the picture's own mask. A measure on
//! the outside of the own mask rewards wrong masks: the larger the mask, the better the figure.

use diorama_core::picture::Gray8;
use tch::{Kind, Tensor};

use crate::error::Result;

/// The outside, as a mask.
#[derive(Debug)]
pub struct Region {
    /// `[h, w]`, float64: 1 outside, 0 where the subject may be.
    pub(super) outside: Tensor,
    /// The share of pixels outside, above 0 and at most 1.
    pub share: f64,
}

/// Why a region cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegionError {
    /// It belongs to another picture.
    #[error(
        "the region has {width}x{height} pixels, the picture {picture_width}x{picture_height}; give it in the picture's size"
    )]
    Size {
        /// Of the region.
        width: u32,
        /// Of the region.
        height: u32,
        /// Of the picture.
        picture_width: u32,
        /// Of the picture.
        picture_height: u32,
    },
    /// Nothing of it is white, though not all of it is black.
    #[error(
        "the region has no value above {0}, and white is 128 to 255: a mask of ones? multiply it by 255, or make it all black \
         where the whole picture is meant"
    )]
    NothingWhite(u8),
    /// There is no outside.
    #[error("the region is all white: it leaves no background to compare")]
    AllWhite,
}

impl Region {
    /// The whole picture, the subject included.
    pub fn whole(width: u32, height: u32) -> Result<Self> {
        let outside = Tensor::f_ones([i64::from(height), i64::from(width)], (Kind::Double, tch::Device::Cpu))?;
        Ok(Self { outside, share: 1.0 })
    }

    /// Outside a mask that is white (128 and above) where the subject may be, for a picture of `size` (width, height).
    pub fn outside_of(mask: &Gray8, size: (u32, u32)) -> Result<Result<Self, RegionError>> {
        if (mask.width, mask.height) != size {
            return Ok(Err(RegionError::Size {
                width: mask.width,
                height: mask.height,
                picture_width: size.0,
                picture_height: size.1,
            }));
        }
        let outside: Vec<f64> = mask.data.iter().map(|value| if *value < 128 { 1.0 } else { 0.0 }).collect();
        let share = outside.iter().sum::<f64>() / outside.len().max(1) as f64;
        if share == 0.0 {
            return Ok(Err(RegionError::AllWhite));
        }
        let highest = mask.data.iter().max().copied().unwrap_or_default();
        if (1..128).contains(&highest) {
            return Ok(Err(RegionError::NothingWhite(highest)));
        }
        let outside = Tensor::f_from_slice(&outside)?.f_view([i64::from(size.1), i64::from(size.0)])?;
        Ok(Ok(Self { outside, share }))
    }

    /// Whether some of the picture may be the subject.
    pub fn has_inside(&self) -> bool {
        self.share < 1.0
    }

    /// The picture with black outside: what PIE-Bench gives to CLIP for the edited part.
    pub fn inside(&self, picture: &Tensor) -> Result<Tensor> {
        Ok(picture.f_mul(&self.outside.f_neg()?.f_add_scalar(1.0)?)?)
    }

    /// The picture with black inside: what PIE-Bench compares.
    pub fn without_inside(&self, picture: &Tensor) -> Result<Tensor> {
        Ok(picture.f_mul(&self.outside)?)
    }
}
