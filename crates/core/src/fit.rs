//! Where a reference of any shape lies in a picture of any other: geometry alone, in whole pixels.

use serde::{Deserialize, Serialize};

use crate::settings::Fit;

/// A rectangle of pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// Pixels left of it.
    pub x: u32,
    /// Rows above it.
    pub y: u32,
    /// Pixels a row, at least 1.
    pub width: u32,
    /// Rows, at least 1.
    pub height: u32,
}

/// How a reference became the picture's size: this part of it was resized to that part of the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The part of the reference that was used, in the reference's pixels, upright.
    pub crop: Region,
    /// The part of the picture that it covers; beyond its edges, they are repeated.
    pub at: Region,
    /// Width of the picture, in pixels.
    pub width: u32,
    /// Height of the picture, in pixels.
    pub height: u32,
}

impl Region {
    /// All of a picture of this size.
    pub fn whole((width, height): (u32, u32)) -> Self {
        Self { x: 0, y: 0, width, height }
    }

    /// The same part of the same picture in another size.
    pub fn scaled(self, from: (u32, u32), to: (u32, u32)) -> Self {
        let along = |first: u32, length: u32, from: u32, to: u32| {
            let edge = |at: u32| (f64::from(at) * f64::from(to) / f64::from(from.max(1))).round() as u32;
            let first_then = edge(first).min(to.saturating_sub(1));
            (first_then, edge(first + length).clamp(first_then + 1, to.max(first_then + 1)) - first_then)
        };
        let (x, width) = along(self.x, self.width, from.0, to.0);
        let (y, height) = along(self.y, self.height, from.1, to.1);
        Self { x, y, width, height }
    }
}

impl Placement {
    /// Whether the picture shows all of a reference of this size in its own shape.
    pub fn keeps_shape(&self, reference: (u32, u32)) -> bool {
        self.width > 0
            && self.height > 0
            && *self == Fit::Crop.place(reference, (self.width, self.height))
            && self.crop == Region::whole(reference)
    }
}

impl Placement {
    /// The pixel of the reference that the centre of a picture's pixel falls on: its index in a copy of `here` (columns, rows)
    /// of a reference of size `of`. `None` where the picture shows nothing of the reference.
    pub fn pixel(&self, (x, y): (u32, u32), of: (u32, u32), here: (u32, u32)) -> Option<usize> {
        let along = |place: u32, at: (u32, u32), crop: (u32, u32), of: u32, here: u32| {
            let place = place.checked_sub(at.0).filter(|place| *place < at.1)?;
            // Where the centre lies in the reference, in units of half a part.
            let centre = (2 * u64::from(place) + 1) * u64::from(crop.1) + 2 * u64::from(crop.0) * u64::from(at.1);
            let pixel = centre * u64::from(here) / (2 * u64::from(at.1) * u64::from(of.max(1)));
            Some(pixel.min(u64::from(here.saturating_sub(1))) as usize)
        };
        let (at, crop) = (&self.at, &self.crop);
        let column = along(x, (at.x, at.width), (crop.x, crop.width), of.0, here.0)?;
        let row = along(y, (at.y, at.height), (crop.y, crop.height), of.1, here.1)?;
        Some(row * here.0 as usize + column)
    }
}

impl Fit {
    /// Where a reference of this size lies in a picture of that size; no side may be 0.
    pub fn place(self, reference: (u32, u32), picture: (u32, u32)) -> Placement {
        let (width, height) = picture;
        let (crop, at) = match self {
            Self::Stretch => (Region::whole(reference), Region::whole(picture)),
            Self::Crop => (centred(reference, picture), Region::whole(picture)),
            Self::Pad => (Region::whole(reference), centred(picture, reference)),
        };
        Placement { crop, at, width, height }
    }
}

/// The largest part in the middle of `outer` that has the shape of `shape`, to the nearest pixel.
fn centred(outer: (u32, u32), shape: (u32, u32)) -> Region {
    let share = |side: u32, of: u32, to: u32| {
        let exact = (u64::from(side) * u64::from(of) * 2 + u64::from(to)) / (2 * u64::from(to.max(1)));
        u32::try_from(exact).unwrap_or(u32::MAX).max(1)
    };
    let is_wider = u64::from(outer.0) * u64::from(shape.1) > u64::from(outer.1) * u64::from(shape.0);
    let (width, height) = match is_wider {
        true => (share(outer.1, shape.0, shape.1).min(outer.0), outer.1),
        false => (outer.0, share(outer.0, shape.1, shape.0).min(outer.1)),
    };
    Region { x: (outer.0 - width) / 2, y: (outer.1 - height) / 2, width, height }
}

/// The size for a picture that follows its reference: that of the reference in multiples of `multiple`, at most `budget`
/// pixels, else smaller in the same shape; no side under `multiple` or over 4096.
pub fn size_like(reference: (u32, u32), multiple: u32, budget: u64) -> (u32, u32) {
    let (width, height) = (f64::from(reference.0), f64::from(reference.1));
    let by = (budget as f64 / (width * height)).sqrt().min(1.0);
    let side = |side: f64| {
        let most = 4096 / multiple.max(1) * multiple;
        // A hair is added, so that what is a multiple exactly stays one.
        (((side * by + 1e-6) as u32) / multiple.max(1) * multiple).clamp(multiple, most)
    };
    (side(width), side(height))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn region(x: u32, y: u32, width: u32, height: u32) -> Region {
        Region { x, y, width, height }
    }

    #[test]
    fn a_photograph_is_cropped_around_its_centre_to_the_shape_of_the_picture() {
        for (reference, picture, crop) in [
            ((1200, 800), (64, 64), region(200, 0, 800, 800)),
            ((800, 1200), (64, 64), region(0, 200, 800, 800)),
            ((1200, 800), (96, 64), region(0, 0, 1200, 800)),
            ((133, 97), (64, 64), region(18, 0, 97, 97)),
            ((700, 9), (64, 64), region(345, 0, 9, 9)),
            ((1, 4000), (4096, 8), region(0, 1999, 1, 1)),
            // A pixel's fraction off the shape is no reason to cut anything.
            ((1000, 667), (768, 512), region(0, 0, 1000, 667)),
        ] {
            let placed = Fit::Crop.place(reference, picture);
            assert_eq!((placed.crop, placed.at), (crop, Region::whole(picture)), "{reference:?} in {picture:?}");
        }
    }

    #[test]
    fn a_square_in_a_square_is_used_whole_however_it_is_fitted() {
        for side in [1, 3, 63, 64, 65, 4000] {
            let whole =
                Placement { crop: Region::whole((side, side)), at: Region::whole((64, 64)), width: 64, height: 64 };
            for fit in [Fit::Crop, Fit::Pad, Fit::Stretch] {
                assert_eq!(fit.place((side, side), (64, 64)), whole, "{fit} {side}");
            }
        }
    }

    #[test]
    fn padding_keeps_all_of_the_reference_and_its_shape() {
        let placed = Fit::Pad.place((1200, 800), (64, 64));
        assert_eq!((placed.crop, placed.at), (Region::whole((1200, 800)), region(0, 10, 64, 43)));
        assert_eq!(Fit::Pad.place((1, 4000), (64, 64)).at, region(31, 0, 1, 64));
    }

    #[test]
    fn whatever_the_sizes_a_placement_lies_within_both() {
        for reference in [(1, 1), (1, 65_535), (65_535, 1), (3, 5), (9999, 10_001)] {
            for picture in [(8, 8), (8, 4096), (4096, 8), (512, 768)] {
                for fit in [Fit::Crop, Fit::Pad, Fit::Stretch] {
                    let Placement { crop, at, .. } = fit.place(reference, picture);
                    for (part, whole) in [(crop, reference), (at, picture)] {
                        assert!(part.width > 0 && part.height > 0, "{fit} {reference:?} {picture:?}");
                        assert!(part.x + part.width <= whole.0 && part.y + part.height <= whole.1, "{part:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_part_is_the_same_part_of_a_smaller_copy() {
        assert_eq!(region(200, 0, 800, 800).scaled((1200, 800), (600, 400)), region(100, 0, 400, 400));
        assert_eq!(region(0, 0, 7, 9).scaled((7, 9), (7, 9)), region(0, 0, 7, 9));
        let speck = region(9998, 0, 1, 1).scaled((9999, 10), (3, 2));
        assert!(speck.x + speck.width <= 3 && speck.width == 1 && speck.height >= 1, "{speck:?}");
    }

    #[test]
    fn a_size_like_the_references_is_its_own_or_smaller_in_its_shape() {
        let budget = 512 * 768;
        for (reference, size) in [
            ((512, 768), (512, 768)),
            ((6000, 4000), (768, 512)),
            ((500, 301), (496, 296)),
            ((3, 5), (8, 8)),
            ((65_535, 1), (4096, 8)),
        ] {
            assert_eq!(size_like(reference, 8, budget), size, "{reference:?}");
        }
        let (width, height) = size_like((3840, 2160), 8, budget);
        assert!(u64::from(width) * u64::from(height) <= budget && (width, height) == (832, 464));
    }
}
