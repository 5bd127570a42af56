//! Kernel distances of two sets: KID (Bińkowski et al. 2018) and CMMD (Jayasumana et al. 2024).

use tch::{Kind, Tensor};

use crate::error::Result;

/// KID's subsets, and the most members of each: torch-fidelity's defaults.
const SUBSETS: usize = 100;
const SUBSET: usize = 1000;
/// CMMD's kernel width, and the factor that makes its figures readable: the source's.
const SIGMA: f64 = 10.0;
const SCALE: f64 = 1000.0;

/// A distance as a mean over subsets.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct KernelDistance {
    /// The mean.
    pub mean: f64,
    /// The standard deviation over subsets.
    pub deviation: f64,
    /// Members of a subset.
    pub subset: usize,
}

/// The unbiased MMD² with the kernel `(xᵀy/d + 1)³`, over 100 subsets of 1000, or of all where there are fewer; `None`
/// where a set has fewer than two. `x`, `y`: `[n, d]`.
pub fn kid(x: &Tensor, y: &Tensor) -> Result<Option<KernelDistance>> {
    let (x, y) = (x.f_to_kind(Kind::Double)?, y.f_to_kind(Kind::Double)?);
    let (n, m) = (x.size()[0] as usize, y.size()[0] as usize);
    let subset = n.min(m).min(SUBSET);
    if subset < 2 {
        return Ok(None);
    }
    let mut random = fastrand::Rng::with_seed(0);
    // All of both sets: every subset would be the same.
    let count = if subset == n && subset == m { 1 } else { SUBSETS };
    let mut values = Vec::with_capacity(count);
    for _ in 0..count {
        let chosen = |of: usize, random: &mut fastrand::Rng| -> Vec<i64> {
            let picked = random.choose_multiple(0..of, subset);
            picked.into_iter().map(|at| at as i64).collect()
        };
        let (a, b) = (chosen(n, &mut random), chosen(m, &mut random));
        let (a, b) = (Tensor::f_from_slice(&a)?, Tensor::f_from_slice(&b)?);
        values.push(polynomial(&x.f_index_select(0, &a)?, &y.f_index_select(0, &b)?)?);
    }
    let mean = values.iter().sum::<f64>() / count as f64;
    let deviation = (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count as f64).sqrt();
    Ok(Some(KernelDistance { mean, deviation, subset }))
}

fn polynomial(x: &Tensor, y: &Tensor) -> Result<f64> {
    let (n, d) = x.size2()?;
    let kernel = |a: &Tensor, b: &Tensor| -> Result<Tensor> {
        let product = a.f_matmul(&b.f_transpose(0, 1)?)?;
        Ok(product.f_div_scalar(d as f64)?.f_add_scalar(1.0)?.f_pow_tensor_scalar(3)?)
    };
    let total = |matrix: &Tensor| -> Result<f64> { Ok(matrix.f_sum(Kind::Double)?.f_double_value(&[])?) };
    let without_diagonal =
        |matrix: &Tensor| -> Result<f64> { Ok(total(matrix)? - matrix.f_trace()?.f_double_value(&[])?) };
    let n = n as f64;
    let within = without_diagonal(&kernel(x, x)?)? + without_diagonal(&kernel(y, y)?)?;
    Ok(within / (n * (n - 1.0)) - 2.0 * total(&kernel(x, y)?)? / (n * n))
}

/// The biased (minimum-variance) MMD² with the Gaussian kernel of width 10, times 1000, of CLIP's directions `[n, d]`;
/// `None` of an empty set.
pub fn cmmd(x: &Tensor, y: &Tensor) -> Result<Option<f64>> {
    let (x, y) = (x.f_to_kind(Kind::Double)?, y.f_to_kind(Kind::Double)?);
    if x.size()[0] == 0 || y.size()[0] == 0 {
        return Ok(None);
    }
    let mean = |a: &Tensor, b: &Tensor| -> Result<f64> {
        let lengths =
            |x: &Tensor| -> Result<Tensor> { Ok(x.f_square()?.f_sum_dim_intlist(&[1_i64][..], true, Kind::Double)?) };
        let product = a.f_matmul(&b.f_transpose(0, 1)?)?.f_mul_scalar(-2.0)?;
        let squared = product.f_add(&lengths(a)?)?.f_add(&lengths(b)?.f_transpose(0, 1)?)?;
        Ok(squared.f_mul_scalar(-1.0 / (2.0 * SIGMA * SIGMA))?.f_exp()?.f_mean(Kind::Double)?.f_double_value(&[])?)
    };
    Ok(Some(SCALE * (mean(&x, &x)? + mean(&y, &y)? - 2.0 * mean(&x, &y)?)))
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    #[test]
    fn equal_sets_have_no_distance_and_sets_of_one_have_none_to_tell() {
        let x = Tensor::randn([50, 8], (Kind::Double, Device::Cpu));
        assert!(cmmd(&x, &x).unwrap().unwrap().abs() < 1e-9);
        // Unbiased: of equal sets a little below 0.
        assert!(kid(&x, &x).unwrap().unwrap().mean <= 0.0);
        assert!(kid(&x.narrow(0, 0, 1), &x).unwrap().is_none() && cmmd(&x.narrow(0, 0, 0), &x).unwrap().is_none());
    }
}
