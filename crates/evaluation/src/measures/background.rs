//! How much of the place was kept: a picture against its reference, as means over the outside of a region, and as
//! PIE-Bench has it (Ju et al. 2023, `evaluation/matrics_calculator.py`): the inside black in both, means over the whole.

use tch::{Kind, Tensor};

use super::Region;
use crate::error::Result;

/// What a background that is the same to the last bit scores, in dB.
const MOST: f64 = 100.0;
/// SSIM's window (Wang et al. 2004): 11 × 11, Gaussian with this deviation in pixels.
const WINDOW: i64 = 11;
const SIGMA: f64 = 1.5;

/// Three comparisons with the reference.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Background {
    /// Mean squared difference of values in [0, 1].
    pub mse: f64,
    /// `10·log10(1 / mse)` in dB, at most 100.
    pub psnr: f64,
    /// Mean structural similarity of windows, -1 to 1; `None` where there is none to look at.
    pub ssim: Option<f64>,
}

/// Over the outside of `region` alone.
///
/// # Errors
/// libtorch's, where the three differ in size.
pub fn background(picture: &Tensor, reference: &Tensor, region: &Region) -> Result<Background> {
    let pixels = region.outside.f_sum(Kind::Double)?.f_double_value(&[])?;
    let squared = squared(picture, reference)?.f_mul(&region.outside)?;
    let mse = squared.f_sum(Kind::Double)?.f_double_value(&[])? / (3.0 * pixels);
    Ok(Background { mse, psnr: psnr(mse), ssim: ssim(picture, reference, &region.outside)? })
}

/// Over the whole picture with the inside of `region` black in both. Always closer to the reference than [`background`]:
/// its PSNR lies `-10·log10(outside share)` above. Never to be mixed.
///
/// # Errors
/// libtorch's, where the three differ in size.
pub fn zero_filled(picture: &Tensor, reference: &Tensor, region: &Region) -> Result<Background> {
    let (picture, reference) = (region.without_inside(picture)?, region.without_inside(reference)?);
    let mse = squared(&picture, &reference)?.f_mean(Kind::Double)?.f_double_value(&[])?;
    let ssim = match similarity(&picture, &reference, true)? {
        Some(map) => Some(map.f_mean(Kind::Double)?.f_double_value(&[])?),
        None => None,
    };
    Ok(Background { mse, psnr: psnr(mse), ssim })
}

fn squared(picture: &Tensor, reference: &Tensor) -> Result<Tensor> {
    Ok(picture.f_sub(reference)?.f_div_scalar(255.0)?.f_square()?)
}

fn psnr(mse: f64) -> f64 {
    (-10.0 * mse.log10()).clamp(0.0, MOST)
}

/// The mean over the windows that lie wholly inside the picture and outside the region (Wang et al. 2004).
fn ssim(picture: &Tensor, reference: &Tensor, outside: &Tensor) -> Result<Option<f64>> {
    let Some(map) = similarity(picture, reference, false)? else { return Ok(None) };
    let inside = outside.f_neg()?.f_add_scalar(1.0)?.f_unsqueeze(0)?.f_unsqueeze(0)?;
    let touched = inside.f_max_pool2d([WINDOW, WINDOW], [1, 1], [0, 0], [1, 1], false)?;
    let clear = touched.f_neg()?.f_add_scalar(1.0)?;
    let windows = clear.f_sum(Kind::Double)?.f_double_value(&[])?;
    if windows == 0.0 {
        return Ok(None);
    }
    Ok(Some(map.f_mul(&clear)?.f_sum(Kind::Double)?.f_double_value(&[])? / (3.0 * windows)))
}

/// The similarity of each window, `[3, 1, h', w']`: of those inside the picture, or, `reflected` at its borders, of one
/// around each pixel, as torchmetrics has it. `None` of a picture smaller than a window.
fn similarity(picture: &Tensor, reference: &Tensor, reflected: bool) -> Result<Option<Tensor>> {
    let (_, height, width) = picture.size3()?;
    if height < WINDOW || width < WINDOW {
        return Ok(None);
    }
    let border = if reflected { WINDOW / 2 } else { 0 };
    let unit = |x: &Tensor| -> Result<Tensor> {
        Ok(x.f_div_scalar(255.0)?.f_unsqueeze(1)?.f_reflection_pad2d([border, border, border, border])?)
    };
    let (x, y) = (unit(picture)?, unit(reference)?);
    let maps = Tensor::f_cat(&[&x, &y, &x.f_square()?, &y.f_square()?, &x.f_mul(&y)?], 0)?;
    let blurred = blur(&maps)?.f_chunk(5, 0)?;
    let [mean_x, mean_y, xx, yy, xy] = &blurred[..] else { return Ok(None) };
    let (both, mean_xx, mean_yy) = (mean_x.f_mul(mean_y)?, mean_x.f_square()?, mean_y.f_square()?);
    let (c1, c2) = (0.01_f64.powi(2), 0.03_f64.powi(2));
    let covariance = xy.f_sub(&both)?.f_mul_scalar(2.0)?.f_add_scalar(c2)?;
    // A variance is never below 0, rounding or not.
    let variances = xx.f_sub(&mean_xx)?.f_clamp_min(0.0)?.f_add(&yy.f_sub(&mean_yy)?.f_clamp_min(0.0)?)?;
    let above = both.f_mul_scalar(2.0)?.f_add_scalar(c1)?.f_mul(&covariance)?;
    let below = mean_xx.f_add(&mean_yy)?.f_add_scalar(c1)?.f_mul(&variances.f_add_scalar(c2)?)?;
    Ok(Some(above.f_div(&below)?))
}

/// `[n, 1, h, w]` through the Gaussian window, rows and columns apart; only whole windows.
fn blur(maps: &Tensor) -> Result<Tensor> {
    let raw: Vec<f64> =
        (0..WINDOW).map(|at| (-((at - WINDOW / 2) as f64).powi(2) / (2.0 * SIGMA * SIGMA)).exp()).collect();
    let total: f64 = raw.iter().sum();
    let line: Vec<f64> = raw.iter().map(|weight| weight / total).collect();
    let line = Tensor::f_from_slice(&line)?;
    let rows = maps.f_conv2d::<Tensor>(&line.f_view([1, 1, 1, WINDOW])?, None, [1, 1], [0, 0], [1, 1], 1)?;
    Ok(rows.f_conv2d::<Tensor>(&line.f_view([1, 1, WINDOW, 1])?, None, [1, 1], [0, 0], [1, 1], 1)?)
}

#[cfg(test)]
mod tests {
    use diorama_core::picture::{Gray8, Rgb8};

    use super::*;
    use crate::measures::tensor;

    fn flat(side: u32, value: u8) -> Tensor {
        tensor(&Rgb8 { width: side, height: side, data: vec![value; (side * side * 3) as usize] }).unwrap()
    }

    /// White in the left `columns`.
    fn region(side: u32, columns: u32) -> Region {
        let data = (0..side * side).map(|at| if at % side < columns { 255 } else { 0 }).collect();
        Region::outside_of(&Gray8 { width: side, height: side, data }, (side, side)).unwrap().unwrap()
    }

    #[test]
    fn only_what_is_outside_the_region_counts() {
        let (reference, picture) = (flat(32, 100), flat(32, 100));
        let _ = picture.narrow(2, 0, 8).fill_(0.0);
        let same = background(&picture, &reference, &region(32, 8)).unwrap();
        assert_eq!((same.psnr, same.ssim), (MOST, Some(1.0)));
        let all = background(&picture, &reference, &Region::whole(32, 32).unwrap()).unwrap();
        assert!(all.psnr < 20.0 && all.ssim.unwrap() < 0.9, "{all:?}");
    }

    #[test]
    fn pie_benchs_psnr_lies_above_ours_by_the_outside_share() {
        let (reference, picture) = (flat(32, 100), flat(32, 110));
        let region = region(32, 24);
        let (ours, theirs) =
            (background(&picture, &reference, &region).unwrap(), zero_filled(&picture, &reference, &region).unwrap());
        // A difference of 10 everywhere: 20·log10(255 / 10).
        assert!((ours.psnr - 28.1308).abs() < 1e-4, "{ours:?}");
        assert!((theirs.psnr - ours.psnr + 10.0 * region.share.log10()).abs() < 1e-9, "{theirs:?}");
    }

    #[test]
    fn a_region_of_another_size_or_all_white_is_refused_and_all_black_is_the_whole_picture() {
        let gray =
            |side: u32, value: u8| Gray8 { width: side, height: side, data: vec![value; (side * side) as usize] };
        let refused = |mask: &Gray8| Region::outside_of(mask, (16, 16)).unwrap().unwrap_err().to_string();
        assert!(refused(&gray(8, 0)).contains("has 8x8 pixels, the picture 16x16"));
        assert!(refused(&gray(16, 255)).contains("all white"));
        let black = Region::outside_of(&gray(16, 0), (16, 16)).unwrap().unwrap();
        assert!(!black.has_inside() && black.share == 1.0);
    }

    #[test]
    fn a_picture_smaller_than_the_window_has_no_ssim_and_no_error() {
        let small = background(&flat(8, 1), &flat(8, 2), &Region::whole(8, 8).unwrap()).unwrap();
        assert_eq!(small.ssim, None);
    }
}
