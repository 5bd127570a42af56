//! The exact Jacobian of the model output with respect to the last cross-attention layer's probabilities, and the score
//! that comes of it, without ever storing the Jacobian. `docs/method.md`, "The closed form at the last layer", has the
//! derivation; the names here are the same.
//!
//! `J[o,p,h,q] = Loc[o, q−p, h, q] · 1[|q−p|∞ ≤ 1] − (P Yᵀ)[(o,p),(h,q)]`, everything in float32.

mod factors;

use std::f64::consts::{PI, SQRT_2};

use tch::{Device, Kind, Tensor};

pub(super) use self::factors::{Factors, absolute_row_sums};
use crate::error::{Error, Result};
use crate::kernels::Kernels;
use crate::model::unet::{Captured, Tail};

/// How things are computed, above all how a score is multiplied out: the same numbers but for rounding, in the way that
/// suits a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arithmetic {
    /// The fewest operations, in pieces that stay in the cache.
    Cpu,
    /// The fewest launches: all heads in one product, which is twice as much to multiply, and all neighbours in another.
    Gpu,
}

impl Arithmetic {
    /// What suits a device.
    pub fn on(device: Device) -> Self {
        if device == Device::Cpu { Self::Cpu } else { Self::Gpu }
    }

    /// float32, but for networks in bfloat16 on a GPU: their attention and values are not known any better, and nearly all
    /// the time goes into multiplying, writing and reading what is dense.
    fn dense_kind(self, weight: &Tensor) -> Kind {
        match (self, weight.kind()) {
            (Self::Gpu, Kind::BFloat16) => Kind::BFloat16,
            _ => Kind::Float,
        }
    }

    /// The neighbours that are multiplied out in one product, and the place of the first of them among all.
    fn neighbours_at_once<T>(self, neighbours: &[T]) -> impl Iterator<Item = (i64, &[T])> {
        let at_once = if self == Self::Cpu { 1 } else { neighbours.len() };
        (0..).step_by(at_once).zip(neighbours.chunks(at_once))
    }
}

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
    arithmetic: Arithmetic,
    /// In which precision the dense part is multiplied out, before it is summed in float32.
    dense_kind: Kind,
    kernels: Kernels,
}

/// What the forward pass left behind for R rows, and what does not depend on the token.
pub(super) struct Activations {
    /// Normalised residual stream `x̂` `[R, N, C]`.
    unit: Tensor,
    /// `rstd · gelu(b)` and `rstd · a · gelu'(b)`, `[R, N, M]`: what a change of values and of gates does.
    by_value: Tensor,
    by_gate: Tensor,
    /// The part of the feed-forward's derivative along `x̂` itself, already projected: `[R, N, C0]`.
    along_unit: Tensor,
    /// `ŷ` `[R, N, C0]`, and `E = SiLU'(z) · γ · rstd` `[R, N, C0]`.
    normed: Tensor,
    slope: Tensor,
    /// `P` `[R, O, N, 2G]`.
    spread: Tensor,
    height: i64,
    width: i64,
}

impl ClosedForm {
    /// Prepares the weights of `tail` for layers of H heads.
    pub(super) fn new(tail: &Tail<'_>, arithmetic: Arithmetic) -> Result<Self> {
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
            dense_kind: arithmetic.dense_kind(&tail.conv_out.weight),
            kernels: tail.norm_out.kernels().clone(),
            arithmetic,
        })
    }

    /// Everything that the rows' tokens share. `stream` `[R, N, C]` is the input of the last layer norm, `last`
    /// `[R, C0, h, w]` that of the output's group norm.
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
        let (rows, channels, height, width) = last.size4()?;
        let (groups, positions) = (self.groups, height * width);
        let grouped = last.f_to_kind(Kind::Float)?.f_reshape([rows, groups, -1])?;
        let mean = grouped.f_mean_dim(-1, true, Kind::Float)?;
        let group_rstd = grouped.f_var_dim(-1, false, true)?.f_add_scalar(self.group_eps)?.f_rsqrt()?;
        let normed = grouped.f_sub(&mean)?.f_mul(&group_rstd)?.f_view([rows, channels, positions])?;
        let column = |x: &Tensor| x.f_view([channels, 1]);
        let z = normed.f_mul(&column(&self.group_weight)?)?.f_add(&column(&self.group_bias)?)?;
        let sigmoid = z.f_sigmoid()?;
        // SiLU'(z) = σ(z) · (1 + z · (1 − σ(z))).
        let silu_slope = sigmoid.f_neg()?.f_add_scalar(1.0)?.f_mul(&z)?.f_add_scalar(1.0)?.f_mul(&sigmoid)?;
        let rstd_of_channel = group_rstd.f_expand([rows, groups, channels / groups], false)?;
        let rstd_of_channel = rstd_of_channel.f_reshape([rows, channels, 1])?;
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
            normed: normed.f_transpose(1, 2)?.f_contiguous()?,
            slope: slope.f_transpose(1, 2)?.f_contiguous()?,
            spread,
            height,
            width,
        })
    }

    /// The last convolution, one group of input channels at a time: `[R, C0, N]` → `[R, O, N, G]`.
    fn spread(&self, x: &Tensor, height: i64, width: i64) -> Result<Tensor> {
        let (outputs, channels, kh, kw) = self.kernel.size4()?;
        let (rows, groups) = (x.size3()?.0, self.groups);
        let kernel = self.kernel.f_view([outputs, groups, channels / groups, kh, kw])?.f_transpose(0, 1)?;
        let kernel = kernel.f_reshape([groups * outputs, channels / groups, kh, kw])?;
        let x = x.f_view([rows, channels, height, width])?;
        let y = x.f_conv2d(&kernel, None::<&Tensor>, [1, 1], [1, 1], [1, 1], groups)?;
        Ok(y.f_view([rows, groups, outputs, height * width])?.f_permute([0, 2, 3, 1])?)
    }

    /// `U[h, q, :] = ∂y[:, q] / ∂A[h, q]` `[R, H, N, C0]`, for a token of values `v` `[R, H, d]`.
    fn forward_derivative(&self, a: &Activations, v: &Tensor) -> Result<Tensor> {
        let v = v.f_to_kind(Kind::Float)?;
        let rows = v.size3()?.0;
        // w_h: what a change of A[h, q] adds to the residual stream at q, the same for each q. [R, H, C].
        let directions = self.out.f_mul(&v.f_unsqueeze(1)?)?.f_sum_dim_intlist(-1, false, Kind::Float)?;
        let directions = directions.f_transpose(1, 2)?;
        let (_, heads, channels) = directions.size3()?;
        let all = |x: &Tensor| x.f_reshape([rows * heads, channels]);
        let centred = directions.f_sub(&directions.f_mean_dim(-1, true, Kind::Float)?)?.f_mul(&self.norm_weight)?;
        let shared = all(&centred)?.f_matmul(&self.ff_in.f_transpose(0, 1)?)?.f_view([rows, heads, -1])?;
        let along = product(&a.unit, &directions.f_transpose(1, 2)?)?.f_div_scalar(channels as f64)?;
        let direct = all(&directions)?.f_matmul(&self.proj_out.f_transpose(0, 1)?)?.f_view([rows, heads, -1])?;
        let through = match self.arithmetic {
            Arithmetic::Cpu => self.through_feed_forward_by_head(a, &shared)?,
            Arithmetic::Gpu => self.through_feed_forward(a, &shared)?,
        };
        let unit_part = a.along_unit.f_unsqueeze(1)?.f_mul(&along.f_transpose(1, 2)?.f_unsqueeze(-1)?)?;
        Ok(through.f_sub(&unit_part)?.f_add(&direct.f_unsqueeze(2)?)?)
    }

    /// What goes through the feed-forward, `[R, H, N, C0]`: a product a head. `shared` `[R, H, 2M]`.
    fn through_feed_forward_by_head(&self, a: &Activations, shared: &Tensor) -> Result<Tensor> {
        let shared = shared.f_chunk(2, -1)?;
        let folded = self.folded.f_transpose(0, 1)?;
        let of_head = |h: i64| -> Result<Tensor> {
            let by_value = a.by_value.f_mul(&shared[0].f_narrow(1, h, 1)?)?;
            Ok(by_value.f_addcmul(&a.by_gate, &shared[1].f_narrow(1, h, 1)?)?.f_matmul(&folded)?)
        };
        let heads = (0..shared[0].size3()?.1).map(of_head).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::f_stack(&heads, 1)?)
    }

    /// The same as one product: `[R, N, 2M] · [R, 2M, H·C0]`.
    fn through_feed_forward(&self, a: &Activations, shared: &Tensor) -> Result<Tensor> {
        let (rows, heads, inner) = shared.size3()?;
        let folded = self.folded.f_transpose(0, 1)?;
        let channels = folded.size2()?.1;
        let folded = Tensor::f_cat(&[&folded, &folded], 0)?.f_unsqueeze(1)?;
        let of_heads = shared.f_transpose(1, 2)?.f_contiguous()?.f_unsqueeze(-1)?.f_mul(&folded)?;
        let of_heads = of_heads.f_view([rows, inner, heads * channels])?.f_to_kind(self.dense_kind)?;
        let by_both = Tensor::f_cat(&[&a.by_value, &a.by_gate], -1)?.f_to_kind(self.dense_kind)?;
        let through = by_both.f_bmm(&of_heads)?.f_view([rows, -1, heads, channels])?;
        Ok(through.f_transpose(1, 2)?.f_to_kind(Kind::Float)?.f_contiguous()?)
    }

    /// What the scores of a token of each row are made of: `A` is the token's column `[R, H, N]`, `v` its values
    /// `[R, H, d]`.
    pub(super) fn factors(&self, a: &Activations, column: &Tensor, v: &Tensor) -> Result<Factors> {
        let column = column.f_to_kind(Kind::Float)?.f_unsqueeze(-1)?;
        let u = self.forward_derivative(a, v)?;
        let (rows, heads, positions, channels) = u.size4()?;
        let (outputs, groups) = (self.kernel.size()[0], self.groups);

        // Y with A ≥ 0 folded into its rows.
        let count = (channels / groups * positions) as f64;
        let moment = |x: &Tensor| -> Result<Tensor> {
            let x = x.f_view([rows, heads, positions, groups, channels / groups])?;
            Ok(x.f_sum_dim_intlist(-1, false, Kind::Float)?.f_div_scalar(count)?)
        };
        let moments = Tensor::f_cat(&[moment(&u)?, moment(&u.f_mul(&a.normed.f_unsqueeze(1)?)?)?], -1)?;
        let moments = moments.f_mul(&column)?.f_view([rows, heads * positions, 2 * groups])?;
        // Loc with A folded in.
        let kernel = self.kernel.f_permute([1, 0, 2, 3])?.f_reshape([channels, outputs * 9])?;
        let local = u.f_mul(&a.slope.f_unsqueeze(1)?)?.f_mul(&column)?.f_matmul(&kernel)?;
        Ok(Factors {
            spread: a.spread.f_reshape([rows, outputs * positions, 2 * groups])?,
            moments,
            local: local.f_view([rows, heads, positions, outputs, 9])?,
            heads,
            outputs,
            height: a.height,
            width: a.width,
            dense_kind: self.dense_kind,
            kernels: self.kernels.clone(),
            arithmetic: self.arithmetic,
        })
    }
}

/// The tokens' columns of the probabilities `[R, H, N]` and their values `[R, H, d]`, one token of each of the batch's
/// rows from `first` on.
pub(super) fn tokens_of(captured: &Captured, first: i64, tokens: &[i64]) -> Result<(Tensor, Tensor)> {
    let each = |of: &dyn Fn(i64, i64) -> Result<Tensor>| -> Result<Tensor> {
        let rows = (first..).zip(tokens).map(|(row, &token)| of(row, token)).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::f_stack(&rows, 0)?)
    };
    let columns = each(&|row, token| Ok(captured.probabilities.f_get(row)?.f_select(-1, token)?))?;
    Ok((columns, each(&|row, token| Ok(captured.values.f_get(row)?.f_select(1, token)?))?))
}

/// `X Y` for each row; that of a single row as a plain product, which libtorch may round otherwise than one of many.
fn product(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    if x.size3()?.0 == 1 {
        return Ok(x.f_get(0)?.f_matmul(&y.f_get(0)?)?.f_unsqueeze(0)?);
    }
    Ok(x.f_bmm(y)?)
}
