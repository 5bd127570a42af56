//! Plain decoded pictures, as they pass between decoding, the model and encoding.

use crate::fit::Region;

/// 8-bit RGB, row by row from the top: `data.len() == width * height * 3`.
#[derive(Clone, PartialEq, Eq)]
pub struct Rgb8 {
    /// Pixels a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// R, G, B of each pixel.
    pub data: Vec<u8>,
}

/// 8-bit grey, row by row from the top: `data.len() == width * height`. Masks hold 0 or 255.
#[derive(Clone, PartialEq, Eq)]
pub struct Gray8 {
    /// Pixels a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// One value a pixel.
    pub data: Vec<u8>,
}

impl Rgb8 {
    /// A part of it, which must lie within it.
    pub fn cut(&self, part: Region) -> Self {
        let (stride, length) = (self.width as usize * 3, part.width as usize * 3);
        let rows = self.data.chunks_exact(stride.max(1)).skip(part.y as usize).take(part.height as usize);
        let data = rows.flat_map(|row| row.iter().skip(part.x as usize * 3).take(length)).copied().collect();
        Self { width: part.width, height: part.height, data }
    }

    /// A picture of that size, with this one in its part `at`, which must have this one's size and lie within it; beyond
    /// this one's edges, they are repeated.
    pub fn extended(&self, at: Region, width: u32, height: u32) -> Self {
        let nearest = |place: u32, first: u32, length: u32| place.saturating_sub(first).min(length - 1) as usize;
        let mut data = Vec::with_capacity(width as usize * height as usize * 3);
        for y in 0..height {
            let row = nearest(y, at.y, at.height) * at.width as usize;
            for x in 0..width {
                let pixel = (row + nearest(x, at.x, at.width)) * 3;
                data.extend_from_slice(&self.data[pixel..pixel + 3]);
            }
        }
        Self { width, height, data }
    }
}

impl std::fmt::Debug for Rgb8 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rgb8({}x{})", self.width, self.height)
    }
}

impl std::fmt::Debug for Gray8 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gray8({}x{})", self.width, self.height)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_cut_out_and_put_back_among_repeated_edges() {
        let whole = Rgb8 { width: 3, height: 2, data: (0..6).flat_map(|n| [n, n, n]).collect() };
        let part = whole.cut(Region { x: 1, y: 0, width: 2, height: 2 });
        assert_eq!(part.data.iter().step_by(3).copied().collect::<Vec<u8>>(), [1, 2, 4, 5]);
        assert_eq!(whole.cut(Region::whole((3, 2))), whole);
        let wide = part.extended(Region { x: 1, y: 1, width: 2, height: 2 }, 4, 3);
        let values: Vec<u8> = wide.data.iter().step_by(3).copied().collect();
        assert_eq!(values, [1, 1, 2, 2, 1, 1, 2, 2, 4, 4, 5, 5]);
        assert_eq!(part.extended(Region::whole((2, 2)), 2, 2), part);
    }
}
