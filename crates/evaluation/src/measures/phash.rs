//! The perceptual hash of 64 bits that Python's `imagehash.phash` computes: near-duplicates differ in few bits.

use std::f64::consts::PI;

use diorama_core::picture::Rgb8;
use diorama_diffusion::image_processor::resample::{Filter, resize};

/// The side that pictures are resized to.
const SIDE: usize = 32;
/// The lowest frequencies a side.
const KEPT: usize = 8;

/// Greys as Pillow's `convert("L")`, Lanczos to 32 × 32, DCT-II; a bit is set where one of the lowest 8 × 8 frequencies
/// lies above their median. The first row's first frequency is the highest bit.
pub fn phash(picture: &Rgb8) -> u64 {
    let gray: Vec<u8> = picture.data.chunks_exact(3).map(|p| gray(p[0], p[1], p[2])).collect();
    let small = resize(&gray, 1, (picture.width as usize, picture.height as usize), (SIDE, SIDE), Filter::Lanczos);
    let low = lowest_frequencies(&small);
    let mut sorted = low;
    sorted.sort_by(f64::total_cmp);
    let median = (sorted[31] + sorted[32]) / 2.0;
    low.iter().fold(0, |bits, value| (bits << 1) | u64::from(*value > median))
}

/// Pillow's `L`.
fn gray(r: u8, g: u8, b: u8) -> u8 {
    ((u32::from(r) * 19_595 + u32::from(g) * 38_470 + u32::from(b) * 7_471 + 0x8000) >> 16) as u8
}

/// `low[u * 8 + v]`: frequency `u` along columns, `v` along rows.
fn lowest_frequencies(small: &[u8]) -> [f64; KEPT * KEPT] {
    let cosine = |frequency: usize, at: usize| (PI * frequency as f64 * (2 * at + 1) as f64 / (2 * SIDE) as f64).cos();
    let mut rows = [[0.0; KEPT]; SIDE];
    for (line, row) in small.chunks_exact(SIDE).zip(&mut rows) {
        for (v, sum) in row.iter_mut().enumerate() {
            *sum = line.iter().enumerate().map(|(x, value)| f64::from(*value) * cosine(v, x)).sum();
        }
    }
    let mut low = [0.0; KEPT * KEPT];
    for (at, sum) in low.iter_mut().enumerate() {
        let (u, v) = (at / KEPT, at % KEPT);
        *sum = rows.iter().enumerate().map(|(y, row)| row[v] * cosine(u, y)).sum();
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waves(width: u32, height: u32, phase: f64) -> Rgb8 {
        let value = |x: u32, y: u32, c: u32| {
            let (x, y) = (f64::from(x) / f64::from(width), f64::from(y) / f64::from(height));
            (127.0 + 60.0 * (9.0 * x + phase).sin() + 60.0 * (7.0 * y * x + f64::from(c)).cos()) as u8
        };
        let data = (0..height).flat_map(|y| (0..width).flat_map(move |x| (0..3).map(move |c| value(x, y, c))));
        Rgb8 { width, height, data: data.collect() }
    }

    #[test]
    fn a_picture_in_another_size_has_nearly_the_same_hash_and_another_picture_another() {
        let hash = phash(&waves(64, 48, 0.0));
        assert!((hash ^ phash(&waves(160, 120, 0.0))).count_ones() <= 4);
        let mut turned = waves(64, 48, 0.0);
        turned.data.reverse();
        assert!((hash ^ phash(&turned)).count_ones() > 12, "{}", (hash ^ phash(&turned)).count_ones());
    }
}
