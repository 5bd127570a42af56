//! Whether there is a picture at all: its brightness, and how much of it there is to see.

use tch::{Kind, Tensor};

use crate::error::Result;

/// Levels of 8 bits below which the brightness hardly varies.
const BLANK: f64 = 2.0;
/// Mean level below which a picture is nearly black: what a safety checker or a NaN leaves.
const NEAR_BLACK: f64 = 8.0;

/// The brightness of a picture (Rec. 601), in 8-bit levels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Light {
    /// Mean, 0 to 255.
    pub mean: f64,
    /// Standard deviation over pixels.
    pub deviation: f64,
}

impl Light {
    /// Why the picture is probably none.
    pub fn note(&self) -> Option<&'static str> {
        match self {
            Self { mean, .. } if *mean < NEAR_BLACK => Some("nearly black"),
            Self { deviation, .. } if *deviation < BLANK => Some("blank: one colour all over"),
            _ => None,
        }
    }
}

/// Measures a picture `[3, h, w]` in [0, 255].
pub fn light(picture: &Tensor) -> Result<Light> {
    let weights = Tensor::f_from_slice(&[0.299, 0.587, 0.114])?.f_view([3, 1, 1])?;
    let brightness = picture.f_mul(&weights)?.f_sum_dim_intlist(&[0_i64][..], false, Kind::Double)?;
    let mean = brightness.f_mean(Kind::Double)?;
    let deviation = brightness.f_sub(&mean)?.f_square()?.f_mean(Kind::Double)?.f_double_value(&[])?.sqrt();
    Ok(Light { mean: mean.f_double_value(&[])?, deviation })
}

#[cfg(test)]
mod tests {
    use diorama_core::picture::Rgb8;

    use super::*;
    use crate::measures::tensor;

    #[test]
    fn black_and_blank_pictures_are_told_from_others() {
        let note = |at: fn(u32) -> u8| {
            let data = (0..16 * 16 * 3).map(at).collect();
            light(&tensor(&Rgb8 { width: 16, height: 16, data }).unwrap()).unwrap().note()
        };
        assert_eq!(note(|_| 3), Some("nearly black"));
        assert_eq!(note(|at| 128 + (at % 2) as u8), Some("blank: one colour all over"));
        assert_eq!(note(|at| (at % 256) as u8), None);
    }
}
