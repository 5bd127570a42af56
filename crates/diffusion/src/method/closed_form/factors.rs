//! The factors of `A·J` for one token of each row, and the scores that they multiply out to.

use tch::{Device, Kind, Tensor};

use super::{Arithmetic, ScoreForm};
use crate::error::{Error, Result};
use crate::kernels::Kernels;

/// The dense part of a score is multiplied out and summed in pieces of so many rows and columns: on a CPU they stay in
/// the cache, and so do the columns that all rows are multiplied by.
const CPU_PIECE: (i64, i64) = (2048, 1024);
/// Numbers in a piece on a GPU, where launches cost more than memory.
const GPU_PIECE: i64 = 64 << 20;

/// The neighbours of a position, itself included, in the order of a kernel's numbers.
const NEIGHBOURS: [(i64, i64); 9] = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 0), (0, 1), (1, -1), (1, 0), (1, 1)];

/// The factors of `A·J` for one token of each of R rows, float32.
pub(in crate::method) struct Factors {
    /// `P` `[R, O·N, 2G]`.
    pub(in crate::method) spread: Tensor,
    /// `A·Y` `[R, H·N, 2G]`.
    pub(in crate::method) moments: Tensor,
    /// `A·Loc` `[R, H, N, O, 9]`.
    pub(in crate::method) local: Tensor,
    pub(in crate::method) heads: i64,
    pub(in crate::method) outputs: i64,
    pub(in crate::method) height: i64,
    pub(in crate::method) width: i64,
    /// In which precision the dense part is multiplied out, before it is summed in float32.
    pub(in crate::method) dense_kind: Kind,
    pub(in crate::method) kernels: Kernels,
    pub(super) arithmetic: Arithmetic,
}

impl Factors {
    /// How many rows there are.
    pub(in crate::method) fn rows(&self) -> Result<i64> {
        Ok(self.spread.size3()?.0)
    }

    /// The scores `[R, O, h, w]`.
    pub(in crate::method) fn score(&self, form: ScoreForm) -> Result<Tensor> {
        let shape = [self.rows()?, self.outputs, self.height, self.width];
        let each = |of_row: &dyn Fn(&Tensor, &Tensor) -> Result<Tensor>| -> Result<Tensor> {
            let rows = (0..shape[0]).map(|row| of_row(&self.spread.f_get(row)?, &self.moments.f_get(row)?));
            Ok(Tensor::f_stack(&rows.collect::<Result<Vec<_>>>()?, 0)?.f_view(shape)?)
        };
        // Σ |P Yᵀ| over (h, q), in pieces that are never stored together.
        let total = each(&|spread, moments| absolute_row_sums(&self.kernels, spread, moments, self.dense_kind))?;
        let signed = match form {
            ScoreForm::Abs => None,
            ScoreForm::Relu => Some(each(&|spread, moments| {
                Ok(spread.f_mv(&moments.f_sum_dim_intlist(0, false, Kind::Float)?)?.f_neg()?)
            })?),
        };
        self.correct_neighbours(&total, signed.as_ref())?;
        match signed {
            None => Ok(total),
            // max(J, 0) = (|J| + J) / 2.
            Some(signed) => Ok(total.f_add(&signed)?.f_mul_scalar(0.5)?),
        }
    }

    /// At the nine neighbours `|loc − d|` takes the place of `|d|` in `total`, and `loc` is missing in `signed`.
    fn correct_neighbours(&self, total: &Tensor, signed: Option<&Tensor>) -> Result<()> {
        let (heads, outputs, height, width) = (self.heads, self.outputs, self.height, self.width);
        let (rows, features) = (self.rows()?, self.spread.size3()?.2);
        let spread = self.spread.f_view([rows, outputs, height, width, features])?.f_permute([0, 2, 3, 1, 4])?;
        // Beyond the edge there is nothing, and nothing is corrected.
        let moments = self.moments.f_view([rows, heads, height, width, features])?.f_permute([0, 4, 1, 2, 3])?;
        let moments = moments.f_constant_pad_nd([1, 1, 1, 1])?.f_permute([0, 3, 4, 1, 2])?;
        let local = self.local.f_view([rows, heads, height, width, outputs, 9])?.f_permute([0, 5, 4, 1, 2, 3])?;
        let local = local.f_constant_pad_nd([1, 1, 1, 1])?.f_permute([1, 0, 4, 5, 2, 3])?;
        let beside = |x: &Tensor, (dy, dx): (i64, i64)| -> Result<Tensor> {
            Ok(x.f_narrow(1, 1 + dy, height)?.f_narrow(2, 1 + dx, width)?)
        };
        let add_to = |target: &Tensor, x: &Tensor| -> Result<()> {
            // Over heads first: planes are added up one after the other, in the heads' order.
            let planes = x.f_permute([0, 1, 4, 5, 2, 3])?.f_contiguous()?;
            let sum = planes.f_sum_dim_intlist(3, false, Kind::Float)?.f_sum_dim_intlist(0, false, Kind::Float)?;
            let _ = target.shallow_clone().f_add_(&sum)?;
            Ok(())
        };
        for (first, neighbours) in self.arithmetic.neighbours_at_once(&NEIGHBOURS) {
            let there = neighbours.iter().map(|&at| beside(&moments, at)).collect::<Result<Vec<_>>>()?;
            let dense = spread.f_unsqueeze(0)?.f_matmul(&Tensor::f_stack(&there, 0)?)?;
            let near = (first..).zip(neighbours).map(|(i, &at)| beside(&local.f_get(i)?, at));
            let near = Tensor::f_stack(&near.collect::<Result<Vec<_>>>()?, 0)?;
            add_to(total, &near.f_sub(&dense)?.f_abs()?.f_sub(&dense.f_abs()?)?)?;
            if let Some(signed) = signed {
                add_to(signed, &near)?;
            }
        }
        Ok(())
    }
}

/// `Σ_j |(X Yᵀ)[i, j]|`, float32, for `X` `[n, k]` and `Y` `[m, k]`, multiplied in `kind`.
pub(in crate::method) fn absolute_row_sums(kernels: &Kernels, x: &Tensor, y: &Tensor, kind: Kind) -> Result<Tensor> {
    let (x, y) = (x.f_to_kind(kind)?, y.f_to_kind(kind)?);
    if let Some(sums) = kernels.absolute_row_sums(&x, &y)? {
        return Ok(sums);
    }
    let on_cpu = x.device() == Device::Cpu;
    let (rows, columns) = if on_cpu { CPU_PIECE } else { (GPU_PIECE / y.size2()?.0.max(1), y.size2()?.0) };
    let transposed = |y: &Tensor| Ok(y.f_transpose(0, 1)?.f_contiguous()?);
    let columns = y.f_split(columns.max(1), 0)?.iter().map(transposed).collect::<Result<Vec<Tensor>>>()?;
    let sums = x
        .f_split(rows.max(16), 0)?
        .iter()
        .map(|rows| {
            let mut total: Option<Tensor> = None;
            for columns in &columns {
                let mut product = rows.f_matmul(columns)?;
                let sum = if on_cpu {
                    product.f_abs_()?.f_sum_dim_intlist(-1, false, Kind::Float)?
                } else {
                    // The 1-norm: one pass, which libtorch has no fast code for on a CPU.
                    product.f_norm_scalaropt_dim_dtype(1, -1, false, Kind::Float)?
                };
                total = Some(match total {
                    None => sum,
                    Some(mut total) => total.f_add_(&sum)?,
                });
            }
            total.ok_or_else(|| Error::Torch("a layer without positions".to_owned()))
        })
        .collect::<Result<Vec<Tensor>>>()?;
    Ok(Tensor::f_cat(&sums, 0)?)
}
