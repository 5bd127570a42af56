//! References as pages show them: the part that was used, in the shape that it was given.

use diorama_core::fit::Placement;
use diorama_core::generator::ReferencePicture;
use diorama_core::picture::Rgb8;
use image::RgbImage;
use image::imageops::{FilterType, resize};

/// Pixels of the longest side that a picture has.
const MOST: u32 = 4096;

/// The reference as a picture used it, in the picture's shape, its longer side at most `side` pixels; `None` where a
/// record's placement names no pixel.
pub fn as_used(reference: &ReferencePicture, used: &Placement, side: u32) -> Option<Rgb8> {
    if [used.width, used.height, used.at.width, used.at.height].contains(&0) || used.width.max(used.height) > MOST {
        return None;
    }
    let here = (reference.picture.width, reference.picture.height);
    let part = used.crop.scaled((reference.width, reference.height), here);
    let most = part.width.max(part.height).max(used.width.max(used.height)).min(side.max(1));
    let by = f64::from(most) / f64::from(used.width.max(used.height));
    let shown = |side: u32| ((f64::from(side) * by).round() as u32).max(1);
    let (width, height) = (shown(used.width), shown(used.height));
    let at = used.at.scaled((used.width, used.height), (width, height));
    let smaller = |part: Rgb8, width, height| {
        let part = RgbImage::from_raw(part.width, part.height, part.data).ok_or(())?;
        Ok::<_, ()>(Rgb8 { width, height, data: resize(&part, width, height, FilterType::Triangle).into_raw() })
    };
    reference.as_used(&Placement { at, width, height, ..*used }, smaller).ok()
}

#[cfg(test)]
mod tests {
    use diorama_core::id::Sha256Hex;
    use diorama_core::settings::Fit;

    use super::*;

    /// Red on the left, blue on the right, a green square in the middle.
    fn reference(width: u32, height: u32) -> ReferencePicture {
        let colour = |x: u32| if x.abs_diff(width / 2) < height / 2 { [0, 200, 0] } else { [200, 0, 0] };
        let data = (0..height).flat_map(|_| (0..width).flat_map(colour)).collect();
        ReferencePicture { picture: Rgb8 { width, height, data }, width, height, sha256: Sha256Hex::of(b"") }
    }

    #[test]
    fn a_page_shows_what_was_used_in_the_pictures_shape() {
        let wide = reference(120, 40);
        let green = |picture: &Rgb8| picture.data.chunks(3).filter(|pixel| pixel[1] > 150).count();
        let cropped = as_used(&wide, &Fit::Crop.place((120, 40), (64, 64)), 512).unwrap();
        assert_eq!((cropped.width, cropped.height, green(&cropped) > 60 * 64), (64, 64, true));
        let padded = as_used(&wide, &Fit::Pad.place((120, 40), (64, 64)), 512).unwrap();
        assert_eq!((padded.width, padded.height), (120, 120));
        assert_eq!(padded.data[..3], [200, 0, 0], "the edge goes on");
        let stretched = as_used(&wide, &Fit::Stretch.place((120, 40), (64, 64)), 32).unwrap();
        assert_eq!((stretched.width, stretched.height), (32, 32));
        let damaged = Placement { width: 0, ..Fit::Crop.place((120, 40), (64, 64)) };
        assert!(as_used(&wide, &damaged, 512).is_none());
    }
}
