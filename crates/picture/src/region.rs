//! How much of the place was kept: a picture against its reference, outside a region that was given beforehand.
//!
//! Never outside the mask that the picture's own method found: a mask that is wrong and large leaves little to look at,
//! and would score best.

use diorama_core::generator::ReferencePicture;
use diorama_core::id::Sha256Hex;
use diorama_core::outcome::{ErrorCode, TaskError};
use diorama_core::picture::Rgb8;
use image::RgbImage;
use image::imageops::{FilterType, resize};

/// What a picture that equals the reference to the last bit scores.
const MOST: f64 = 100.0;

/// From this value on, of the mean of the three channels, a pixel is white.
const WHITE: u32 = 128;

/// Where the subject may be, as a mask of a reference gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    width: u32,
    height: u32,
    /// Whether each pixel is white: the subject may be there.
    white: Vec<bool>,
    sha256: Sha256Hex,
}

impl Region {
    /// Reads the mask of `reference` that was drawn as `mask`: white where the subject may be.
    ///
    /// # Errors
    /// [`ErrorCode::RegionUnusable`] for a mask of another size than the reference, all white or all black.
    pub fn new(mask: &ReferencePicture, reference: &Rgb8) -> Result<Self, TaskError> {
        let refuse = |message: String| Err(TaskError::permanent(ErrorCode::RegionUnusable, message));
        let (width, height) = (mask.picture.width, mask.picture.height);
        if (width, height) != (reference.width, reference.height) {
            return refuse(format!(
                "the region has {width}x{height} pixels, its reference {}x{}; a region is a mask of the reference, \
                 pixel by pixel",
                reference.width, reference.height
            ));
        }
        let is_white = |pixel: &[u8]| pixel.iter().map(|value| u32::from(*value)).sum::<u32>() >= 3 * WHITE;
        let white: Vec<bool> = mask.picture.data.chunks_exact(3).map(is_white).collect();
        let inside = white.iter().filter(|white| **white).count();
        if inside == white.len() {
            return refuse("the region is all white: it leaves no place that must stay; leave it out".to_owned());
        }
        if inside == 0 {
            return refuse(format!(
                "the region is all black: no pixel reaches {WHITE} of 255, so the subject could be nowhere; draw it \
                 white on black"
            ));
        }
        Ok(Self { width, height, white, sha256: mask.sha256.clone() })
    }

    /// The digest of the mask's encoded bytes.
    pub fn sha256(&self) -> &Sha256Hex {
        &self.sha256
    }

    /// The share of pixels outside, above 0 and below 1.
    pub fn outside(&self) -> f64 {
        self.white.iter().filter(|white| !**white).count() as f64 / self.white.len() as f64
    }

    /// Whether the pixel of a picture of another size lies outside: by the mask's pixel that its centre falls on.
    fn is_outside(&self, x: u32, y: u32, width: u32, height: u32) -> bool {
        let at = |place: u32, of: u32, mine: u32| {
            ((2 * u64::from(place) + 1) * u64::from(mine) / (2 * u64::from(of))) as usize
        };
        !self.white[at(y, height, self.height) * self.width as usize + at(x, width, self.width)]
    }
}

/// The reference at the pictures' size, and the pixels outside the region.
pub struct Outside {
    reference: Vec<u8>,
    width: u32,
    height: u32,
    pixels: Vec<usize>,
}

impl Outside {
    /// For pictures of `width` × `height`; `None` where the region leaves none of their pixels. The reference is resized
    /// with a Lanczos filter, as before generation.
    pub fn new(reference: &Rgb8, region: &Region, width: u32, height: u32) -> Option<Self> {
        let places = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
        let pixels = places.enumerate().filter(|(_, (x, y))| region.is_outside(*x, *y, width, height));
        let pixels: Vec<usize> = pixels.map(|(at, _)| at).collect();
        if pixels.is_empty() {
            return None;
        }
        let data = reference.data.clone();
        let reference = if (reference.width, reference.height) == (width, height) {
            data
        } else {
            let image = RgbImage::from_raw(reference.width, reference.height, data)?;
            resize(&image, width, height, FilterType::Lanczos3).into_raw()
        };
        Some(Self { reference, width, height, pixels })
    }

    /// Peak signal-to-noise ratio in dB, `10·log10(255² / MSE)` with the mean over the pixels outside the region and the
    /// three channels: 0 to 100. `None` for a picture of another size.
    pub fn psnr(&self, picture: &Rgb8) -> Option<f64> {
        if (picture.width, picture.height) != (self.width, self.height) {
            return None;
        }
        let squared = |at: usize| {
            let difference = i64::from(picture.data[at]) - i64::from(self.reference[at]);
            difference * difference
        };
        let sum: i64 = self.pixels.iter().flat_map(|pixel| pixel * 3..pixel * 3 + 3).map(squared).sum();
        let mean = sum as f64 / (3 * self.pixels.len()) as f64;
        Some((10.0 * (255.0 * 255.0 / mean).log10()).clamp(0.0, MOST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(width: u32, height: u32, value: u8) -> Rgb8 {
        Rgb8 { width, height, data: vec![value; (width * height * 3) as usize] }
    }

    fn region(width: u32, values: &[u8], reference: &Rgb8) -> Result<Region, TaskError> {
        let data = values.iter().flat_map(|value| [*value; 3]).collect();
        let picture = Rgb8 { width, height: values.len() as u32 / width, data };
        Region::new(&ReferencePicture { picture, sha256: Sha256Hex::of(values) }, reference)
    }

    #[test]
    fn only_what_is_outside_the_region_counts() {
        let reference = flat(2, 1, 100);
        let region = region(2, &[255, 0], &reference).unwrap();
        assert_eq!(region.outside(), 0.5);
        let mut picture = flat(2, 1, 100);
        picture.data[..3].fill(0);
        let outside = Outside::new(&reference, &region, 2, 1).unwrap();
        assert_eq!(outside.psnr(&picture), Some(MOST));
        // A difference of 10 everywhere: 20·log10(255 / 10).
        picture.data[3..].fill(110);
        assert!((outside.psnr(&picture).unwrap() - 28.1308).abs() < 1e-4);
    }

    #[test]
    fn reference_and_region_are_brought_to_the_pictures_size() {
        // White above, black below, with the grey edges of a JPEG.
        let reference = flat(6, 4, 7);
        let rows: Vec<u8> = [250, 129, 127, 3].iter().flat_map(|value| [*value; 6]).collect();
        let region = region(6, &rows, &reference).unwrap();
        for (width, height) in [(2, 2), (3, 8), (12, 4)] {
            let outside = Outside::new(&reference, &region, width, height).unwrap();
            let below = (width * height / 2) as usize;
            assert_eq!(outside.pixels, (below..2 * below).collect::<Vec<_>>());
            assert_eq!(outside.psnr(&flat(width, height, 7)), Some(MOST));
        }
        assert_eq!(Outside::new(&reference, &region, 2, 2).unwrap().psnr(&flat(4, 4, 7)), None);
    }

    #[test]
    fn nothing_is_said_where_the_region_leaves_no_pixel_of_the_picture() {
        let reference = flat(3, 1, 0);
        let region = region(3, &[0, 255, 0], &reference).unwrap();
        assert!(Outside::new(&reference, &region, 1, 1).is_none());
    }

    #[test]
    fn a_mask_that_is_none_of_the_reference_is_refused_with_what_is_wrong() {
        let reference = flat(2, 2, 0);
        for (width, values, wrong) in [
            (2, [255, 0].as_slice(), "the region has 2x1 pixels, its reference 2x2"),
            (2, &[255; 4], "all white"),
            (2, &[0; 4], "all black"),
            // Ones instead of 255.
            (2, &[1, 0, 0, 1], "all black"),
        ] {
            let error = region(width, values, &reference).unwrap_err();
            assert_eq!((error.code, error.retryable), (ErrorCode::RegionUnusable, false));
            assert!(error.message.contains(wrong), "{error}");
        }
    }
}
