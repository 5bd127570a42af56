//! Pictures of many pixels, made smaller row by row: each pixel is the mean of a square of the picture's own.

use diorama_core::picture::Rgb8;

/// A picture that comes row by row.
pub(crate) struct Shrink {
    width: u32,
    height: u32,
    /// Pixels of the picture that become one, along a side.
    by: u32,
    /// The sums of the rows that make the next one.
    sums: Vec<u32>,
    /// Rows in them.
    rows: u32,
    data: Vec<u8>,
}

impl Shrink {
    /// For a picture of this size, of which at most about `most` pixels are kept.
    pub(crate) fn new(width: u32, height: u32, most: u64) -> Self {
        let kept = |by: u32| u64::from(width.div_ceil(by)) * u64::from(height.div_ceil(by));
        let mut by = ((f64::from(width) * f64::from(height) / most.max(1) as f64).sqrt().floor() as u32).max(1);
        while kept(by) > most && by < width.max(height) {
            by += 1;
        }
        let sums = if by == 1 { Vec::new() } else { vec![0; width.div_ceil(by) as usize * 3] };
        Self { width, height, by, sums, rows: 0, data: Vec::with_capacity(kept(by) as usize * 3) }
    }

    /// Pixels that are kept.
    pub(crate) fn pixels(&self) -> u64 {
        u64::from(self.width.div_ceil(self.by)) * u64::from(self.height.div_ceil(self.by))
    }

    /// Adds the next row: `width` pixels of R, G, B.
    pub(crate) fn add(&mut self, row: &[u8]) {
        if self.by == 1 {
            return self.data.extend_from_slice(row);
        }
        for (sums, cell) in self.sums.chunks_exact_mut(3).zip(row.chunks(self.by as usize * 3)) {
            for pixel in cell.chunks_exact(3) {
                for (sum, value) in sums.iter_mut().zip(pixel) {
                    *sum += u32::from(*value);
                }
            }
        }
        self.rows += 1;
        if self.rows == self.by {
            self.end_row();
        }
    }

    fn end_row(&mut self) {
        let last = self.width - (self.width.div_ceil(self.by) - 1) * self.by;
        let cells = self.sums.len() / 3;
        for (at, sums) in self.sums.chunks_exact_mut(3).enumerate() {
            let count = self.rows * if at + 1 == cells { last } else { self.by };
            self.data.extend(sums.iter().map(|sum| ((sum + count / 2) / count) as u8));
            sums.fill(0);
        }
        self.rows = 0;
    }

    /// The picture; `None` where rows are missing.
    pub(crate) fn finish(mut self) -> Option<Rgb8> {
        if self.rows > 0 {
            self.end_row();
        }
        let (width, height) = (self.width.div_ceil(self.by), self.height.div_ceil(self.by));
        let is_whole = self.data.len() as u64 == u64::from(width) * u64::from(height) * 3;
        is_whole.then_some(Rgb8 { width, height, data: self.data })
    }
}

/// A decoded picture, of which at most about `most` pixels are kept.
pub(crate) fn shrunk(picture: Rgb8, most: u64) -> Rgb8 {
    if u64::from(picture.width) * u64::from(picture.height) <= most {
        return picture;
    }
    let mut shrink = Shrink::new(picture.width, picture.height, most);
    picture.data.chunks_exact(picture.width as usize * 3).for_each(|row| shrink.add(row));
    shrink.finish().unwrap_or(picture)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_pixels_are_kept_as_they_are_and_many_become_means() {
        let data: Vec<u8> = (0..5 * 3).flat_map(|n| [n, 2 * n, 100]).collect();
        let picture = Rgb8 { width: 5, height: 3, data };
        assert_eq!(shrunk(picture.clone(), 15), picture);
        let small = shrunk(picture, 6);
        assert_eq!((small.width, small.height), (3, 2));
        // The mean of 0, 1, 5, 6; at the edges of fewer.
        assert_eq!(small.data[..3], [3, 6, 100]);
        assert_eq!(small.data[6..9], [7, 13, 100]);
        assert_eq!(small.data[15..], [14, 28, 100]);
    }

    #[test]
    fn whatever_its_shape_a_picture_keeps_at_most_so_many_pixels() {
        for (width, height) in [(1, 100_000), (100_000, 1), (9999, 9999), (3, 4000)] {
            assert!(Shrink::new(width, height, 1000).pixels() <= 1000, "{width}x{height}");
        }
        assert!(Shrink::new(2, 2, 4).finish().is_none(), "rows are missing");
    }
}
