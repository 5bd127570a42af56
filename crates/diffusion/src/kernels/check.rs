//! Whether own kernels and libtorch agree, tried on small inputs on the device itself before a model is loaded.

use tch::{Device, Kind, Tensor};

use super::Kernels;
use super::operations::Norm;
use crate::error::{Error, Result};

/// How far results may be from libtorch's in float32 on the same stored inputs, over the length of those: a few times what
/// one rounding of the result costs, on average (float32 also has libtorch's own rounding, and fast exponentials).
pub(super) fn allowed(kind: Kind) -> f64 {
    match kind {
        Kind::BFloat16 => 4e-3,
        Kind::Half => 5e-4,
        _ => 1e-5,
    }
}

/// Feature maps `(B, C, h, w)` and groups: whole packs and single numbers, more channels than a block has threads, chunks
/// that end within the map, one pixel.
const MAPS: [([i64; 4], i64); 5] =
    [([2, 320, 13, 15], 32), ([3, 64, 33, 9], 32), ([2, 2560, 3, 4], 32), ([2, 33, 5, 7], 3), ([1, 8, 1, 1], 2)];

/// Tokens `(rows, C)`.
const TOKENS: [[i64; 2]; 4] = [[77, 320], [9, 1280], [5, 37], [1, 8]];

/// `(n, m, k)` of the row sums: several blocks either way, a part of one, fewer than 64 in common, single numbers.
const FACTORS: [[i64; 3]; 3] = [[150, 4200, 64], [5, 70, 24], [130, 9, 7]];

/// What disagrees, if anything does.
pub(super) fn disagreement(kernels: &Kernels, device: Device, kind: Kind) -> Result<Option<String>> {
    let trial = Trial { kernels, device, kind };
    let found = tch::no_grad(|| {
        for (shape, groups) in MAPS {
            if let Some(found) = trial.group_norm(shape, groups)?.or(trial.residual(shape)?) {
                return Ok(Some(found));
            }
        }
        for shape in FACTORS {
            if let Some(found) = trial.row_sums(shape)? {
                return Ok(Some(found));
            }
        }
        for shape in TOKENS {
            if let Some(found) = trial.layer_norm(shape)?.or(trial.geglu(shape)?) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    });
    // A kernel that reads where it must not takes the whole device with it; only another process can go on.
    found.map_err(|error| match error {
        Error::Torch(message) => {
            Error::Torch(format!("trying our own GPU kernels: {message}; set kernels to libtorch to do without them"))
        }
        other => other,
    })
}

struct Trial<'a> {
    kernels: &'a Kernels,
    device: Device,
    kind: Kind,
}

impl Trial<'_> {
    /// Numbers between -2 and 4 without a pattern that a wrong index would repeat; the same each time.
    fn numbers(&self, shape: &[i64], seed: f64) -> Result<Tensor> {
        let count: i64 = shape.iter().product();
        let angles = Tensor::f_arange(count, (Kind::Double, Device::Cpu))?.f_square()?.f_mul_scalar(0.137 + seed)?;
        let numbers = angles.f_sin()?.f_mul_scalar(3.0)?.f_add_scalar(1.0)?.f_view(shape)?;
        Ok(numbers.f_to_kind(self.kind)?.f_to_device(self.device)?)
    }

    fn compare(&self, what: &str, shape: &[i64], actual: Option<&Tensor>, expected: &Tensor) -> Result<Option<String>> {
        self.compare_within(allowed(self.kind), what, shape, actual, expected)
    }

    fn compare_within(
        &self,
        allowed: f64,
        what: &str,
        shape: &[i64],
        actual: Option<&Tensor>,
        expected: &Tensor,
    ) -> Result<Option<String>> {
        let what = format!("{what} of {shape:?} in {:?}", self.kind);
        let Some(actual) = actual else { return Ok(Some(format!("{what} is not taken"))) };
        let (actual, expected) = (actual.f_to_kind(Kind::Double)?, expected.f_to_kind(Kind::Double)?);
        let difference = actual.f_sub(&expected)?;
        let length = expected.f_norm()?.f_double_value(&[])?;
        let far = difference.f_norm()?.f_double_value(&[])? / length;
        // One wrong number among many must not be lost in the length of all.
        let largest = expected.f_abs()?.f_max()?.f_double_value(&[])?;
        let farthest = difference.f_abs()?.f_max()?.f_double_value(&[])? / largest;
        // Not `>`: NaN disagrees.
        let agrees = far <= allowed && farthest <= 2.0 * allowed;
        Ok((!agrees).then(|| {
            format!("{what} is {far:.1e} off, a number {farthest:.1e} of the largest ({allowed:.0e} is allowed)")
        }))
    }

    fn group_norm(&self, shape: [i64; 4], groups: i64) -> Result<Option<String>> {
        let [b, c, ..] = shape;
        let x = self.numbers(&shape, 0.01)?;
        let vector = |seed: f64| self.numbers(&[c], seed);
        let (weight, shift, bias) = (vector(0.02)?, vector(0.03)?, vector(0.04)?);
        let norm = Norm { weight: &weight, bias: &shift, eps: 1e-5 };
        let float = |x: &Tensor| x.f_to_kind(Kind::Float);
        for (time_rows, silu) in [(1, true), (b, false)] {
            let time = self.numbers(&[time_rows, c, 1, 1], 0.05)?;
            let of = |x: &Tensor| self.kernels.group_norm(x, (Some(&bias), Some(&time)), groups, norm, silu);
            let actual = of(&x)?;
            let pending = float(&bias)?.f_view([1, c, 1, 1])?.f_add(&float(&time)?)?;
            let mut expected = float(&x)?.f_add(&pending)?.f_group_norm(
                groups,
                Some(&float(&weight)?),
                Some(&float(&shift)?),
                norm.eps,
                true,
            )?;
            if silu {
                expected = expected.f_silu()?;
            }
            let found = self.compare("group norm", &shape, actual.as_ref(), &expected)?;
            if found.is_some() {
                return Ok(found);
            }
            // A row alone, and all of them once more, are the same bytes.
            if let (1, Some(actual)) = (time_rows, actual) {
                let (alone, again) = (of(&x.f_narrow(0, b - 1, 1)?)?, of(&x)?);
                let same = |one: Option<Tensor>, other: &Tensor| one.is_some_and(|one| one.equal(other));
                if !same(alone, &actual.f_narrow(0, b - 1, 1)?) || !same(again, &actual) {
                    return Ok(Some(format!("group norm of {shape:?} depends on batch mates or time")));
                }
            }
        }
        Ok(None)
    }

    fn residual(&self, shape: [i64; 4]) -> Result<Option<String>> {
        let (x, more) = (self.numbers(&shape, 0.06)?, self.numbers(&shape, 0.07)?);
        let (bias, other) = (self.numbers(&shape[1..2], 0.08)?, self.numbers(&shape[1..2], 0.09)?);
        let column = |x: &Tensor| x.f_to_kind(Kind::Float)?.f_view([-1, 1, 1]);
        let expected = x.f_to_kind(Kind::Float)?.f_add(&more)?.f_add(&column(&bias)?)?.f_add(&column(&other)?)?;
        let actual = self.kernels.bias_residual(&x, Some(&bias), &more, Some(&other))?;
        self.compare("bias and residual", &shape, actual.as_ref(), &expected)
    }

    fn layer_norm(&self, shape: [i64; 2]) -> Result<Option<String>> {
        let (x, more) = (self.numbers(&shape, 0.1)?, self.numbers(&shape, 0.11)?);
        let (weight, shift) = (self.numbers(&shape[1..], 0.12)?, self.numbers(&shape[1..], 0.13)?);
        let norm = Norm { weight: &weight, bias: &shift, eps: 1e-5 };
        let float = |x: &Tensor| x.f_to_kind(Kind::Float);
        let normed = |x: &Tensor| {
            float(x)?.f_layer_norm(&shape[1..], Some(&float(&weight)?), Some(&float(&shift)?), norm.eps, true)
        };
        let alone = self.kernels.add_layer_norm(&x, None, norm)?.map(|(_, y)| y);
        if let Some(found) = self.compare("layer norm", &shape, alone.as_ref(), &normed(&x)?)? {
            return Ok(Some(found));
        }
        let sum = x.f_add(&more)?;
        let both = self.kernels.add_layer_norm(&x, Some(&more), norm)?;
        let (total, y) = both.as_ref().map_or((None, None), |(total, y)| (Some(total), Some(y)));
        if let Some(found) = self.compare("sum", &shape, total, &sum)? {
            return Ok(Some(found));
        }
        self.compare("layer norm of a sum", &shape, y, &normed(&sum)?)
    }

    fn geglu(&self, [rows, c]: [i64; 2]) -> Result<Option<String>> {
        let x = self.numbers(&[rows, 2 * c], 0.14)?;
        let halves = x.f_to_kind(Kind::Float)?.f_chunk(2, -1)?;
        let expected = halves[0].f_mul(&halves[1].f_gelu("none")?)?;
        self.compare("GEGLU", &[rows, c], self.kernels.geglu(&x)?.as_ref(), &expected)
    }

    /// Of bfloat16 alone: networks in other precisions take libtorch's path.
    fn row_sums(&self, [n, m, inner]: [i64; 3]) -> Result<Option<String>> {
        if self.kind != Kind::BFloat16 {
            return Ok(None);
        }
        let (x, y) = (self.numbers(&[n, inner], 0.15)?, self.numbers(&[m, inner], 0.16)?);
        // In float64: libtorch's float32 products may be TF32.
        let double = |x: &Tensor| x.f_to_kind(Kind::Double);
        let products = double(&x)?.f_matmul(&double(&y)?.f_transpose(0, 1)?)?;
        let expected = products.f_abs()?.f_sum_dim_intlist(-1, false, Kind::Double)?;
        let sums = self.kernels.absolute_row_sums(&x, &y)?;
        self.compare_within(1e-5, "row sums", &[n, m, inner], sums.as_ref(), &expected)
    }
}
