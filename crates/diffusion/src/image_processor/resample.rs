//! Resizing with Pillow's arithmetic, byte for byte: a latent and a measure depend on every bit of their picture, and
//! SIMD resizers (`fast_image_resize` among them) differ from Pillow by tens of grey levels where they overshoot,
//! because they clip between the passes in another order.

/// Fractional bits of a weight: 32 less 8 of the pixel less 2 of headroom.
const PRECISION_BITS: u32 = 22;

/// A filter of Pillow's, widened where a picture shrinks (antialias).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// Windowed sinc, three lobes.
    Lanczos,
    /// Keys' cubic with a = -0.5.
    Bicubic,
}

impl Filter {
    /// Half of the window, in pixels of the smaller picture.
    fn support(self) -> f64 {
        match self {
            Self::Lanczos => 3.0,
            Self::Bicubic => 2.0,
        }
    }

    fn at(self, x: f64) -> f64 {
        match self {
            Self::Lanczos => lanczos(x),
            Self::Bicubic => bicubic(x),
        }
    }
}

/// Resizes `channels` interleaved 8-bit values a pixel: rows first, then columns, each pass rounded to 8 bits. A pass
/// that would keep the size is left out. `from` and `to` are (width, height), none 0; `data` has
/// `channels * width * height` bytes.
pub fn resize(data: &[u8], channels: usize, from: (usize, usize), to: (usize, usize), filter: Filter) -> Vec<u8> {
    let rows = if from.0 == to.0 { data.to_vec() } else { resize_rows(data, channels, from.0, to.0, filter) };
    if from.1 == to.1 { rows } else { resize_columns(&rows, to.0 * channels, &weights(from.1, to.1, filter)) }
}

/// The matrix `[to, from]` of one pass in exact arithmetic, row by row, for pictures of floating point numbers (Pillow's
/// mode `F`).
pub fn matrix(from: usize, to: usize, filter: Filter) -> Vec<f64> {
    let mut matrix = vec![0.0; from * to];
    for (row, Window { first, weights }) in matrix.chunks_exact_mut(from.max(1)).zip(windows(from, to, filter)) {
        row[first..first + weights.len()].copy_from_slice(&weights);
    }
    matrix
}

/// A [`Window`] in fixed point.
struct Weights {
    first: usize,
    weights: Vec<i32>,
}

fn resize_rows(data: &[u8], channels: usize, from: usize, to: usize, filter: Filter) -> Vec<u8> {
    let weights = weights(from, to, filter);
    let mut out = Vec::with_capacity(data.len() / from * to);
    for row in data.chunks_exact(from * channels) {
        for Weights { first, weights } in &weights {
            let inputs = &row[first * channels..];
            for channel in 0..channels {
                let values = inputs.iter().skip(channel).step_by(channels);
                out.push(rounded(values.zip(weights).map(|(&value, &weight)| i32::from(value) * weight).sum()));
            }
        }
    }
    out
}

/// Columns of a picture whose rows have `stride` bytes.
fn resize_columns(data: &[u8], stride: usize, weights: &[Weights]) -> Vec<u8> {
    let mut out = Vec::with_capacity(weights.len() * stride);
    let mut sums = vec![0_i32; stride];
    for Weights { first, weights } in weights {
        sums.fill(0);
        for (row, &weight) in data[first * stride..].chunks_exact(stride).zip(weights) {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += i32::from(value) * weight;
            }
        }
        out.extend(sums.iter().map(|&sum| rounded(sum)));
    }
    out
}

fn rounded(sum: i32) -> u8 {
    ((sum + (1 << (PRECISION_BITS - 1))) >> PRECISION_BITS).clamp(0, 255) as u8
}

/// Pillow's `normalize_coeffs_8bpc`.
fn weights(from: usize, to: usize, filter: Filter) -> Vec<Weights> {
    let fixed = |weight: f64| (weight * f64::from(1 << PRECISION_BITS) + 0.5_f64.copysign(weight)) as i32;
    let windows = windows(from, to, filter).into_iter();
    windows
        .map(|Window { first, weights }| Weights { first, weights: weights.into_iter().map(fixed).collect() })
        .collect()
}

/// What one output pixel is made of: input pixels from `first` on, and their weights, which add up to 1.
struct Window {
    first: usize,
    weights: Vec<f64>,
}

/// Pillow's `precompute_coeffs`.
fn windows(from: usize, to: usize, filter: Filter) -> Vec<Window> {
    let scale = from as f64 / to as f64;
    let filter_scale = scale.max(1.0);
    let support = filter.support() * filter_scale;
    let inverse = 1.0 / filter_scale;
    (0..to)
        .map(|x| {
            let center = (x as f64 + 0.5) * scale;
            // A cast to usize cuts, and takes what is negative for 0.
            let first = (center - support + 0.5) as usize;
            let end = ((center + support + 0.5) as usize).min(from);
            let raw: Vec<f64> = (first..end).map(|at| filter.at((at as f64 - center + 0.5) * inverse)).collect();
            let total: f64 = raw.iter().sum();
            let normal = |weight: f64| if total == 0.0 { weight } else { weight / total };
            Window { first, weights: raw.into_iter().map(normal).collect() }
        })
        .collect()
}

fn lanczos(x: f64) -> f64 {
    if (-3.0..3.0).contains(&x) { sinc(x) * sinc(x / 3.0) } else { 0.0 }
}

fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    let x = x * std::f64::consts::PI;
    x.sin() / x
}
