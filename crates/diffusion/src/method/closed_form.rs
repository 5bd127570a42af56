//! The exact Jacobian of the model output with respect to the last cross-attention layer's probabilities, and the score
//! that comes of it, without ever storing the Jacobian. `docs/method.md`, "The closed form at the last layer", has the
//! derivation; the names here are the same.
//!
//! `J[o,p,h,q] = Loc[o, q−p, h, q] · 1[|q−p|∞ ≤ 1] − (P Yᵀ)[(o,p),(h,q)]`, everything in float32.

use std::f64::consts::{PI, SQRT_2};

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::kernels::Kernels;
use crate::model::unet::{Captured, Tail};

/// The dense part of a score is multiplied out and summed in pieces of so many rows and columns: on a CPU they stay in
/// the cache, and so do the columns that all rows are multiplied by.
const CPU_PIECE: (i64, i64) = (2048, 1024);
/// Numbers in a piece on a GPU, where launches cost more than memory.
const GPU_PIECE: i64 = 64 << 20;

/// Which part of a derivative counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ScoreForm {
    /// Its absolute value.
    Abs,
    /// Its positive part.
    Relu,
}

/// The weights behind the last cross-attention layer as the closed form uses them, float32. C channels of the
/// transformer, C0 of the output's input, M of the feed-forward, G groups, H heads, d their width.
pub(super) struct ClosedForm {
    /// The attention's output projection `[C, H, d]`.
    out: Tensor,
    norm_weight: Tensor,
    norm_eps: f64,
    /// `[2M, C]`, and what the layer norm's bias and the layer's own bias add: `[2M]`.
    ff_in: Tensor,
    ff_in_bias: Tensor,
    /// `proj_out · ff_out`, `[C0, M]`.
    folded: Tensor,
    /// `[C0, C]`.
    proj_out: Tensor,
    groups: i64,
    group_weight: Tensor,
    group_bias: Tensor,
    group_eps: f64,
    /// `[O, C0, 3, 3]`.
    kernel: Tensor,
    /// In which precision the dense part is multiplied out, before it is summed in float32.
    dense_kind: Kind,
    kernels: Kernels,
}

/// What the forward pass left behind for one picture, and what does not depend on the token.
pub(super) struct Activations {
    /// Normalised residual stream `x̂` `[N, C]`.
    unit: Tensor,
    /// `rstd · gelu(b)` and `rstd · a · gelu'(b)`, `[N, M]`: what a change of values and of gates does.
    by_value: Tensor,
    by_gate: Tensor,
    /// The part of the feed-forward's derivative along `x̂` itself, already projected: `[N, C0]`.
    along_unit: Tensor,
    /// `ŷ` `[N, C0]`, and `E = SiLU'(z) · γ · rstd` `[N, C0]`.
    normed: Tensor,
    slope: Tensor,
    /// `P` `[O, N, 2G]`.
    spread: Tensor,
    height: i64,
    width: i64,
}

impl ClosedForm {
    /// Prepares the weights of `tail` for layers of H heads.
    pub(super) fn new(tail: &Tail<'_>) -> Result<Self> {
        let float = |x: &Tensor| x.f_to_kind(Kind::Float);
        let block =
            tail.transformer.blocks.last().ok_or_else(|| Error::Torch("a transformer without blocks".into()))?;
        let attention = &block.cross_attention;
        let out = float(&attention.out.weight)?;
        let (channels, inner) = out.size2()?;
        let ff_in = float(&block.ff_in.weight)?;
        let mut ff_in_bias = ff_in.f_mv(&float(&block.norm3.bias)?)?;
        if let Some(bias) = &block.ff_in.bias {
            ff_in_bias = ff_in_bias.f_add(&float(bias)?)?;
        }
        let proj_out = float(&tail.transformer.proj_out.weight)?;
        Ok(Self {
            out: out.f_view([channels, attention.heads, inner / attention.heads])?,
            norm_weight: float(&block.norm3.weight)?,
            norm_eps: block.norm3.eps,
            folded: proj_out.f_matmul(&float(&block.ff_out.weight)?)?,
            ff_in,
            ff_in_bias,
            proj_out,
            groups: tail.norm_out.groups,
            group_weight: float(&tail.norm_out.weight)?,
            group_bias: float(&tail.norm_out.bias)?,
            group_eps: tail.norm_out.eps,
            kernel: float(&tail.conv_out.weight)?.f_contiguous()?,
            dense_kind: dense_kind(&tail.conv_out.weight),
            kernels: tail.norm_out.kernels().clone(),
        })
    }

    /// Everything that one picture's tokens share. `stream` `[N, C]` is the input of the last layer norm, `last`
    /// `[C0, h, w]` that of the output's group norm.
    pub(super) fn activations(&self, stream: &Tensor, last: &Tensor) -> Result<Activations> {
        let stream = stream.f_to_kind(Kind::Float)?;
        let mean = stream.f_mean_dim(-1, true, Kind::Float)?;
        let rstd = stream.f_var_dim(-1, false, true)?.f_add_scalar(self.norm_eps)?.f_rsqrt()?;
        let unit = stream.f_sub(&mean)?.f_mul(&rstd)?;

        // The feed-forward at this point: values a and gates b, without and with biases.
        let plain = unit.f_mul(&self.norm_weight)?.f_matmul(&self.ff_in.f_transpose(0, 1)?)?;
        let biased = plain.f_add(&self.ff_in_bias)?.f_chunk(2, -1)?;
        let (value, gate) = (&biased[0], &biased[1]);
        let cdf = gate.f_div_scalar(SQRT_2)?.f_erf()?.f_add_scalar(1.0)?.f_mul_scalar(0.5)?;
        let density = gate.f_square()?.f_mul_scalar(-0.5)?.f_exp()?.f_div_scalar((2.0 * PI).sqrt())?;
        let by_value = gate.f_mul(&cdf)?.f_mul(&rstd)?;
        let by_gate = density.f_mul(gate)?.f_add(&cdf)?.f_mul(value)?.f_mul(&rstd)?;
        let plain = plain.f_chunk(2, -1)?;
        let along_unit = plain[0].f_mul(&by_value)?.f_add(&plain[1].f_mul(&by_gate)?)?;
        let along_unit = along_unit.f_matmul(&self.folded.f_transpose(0, 1)?)?;

        // Group norm, SiLU and the last convolution.
        let (channels, height, width) = last.size3()?;
        let (groups, positions) = (self.groups, height * width);
        let grouped = last.f_to_kind(Kind::Float)?.f_reshape([groups, -1])?;
        let mean = grouped.f_mean_dim(-1, true, Kind::Float)?;
        let group_rstd = grouped.f_var_dim(-1, false, true)?.f_add_scalar(self.group_eps)?.f_rsqrt()?;
        let normed = grouped.f_sub(&mean)?.f_mul(&group_rstd)?.f_view([channels, positions])?;
        let column = |x: &Tensor| x.f_view([channels, 1]);
        let z = normed.f_mul(&column(&self.group_weight)?)?.f_add(&column(&self.group_bias)?)?;
        let sigmoid = z.f_sigmoid()?;
        // SiLU'(z) = σ(z) · (1 + z · (1 − σ(z))).
        let silu_slope = sigmoid.f_neg()?.f_add_scalar(1.0)?.f_mul(&z)?.f_add_scalar(1.0)?.f_mul(&sigmoid)?;
        let rstd_of_channel = group_rstd.f_expand([groups, channels / groups], false)?.f_reshape([channels, 1])?;
        let slope = silu_slope.f_mul(&column(&self.group_weight)?)?.f_mul(&rstd_of_channel)?;
        let spread = Tensor::f_cat(
            &[self.spread(&slope, height, width)?, self.spread(&slope.f_mul(&normed)?, height, width)?],
            -1,
        )?;
        Ok(Activations {
            unit,
            by_value,
            by_gate,
            along_unit,
            normed: normed.f_transpose(0, 1)?.f_contiguous()?,
            slope: slope.f_transpose(0, 1)?.f_contiguous()?,
            spread,
            height,
            width,
        })
    }

    /// The last convolution, one group of input channels at a time: `[C0, N]` → `[O, N, G]`.
    fn spread(&self, x: &Tensor, height: i64, width: i64) -> Result<Tensor> {
        let (outputs, channels, kh, kw) = self.kernel.size4()?;
        let groups = self.groups;
        let kernel = self.kernel.f_view([outputs, groups, channels / groups, kh, kw])?.f_transpose(0, 1)?;
        let kernel = kernel.f_reshape([groups * outputs, channels / groups, kh, kw])?;
        let x = x.f_view([1, channels, height, width])?;
        let y = x.f_conv2d(&kernel, None::<&Tensor>, [1, 1], [1, 1], [1, 1], groups)?;
        Ok(y.f_view([groups, outputs, height * width])?.f_permute([1, 2, 0])?)
    }

    /// `U[h, q, :] = ∂y[:, q] / ∂A[h, q]` `[H, N, C0]`, for a token of values `v` `[H, d]`.
    fn forward_derivative(&self, a: &Activations, v: &Tensor) -> Result<Tensor> {
        let v = v.f_to_kind(Kind::Float)?;
        // w_h: what a change of A[h, q] adds to the residual stream at q, the same for each q. [H, C].
        let directions = self.out.f_mul(&v)?.f_sum_dim_intlist(-1, false, Kind::Float)?.f_transpose(0, 1)?;
        let (heads, channels) = directions.size2()?;
        let centred = directions.f_sub(&directions.f_mean_dim(-1, true, Kind::Float)?)?;
        let shared = centred.f_mul(&self.norm_weight)?.f_matmul(&self.ff_in.f_transpose(0, 1)?)?;
        let shared = shared.f_chunk(2, -1)?;
        let along = a.unit.f_matmul(&directions.f_transpose(0, 1)?)?.f_div_scalar(channels as f64)?;
        let direct = directions.f_matmul(&self.proj_out.f_transpose(0, 1)?)?;
        let folded = self.folded.f_transpose(0, 1)?;
        let derivatives = (0..heads)
            .map(|h| {
                let by_value = a.by_value.f_mul(&shared[0].f_get(h)?)?;
                let inner = by_value.f_addcmul(&a.by_gate, &shared[1].f_get(h)?)?.f_matmul(&folded)?;
                let unit_part = a.along_unit.f_mul(&along.f_narrow(1, h, 1)?)?;
                Ok(inner.f_sub(&unit_part)?.f_add(&direct.f_get(h)?)?)
            })
            .collect::<Result<Vec<Tensor>>>()?;
        Ok(Tensor::f_stack(&derivatives, 0)?)
    }

    /// What the score of one token of one picture is made of: `A` is the token's column `[H, N]`, `v` its values
    /// `[H, d]`.
    pub(super) fn factors(&self, a: &Activations, column: &Tensor, v: &Tensor) -> Result<Factors> {
        let column = column.f_to_kind(Kind::Float)?;
        let u = self.forward_derivative(a, v)?;
        let (heads, positions, channels) = u.size3()?;
        let (outputs, groups) = (self.kernel.size()[0], self.groups);

        // Y with A ≥ 0 folded into its rows.
        let count = (channels / groups * positions) as f64;
        let moment = |x: &Tensor| -> Result<Tensor> {
            let x = x.f_view([heads, positions, groups, channels / groups])?;
            Ok(x.f_sum_dim_intlist(-1, false, Kind::Float)?.f_div_scalar(count)?)
        };
        let moments = Tensor::f_cat(&[moment(&u)?, moment(&u.f_mul(&a.normed)?)?], -1)?;
        let moments = moments.f_mul(&column.f_unsqueeze(-1)?)?.f_view([heads * positions, 2 * groups])?;
        // Loc with A folded in.
        let kernel = self.kernel.f_permute([1, 0, 2, 3])?.f_reshape([channels, outputs * 9])?;
        let local = u.f_mul(&a.slope)?.f_mul(&column.f_unsqueeze(-1)?)?.f_matmul(&kernel)?;
        Ok(Factors {
            spread: a.spread.f_reshape([outputs * positions, 2 * groups])?,
            moments,
            local: local.f_view([heads, positions, outputs, 9])?,
            heads,
            outputs,
            height: a.height,
            width: a.width,
            dense_kind: self.dense_kind,
            kernels: self.kernels.clone(),
        })
    }
}

/// The factors of `A·J` for one token of one picture, float32.
pub(super) struct Factors {
    /// `P` `[O·N, 2G]`.
    pub(super) spread: Tensor,
    /// `A·Y` `[H·N, 2G]`.
    pub(super) moments: Tensor,
    /// `A·Loc` `[H, N, O, 9]`.
    pub(super) local: Tensor,
    pub(super) heads: i64,
    pub(super) outputs: i64,
    pub(super) height: i64,
    pub(super) width: i64,
    pub(super) dense_kind: Kind,
    pub(super) kernels: Kernels,
}

impl Factors {
    /// The score `[O, h, w]`.
    pub(super) fn score(&self, form: ScoreForm) -> Result<Tensor> {
        let Self { spread, moments, local, heads, outputs, height, width, .. } = self;
        let (heads, outputs, height, width) = (*heads, *outputs, *height, *width);
        let features = spread.size2()?.1;

        // Σ |P Yᵀ| over (h, q), in pieces that are never stored together.
        let total = absolute_row_sums(&self.kernels, spread, moments, self.dense_kind)?;
        let total = total.f_view([outputs, height, width])?;
        let signed = match form {
            ScoreForm::Abs => None,
            ScoreForm::Relu => {
                let sums = moments.f_sum_dim_intlist(0, false, Kind::Float)?;
                Some(spread.f_mv(&sums)?.f_neg()?.f_view([outputs, height, width])?)
            }
        };

        // The nine neighbours: |loc − d| takes the place of |d|.
        let spread = spread.f_view([outputs, height, width, features])?.f_permute([1, 2, 0, 3])?;
        let moments = moments.f_view([heads, height, width, features])?.f_permute([1, 2, 3, 0])?;
        let local = local.f_view([heads, height, width, outputs, 9])?.f_permute([1, 2, 3, 0, 4])?;
        for (i, (dy, dx)) in (-1i64..=1).flat_map(|dy| (-1i64..=1).map(move |dx| (dy, dx))).enumerate() {
            let inside = |x: &Tensor, dy: i64, dx: i64| -> Result<Tensor> {
                let x = x.f_narrow(0, dy.max(0), height - dy.abs())?;
                Ok(x.f_narrow(1, dx.max(0), width - dx.abs())?)
            };
            if dy.abs() >= height || dx.abs() >= width {
                continue;
            }
            let dense = inside(&spread, -dy, -dx)?.f_matmul(&inside(&moments, dy, dx)?)?;
            let near = inside(&local, dy, dx)?.f_select(-1, i as i64)?;
            let correction = near.f_sub(&dense)?.f_abs()?.f_sub(&dense.f_abs()?)?;
            let add_to = |target: &Tensor, x: &Tensor| -> Result<()> {
                let x = x.f_sum_dim_intlist(-1, false, Kind::Float)?.f_permute([2, 0, 1])?;
                let target = target.f_narrow(1, (-dy).max(0), height - dy.abs())?;
                let _ = target.f_narrow(2, (-dx).max(0), width - dx.abs())?.f_add_(&x)?;
                Ok(())
            };
            add_to(&total, &correction)?;
            if let Some(signed) = &signed {
                add_to(signed, &near)?;
            }
        }
        match signed {
            None => Ok(total),
            // max(J, 0) = (|J| + J) / 2.
            Some(signed) => Ok(total.f_add(&signed)?.f_mul_scalar(0.5)?),
        }
    }
}

/// The token's column of the probabilities `[H, N]` and its values `[H, d]` in one row of a batch.
pub(super) fn token_of(captured: &Captured, row: i64, token: i64) -> Result<(Tensor, Tensor)> {
    let column = captured.probabilities.f_get(row)?.f_select(-1, token)?.f_contiguous()?;
    let values = captured.values.f_get(row)?.f_select(1, token)?;
    Ok((column, values))
}

/// float32, but for networks in bfloat16 on a GPU: their attention and values are not known any better, and nearly all
/// the time goes into writing and reading these products.
fn dense_kind(weight: &Tensor) -> Kind {
    match (weight.device(), weight.kind()) {
        (Device::Cuda(_), Kind::BFloat16) => Kind::BFloat16,
        _ => Kind::Float,
    }
}

/// `Σ_j |(X Yᵀ)[i, j]|`, float32, for `X` `[n, k]` and `Y` `[m, k]`, multiplied in `kind`.
pub(super) fn absolute_row_sums(kernels: &Kernels, x: &Tensor, y: &Tensor, kind: Kind) -> Result<Tensor> {
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
