//! How much of the place was kept: a picture against its reference, outside a region that was given beforehand.
//!
//! Never outside the mask that the picture's own method found: a mask that is wrong and large leaves little to look at,
//! and would score best.

use diorama_core::fit::Placement;
use diorama_core::generator::ReferencePicture;
use diorama_core::id::Sha256Hex;
use diorama_core::outcome::{ErrorCode, TaskError};
use diorama_core::picture::{Gray8, Rgb8};

/// What a picture that equals the reference to the last bit scores.
const MOST: f64 = 100.0;

/// From this value on, of the mean of the three channels, a pixel is white.
const WHITE: u32 = 128;

/// Where the subject may be, as a mask of a reference gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// Columns and rows of `white`.
    here: (u32, u32),
    /// Width and height of the reference; of a very large one, `white` is smaller.
    of: (u32, u32),
    /// Whether each pixel is white: the subject may be there.
    white: Vec<bool>,
    sha256: Sha256Hex,
}

impl Region {
    /// Reads the mask of `reference` that was drawn as `mask`: white where the subject may be.
    ///
    /// # Errors
    /// [`ErrorCode::RegionUnusable`] for a mask of another size than the reference, all white or all black.
    pub fn new(mask: &ReferencePicture, reference: &ReferencePicture) -> Result<Self, TaskError> {
        let refuse = |message: String| Err(TaskError::permanent(ErrorCode::RegionUnusable, message));
        if (mask.width, mask.height) != (reference.width, reference.height) {
            return refuse(format!(
                "the region has {}x{} pixels, its reference {}x{}; a region is a mask of the reference, pixel by pixel",
                mask.width, mask.height, reference.width, reference.height
            ));
        }
        let is_white = |pixel: &[u8]| pixel.iter().map(|value| u32::from(*value)).sum::<u32>() >= 3 * WHITE;
        let white: Vec<bool> = mask.picture.data.chunks_exact(3).map(is_white).collect();
        let inside = white.iter().filter(|white| **white).count();
        if inside == white.len() {
            return refuse("the region is all white: it leaves no place to preserve; remove it".to_owned());
        }
        if inside == 0 {
            return refuse(format!(
                "the region is all black: no pixel reaches {WHITE} of 255, so the subject could be nowhere; draw it \
                 white on black"
            ));
        }
        Ok(Self {
            here: (mask.picture.width, mask.picture.height),
            of: (mask.width, mask.height),
            white,
            sha256: mask.sha256.clone(),
        })
    }

    /// The digest of the mask's encoded bytes.
    pub fn sha256(&self) -> &Sha256Hex {
        &self.sha256
    }

    /// The share of pixels outside, above 0 and below 1.
    pub fn outside(&self) -> f64 {
        self.white.iter().filter(|white| !**white).count() as f64 / self.white.len() as f64
    }

    /// The region in the pixels of a picture: 255 where the subject may be, and where the picture shows nothing of the
    /// reference; 0 at the place that must stay.
    pub fn mask(&self, used: &Placement) -> Gray8 {
        let (width, height) = (used.width, used.height);
        let places = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
        let data = places.map(|(x, y)| if self.is_outside(x, y, used) { 0 } else { 255 }).collect();
        Gray8 { width, height, data }
    }

    /// Whether the pixel of a picture shows the reference outside the region: by the mask's pixel that its centre falls on.
    /// Where the reference was extended beyond its edges, it shows nothing of it.
    fn is_outside(&self, x: u32, y: u32, used: &Placement) -> bool {
        used.pixel((x, y), self.of, self.here).is_some_and(|at| !self.white[at])
    }
}

/// A reference as it was used, and the pixels of it that are outside the region.
pub struct Outside {
    reference: Vec<u8>,
    width: u32,
    height: u32,
    pixels: Vec<usize>,
}

impl Outside {
    /// `reference` is what was used of it, at the pictures' size; `used` says which part that was. `None` where the region
    /// leaves none of its pixels.
    pub fn new(reference: &Rgb8, region: &Region, used: &Placement) -> Option<Self> {
        let (width, height) = (reference.width, reference.height);
        if (used.width, used.height) != (width, height) {
            return None;
        }
        let places = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
        let pixels = places.enumerate().filter(|(_, (x, y))| region.is_outside(*x, *y, used));
        let pixels: Vec<usize> = pixels.map(|(at, _)| at).collect();
        (!pixels.is_empty()).then(|| Self { reference: reference.data.clone(), width, height, pixels })
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
    use diorama_core::settings::Fit;

    use super::*;

    fn flat(width: u32, height: u32, value: u8) -> Rgb8 {
        Rgb8 { width, height, data: vec![value; (width * height * 3) as usize] }
    }

    fn reference(width: u32, height: u32) -> ReferencePicture {
        ReferencePicture { picture: flat(width, height, 7), width, height, sha256: Sha256Hex::of(b"") }
    }

    fn region(width: u32, values: &[u8], reference: &ReferencePicture) -> Result<Region, TaskError> {
        let data = values.iter().flat_map(|value| [*value; 3]).collect();
        let height = values.len() as u32 / width;
        let picture = Rgb8 { width, height, data };
        Region::new(&ReferencePicture { picture, width, height, sha256: Sha256Hex::of(values) }, reference)
    }

    /// The pixels outside the region of a picture of `size` that starts from such a reference.
    fn outside(fit: Fit, of: (u32, u32), region: &Region, size: (u32, u32)) -> Option<Outside> {
        Outside::new(&flat(size.0, size.1, 100), region, &fit.place(of, size))
    }

    #[test]
    fn only_what_is_outside_the_region_counts() {
        let region = region(2, &[255, 0], &reference(2, 1)).unwrap();
        assert_eq!(region.outside(), 0.5);
        let mut picture = flat(2, 1, 100);
        picture.data[..3].fill(0);
        let outside = outside(Fit::Crop, (2, 1), &region, (2, 1)).unwrap();
        assert_eq!(outside.psnr(&picture), Some(MOST));
        // A difference of 10 everywhere: 20·log10(255 / 10).
        picture.data[3..].fill(110);
        assert!((outside.psnr(&picture).unwrap() - 28.1308).abs() < 1e-4);
        assert_eq!(outside.psnr(&flat(4, 4, 7)), None);
    }

    #[test]
    fn the_region_is_brought_to_the_pictures_size() {
        // White above, black below, with the grey edges of a JPEG.
        let rows: Vec<u8> = [250, 129, 127, 3].iter().flat_map(|value| [*value; 6]).collect();
        let region = region(6, &rows, &reference(6, 4)).unwrap();
        for (width, height) in [(2, 2), (3, 8), (12, 4)] {
            let below = (width * height / 2) as usize;
            let outside = outside(Fit::Stretch, (6, 4), &region, (width, height)).unwrap();
            assert_eq!(outside.pixels, (below..2 * below).collect::<Vec<_>>());
            let mask = region.mask(&Fit::Stretch.place((6, 4), (width, height)));
            assert_eq!(mask.data, [vec![255; below], vec![0; below]].concat());
        }
    }

    #[test]
    fn the_region_is_cropped_and_padded_as_its_reference_is() {
        // Six columns of two rows: black, black, white, white, white, black.
        let columns = [0, 0, 255, 255, 255, 0];
        let region = region(6, &columns.repeat(2), &reference(6, 2)).unwrap();
        // Of a square picture the two columns in the middle are there, which are white.
        assert!(outside(Fit::Crop, (6, 2), &region, (2, 2)).is_none());
        // All columns in two rows in the middle; what was made up above and below shows nothing of the place.
        let padded = outside(Fit::Pad, (6, 2), &region, (6, 6)).unwrap();
        assert_eq!(padded.pixels, [12, 13, 17, 18, 19, 23]);
    }

    #[test]
    fn a_mask_of_a_very_large_reference_may_have_fewer_pixels_than_it() {
        let of = ReferencePicture { width: 4000, height: 2000, ..reference(2, 1) };
        let picture = Rgb8 { width: 2, height: 1, data: vec![255, 255, 255, 0, 0, 0] };
        let mask = ReferencePicture { picture, width: 4000, height: 2000, sha256: Sha256Hex::of(b"m") };
        let region = Region::new(&mask, &of).unwrap();
        let outside = outside(Fit::Stretch, (4000, 2000), &region, (4, 2)).unwrap();
        assert_eq!(outside.pixels, [2, 3, 6, 7]);
    }

    #[test]
    fn a_mask_that_is_none_of_the_reference_is_refused_with_what_is_wrong() {
        for (width, values, wrong) in [
            (2, [255, 0].as_slice(), "the region has 2x1 pixels, its reference 2x2"),
            (2, &[255; 4], "all white"),
            (2, &[0; 4], "all black"),
            // Ones instead of 255.
            (2, &[1, 0, 0, 1], "all black"),
        ] {
            let error = region(width, values, &reference(2, 2)).unwrap_err();
            assert_eq!((error.code, error.retryable), (ErrorCode::RegionUnusable, false));
            assert!(error.message.contains(wrong), "{error}");
        }
    }
}
