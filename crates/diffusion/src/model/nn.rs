//! The few layers that the networks are made of, with fallible calls only. Names and semantics are PyTorch's.

use tch::Tensor;

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

    /// The outputs from `start` on, `length` of them, as a layer over the same memory.
    pub fn outputs(&self, start: i64, length: i64) -> Result<Self> {
        Ok(Self {
            weight: self.weight.f_narrow(0, start, length)?,
            bias: self.bias.as_ref().map(|bias| bias.f_narrow(0, start, length)).transpose()?,
        })
    }

    /// Applies it.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_linear(&self.weight, self.bias.as_ref())?)
    }
}

/// A square convolution.
///
/// Feature maps lie plane by plane, on GPUs too; networks see to that where they begin. Their convolutions are fastest over the channels of a pixel side by side,
/// but libtorch's group norm knows planes only, and its copies to and fro cost more than that gains: on an H100 in
/// bfloat16, Stable Diffusion v1.5's size at batch 16, 7.3 pictures/s plane by plane and 6.5 with channels last.
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
        Ok(Self { weight, bias: weights.take(&format!("{name}.bias"), &[outputs])?, stride, padding })
    }

    /// Applies it.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (s, p) = (self.stride, self.padding);
        Ok(x.f_conv2d(&self.weight, Some(&self.bias), [s, s], [p, p], [1, 1], 1)?)
    }
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

/// `x + y` in the memory of `x`, which nobody else may have; where a graph is recorded, in memory of its own.
pub fn add(mut x: Tensor, y: &Tensor) -> Result<Tensor> {
    if x.requires_grad() || y.requires_grad() {
        return Ok(x.f_add(y)?);
    }
    let _ = x.f_add_(y)?;
    Ok(x)
}

/// `x · σ(x)`, in memory as [`add`].
pub fn silu(mut x: Tensor) -> Result<Tensor> {
    if x.requires_grad() {
        return Ok(x.f_silu()?);
    }
    let _ = x.f_silu_()?;
    Ok(x)
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
