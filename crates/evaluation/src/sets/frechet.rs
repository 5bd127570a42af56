//! The Fréchet distance of two sets (Heusel et al. 2017): with Inception's 2048 features it is the FID.

use tch::{Kind, Tensor};

use super::Moments;
use crate::error::Result;

/// `‖m1 − m2‖² + tr(C1 + C2 − 2·(C1·C2)^½)`, the trace of the root from the eigenvalues of the symmetric
/// `C1^½·C2·C1^½`, which has those of `C1·C2`. `None` where a set has fewer than two members.
pub fn frechet(a: &Moments, b: &Moments) -> Result<Option<f64>> {
    let (Some((mean_a, a)), Some((mean_b, b))) = (a.mean_and_covariance()?, b.mean_and_covariance()?) else {
        return Ok(None);
    };
    let trace = |matrix: &Tensor| -> Result<f64> { Ok(matrix.f_trace()?.f_double_value(&[])?) };
    let between = mean_a.f_sub(&mean_b)?.f_square()?.f_sum(Kind::Double)?.f_double_value(&[])?;
    let (values, vectors) = a.f_linalg_eigh("L")?;
    let roots = values.f_clamp_min(0.0)?.f_sqrt()?;
    let root = vectors.f_mul(&roots)?.f_matmul(&vectors.f_transpose(0, 1)?)?;
    let product = root.f_matmul(&b)?.f_matmul(&root)?;
    let eigenvalues = product.f_linalg_eigvalsh("L")?.f_clamp_min(0.0)?;
    let shared = eigenvalues.f_sqrt()?.f_sum(Kind::Double)?.f_double_value(&[])?;
    Ok(Some((between + trace(&a)? + trace(&b)? - 2.0 * shared).max(0.0)))
}
