//! How much of the place was kept: a picture against its reference, outside the mask.

use diorama_core::picture::{Gray8, Rgb8};
use image::RgbImage;
use image::imageops::{FilterType, resize};

/// What a background that is the same to the last bit scores.
const MOST: f64 = 100.0;

/// The reference at the pictures' size, and where to look.
pub struct Background {
    reference: Vec<u8>,
    width: u32,
    height: u32,
    /// Pixels outside the mask.
    outside: Vec<usize>,
}

impl Background {
    /// `None` where the mask leaves nothing to look at. The reference is resized with a Lanczos filter, as before
    /// generation.
    pub fn new(reference: &Rgb8, mask: &Gray8) -> Option<Self> {
        let (width, height) = (mask.width, mask.height);
        let outside: Vec<usize> = (0..mask.data.len()).filter(|at| mask.data[*at] == 0).collect();
        if outside.is_empty() {
            return None;
        }
        let pixels = reference.data.clone();
        let reference = if (reference.width, reference.height) == (width, height) {
            pixels
        } else {
            let image = RgbImage::from_raw(reference.width, reference.height, pixels)?;
            resize(&image, width, height, FilterType::Lanczos3).into_raw()
        };
        Some(Self { reference, width, height, outside })
    }

    /// Peak signal-to-noise ratio in dB, `10·log10(255² / MSE)` with the mean over the pixels outside the mask and the
    /// three channels: 0 to 100. `None` for a picture of another size.
    pub fn psnr(&self, picture: &Rgb8) -> Option<f64> {
        if (picture.width, picture.height) != (self.width, self.height) {
            return None;
        }
        let squared = |at: usize| {
            let difference = i64::from(picture.data[at]) - i64::from(self.reference[at]);
            difference * difference
        };
        let sum: i64 = self.outside.iter().flat_map(|pixel| pixel * 3..pixel * 3 + 3).map(squared).sum();
        let mean = sum as f64 / (3 * self.outside.len()) as f64;
        Some((10.0 * (255.0 * 255.0 / mean).log10()).clamp(0.0, MOST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(width: u32, height: u32, value: u8) -> Rgb8 {
        Rgb8 { width, height, data: vec![value; (width * height * 3) as usize] }
    }

    #[test]
    fn only_what_is_outside_the_mask_counts() {
        let mask = Gray8 { width: 2, height: 1, data: vec![255, 0] };
        let mut picture = flat(2, 1, 100);
        picture.data[..3].fill(0);
        let background = Background::new(&flat(2, 1, 100), &mask).unwrap();
        assert_eq!(background.psnr(&picture), Some(MOST));
        // A difference of 10 everywhere: 20·log10(255 / 10).
        picture.data[3..].fill(110);
        assert!((background.psnr(&picture).unwrap() - 28.1308).abs() < 1e-4);
    }

    #[test]
    fn a_larger_reference_is_brought_to_the_pictures_size() {
        let mask = Gray8 { width: 2, height: 2, data: vec![0; 4] };
        assert_eq!(Background::new(&flat(64, 48, 7), &mask).unwrap().psnr(&flat(2, 2, 7)), Some(MOST));
    }

    #[test]
    fn nothing_is_said_where_there_is_nothing_to_compare() {
        let full = Gray8 { width: 1, height: 1, data: vec![255] };
        assert!(Background::new(&flat(1, 1, 0), &full).is_none());
        let empty = Gray8 { width: 1, height: 1, data: vec![0] };
        assert_eq!(Background::new(&flat(1, 1, 0), &empty).unwrap().psnr(&flat(2, 2, 0)), None);
    }
}
