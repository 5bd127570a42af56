//! The few layers that the networks are made of, with fallible calls only. Names and semantics are PyTorch's.

use tch::{Device, Tensor};

use super::weights::Weights;
use crate::error::Result;

/// `y = x Wᵀ + b`.
pub struct Linear {
    /// `[outputs, inputs]`.
    pub weight: Tensor,
    /// `[outputs]`.
    pub bias: Option<Tensor>,
}

impl Linear {
    /// Takes `{name}.weight` and `{name}.bias`.
    pub fn load(weights: &Weights, name: &str, inputs: i64, outputs: i64, bias: bool) -> Result<Self> {
        Ok(Self {
            weight: weights.take(&format!("{name}.weight"), &[outputs, inputs])?,
            bias: if bias { Some(weights.take(&format!("{name}.bias"), &[outputs])?) } else { None },
        })
    }

    /// Applies it.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_linear(&self.weight, self.bias.as_ref())?)
    }
}

/// A square convolution.
pub struct Conv2d {
    /// `[outputs, inputs, kernel, kernel]`.
    pub weight: Tensor,
    /// `[outputs]`.
    pub bias: Tensor,
    stride: i64,
    padding: i64,
}

impl Conv2d {
    /// Takes `{name}.weight` and `{name}.bias`.
    pub fn load(
        weights: &Weights,
        name: &str,
        (inputs, outputs): (i64, i64),
        kernel: i64,
        stride: i64,
        padding: i64,
    ) -> Result<Self> {
        let weight = weights.take(&format!("{name}.weight"), &[outputs, inputs, kernel, kernel])?;
        Ok(Self {
            weight: for_convolution(&weight)?,
            bias: weights.take(&format!("{name}.bias"), &[outputs])?,
            stride,
            padding,
        })
    }

    /// Applies it.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (s, p) = (self.stride, self.padding);
        Ok(x.f_conv2d(&self.weight, Some(&self.bias), [s, s], [p, p], [1, 1], 1)?)
    }
}

/// The same numbers in the memory order in which convolutions are fastest: on a GPU the channels of a pixel side by side,
/// on a CPU plane by plane.
pub fn for_convolution(x: &Tensor) -> Result<Tensor> {
    if x.device() == Device::Cpu {
        return Ok(x.f_contiguous()?);
    }
    Ok(x.f_permute([0, 2, 3, 1])?.f_contiguous()?.f_permute([0, 3, 1, 2])?)
}

/// Group normalisation.
pub struct GroupNorm {
    /// Groups of channels.
    pub groups: i64,
    /// `[C]`.
    pub weight: Tensor,
    /// `[C]`.
    pub bias: Tensor,
    /// Added to the variance.
    pub eps: f64,
}

impl GroupNorm {
    /// Takes `{name}.weight` and `{name}.bias`.
    pub fn load(weights: &Weights, name: &str, groups: i64, channels: i64, eps: f64) -> Result<Self> {
        Ok(Self {
            groups,
            weight: weights.take(&format!("{name}.weight"), &[channels])?,
            bias: weights.take(&format!("{name}.bias"), &[channels])?,
            eps,
        })
    }

    /// Applies it.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_group_norm(self.groups, Some(&self.weight), Some(&self.bias), self.eps, true)?)
    }
}

/// Layer normalisation over the last dimension.
pub struct LayerNorm {
    /// `[C]`.
    pub weight: Tensor,
    /// `[C]`.
    pub bias: Tensor,
    /// Added to the variance.
    pub eps: f64,
}

impl LayerNorm {
    /// Takes `{name}.weight` and `{name}.bias`.
    pub fn load(weights: &Weights, name: &str, channels: i64, eps: f64) -> Result<Self> {
        Ok(Self {
            weight: weights.take(&format!("{name}.weight"), &[channels])?,
            bias: weights.take(&format!("{name}.bias"), &[channels])?,
            eps,
        })
    }

    /// Applies it.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_layer_norm(self.weight.size(), Some(&self.weight), Some(&self.bias), self.eps, true)?)
    }
}

/// `[B, N, H·d] → [B, H, N, d]`.
pub fn split_heads(x: &Tensor, heads: i64) -> Result<Tensor> {
    let (b, n, c) = x.size3()?;
    Ok(x.f_view([b, n, heads, c / heads])?.f_transpose(1, 2)?)
}

/// `[B, H, N, d] → [B, N, H·d]`.
pub fn merge_heads(x: &Tensor) -> Result<Tensor> {
    let (b, h, n, d) = x.size4()?;
    Ok(x.f_transpose(1, 2)?.f_reshape([b, n, h * d])?)
}

/// Fused attention, `softmax(q kᵀ / √d) v`; `mask` is added to the logits.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
    Ok(Tensor::f_scaled_dot_product_attention(q, k, v, mask, 0.0, false, None, false)?)
}
