//! Small pictures of large ones, for pages.

use diorama_core::outcome::{ErrorCode, TaskError};
use image::RgbImage;
use image::codecs::jpeg::JpegEncoder;

use crate::codec::decode;
use crate::limits::PictureLimits;

/// JPEG's scale of 1 to 100: at this, a mask's edges are still sharp.
const QUALITY: u8 = 88;

/// How high a thumbnail may be, in widths.
const HIGHEST: f64 = 4.0;

/// A picture that is at most `width` pixels wide and four times as high, its proportions kept, as JPEG. A smaller one keeps
/// its size.
///
/// # Errors
/// Those of [`decode`].
pub fn thumbnail(bytes: &[u8], width: u32, limits: &PictureLimits) -> Result<Vec<u8>, TaskError> {
    let picture = decode(bytes, limits)?;
    // A decoded picture has as many bytes as its size says.
    let picture = RgbImage::from_raw(picture.width, picture.height, picture.data).unwrap_or_default();
    let (width, height) = fit(picture.width(), picture.height(), width.max(1));
    let small = match (width, height) == picture.dimensions() {
        true => picture,
        false => image::imageops::thumbnail(&picture, width, height),
    };
    let mut encoded = Vec::new();
    JpegEncoder::new_with_quality(&mut encoded, QUALITY).encode_image(&small).map_err(|error| {
        let message = format!("cannot be shown smaller: {error}");
        TaskError::permanent(ErrorCode::ReferenceUndecodable, message)
    })?;
    Ok(encoded)
}

/// The size of a picture that is at most `most` wide, and not much higher; never larger than it was.
fn fit(width: u32, height: u32, most: u32) -> (u32, u32) {
    let shrunk = |side: u32, by: f64| ((f64::from(side) * by) as u32).max(1);
    let by = (f64::from(most) / f64::from(width)).min(f64::from(most) * HIGHEST / f64::from(height)).min(1.0);
    (shrunk(width, by), shrunk(height, by))
}

#[cfg(test)]
mod tests {
    use diorama_core::picture::Rgb8;

    use super::*;
    use crate::encode_rgb;

    #[test]
    fn a_thumbnail_is_as_wide_as_was_asked_and_keeps_its_proportions() {
        let picture = |width: u32, height: u32| {
            let data = (0..width * height).flat_map(|n| [(n % width * 255 / width) as u8, 128, 30]).collect();
            encode_rgb(&Rgb8 { width, height, data }).unwrap()
        };
        let size = |width: u32, height: u32, asked: u32| {
            let small = thumbnail(&picture(width, height), asked, &PictureLimits::default()).unwrap();
            let small = decode(&small, &PictureLimits::default()).unwrap();
            (small.width, small.height)
        };
        assert_eq!(size(512, 256, 128), (128, 64));
        assert_eq!(size(64, 64, 256), (64, 64), "it is never made larger");
        assert_eq!(size(300, 1, 100), (100, 1));
        assert_eq!(size(1, 70_000, 64), (1, 256), "no JPEG is as high as that");
        assert_eq!(size(20, 1000, 64), (5, 256));
        assert_eq!(size(10, 10, 0), (1, 1));
        let small = thumbnail(&picture(512, 512), 128, &PictureLimits::default()).unwrap();
        let small = decode(&small, &PictureLimits::default()).unwrap();
        let red = |x: usize| i32::from(small.data[(64 * 128 + x) * 3]);
        assert!((red(32) - 64).abs() < 8 && (red(96) - 191).abs() < 8, "{} {}", red(32), red(96));
        thumbnail(b"no picture", 128, &PictureLimits::default()).unwrap_err();
    }
}
