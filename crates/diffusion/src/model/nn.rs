//! The few layers that the networks are made of, with fallible calls only. Names and semantics are PyTorch's.

use tch::Tensor;

use super::weights::Weights;
use crate::error::Result;
use crate::kernels::{Kernels, Norm};

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

/// A feature map `[B, C, h, w]` to which vectors of channels are still to be added. libtorch's path adds a convolution's
/// bias at once; our own kernels add what is left over while they read the map for what comes next.
pub struct FeatureMap<'a> {
    values: Tensor,
    /// `[C]`.
    bias: Option<&'a Tensor>,
    /// `[1 or B, C, 1, 1]`.
    time: Option<Tensor>,
}

impl FeatureMap<'_> {
    /// Everything added.
    fn finished(self) -> Result<Tensor> {
        let mut values = self.values;
        if let Some(bias) = self.bias {
            values = add(values, &bias.f_view([1, -1, 1, 1])?)?;
        }
        if let Some(time) = self.time {
            values = add(values, &time)?;
        }
        Ok(values)
    }
}

impl From<&Tensor> for FeatureMap<'_> {
    fn from(values: &Tensor) -> Self {
        Self { values: values.shallow_clone(), bias: None, time: None }
    }
}

/// A square convolution.
///
/// On libtorch's kernels feature maps lie plane by plane, on GPUs too; networks see to that where they begin. Their
/// convolutions are fastest over the channels of a pixel side by side, but libtorch's group norm knows planes only, and
/// its copies to and fro cost more than that gains: on an H100 in bfloat16, Stable Diffusion v1.5's size at batch 16, 7.3
/// pictures/s plane by plane and 6.5 with channels last. Our own group norm knows that order: where it runs, weights are
/// kept in it, and cuDNN gives each map as it takes the weights.
pub struct Conv2d {
    /// `[outputs, inputs, kernel, kernel]`.
    pub weight: Tensor,
    /// `[outputs]`.
    pub bias: Tensor,
    stride: i64,
    padding: i64,
    kernels: Kernels,
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
        let kernels = weights.kernels().clone();
        let weight = weights.take(&format!("{name}.weight"), &[outputs, inputs, kernel, kernel])?;
        let weight = kernels.arranged(weight)?;
        Ok(Self { weight, bias: weights.take(&format!("{name}.bias"), &[outputs])?, stride, padding, kernels })
    }

    /// Applies it.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.convolved(x, Some(&self.bias))
    }

    /// Applies it, and `time` `[1 or B, C, 1, 1]` is to be added; as the bias may be.
    pub fn begin(&self, x: &Tensor, time: Option<Tensor>) -> Result<FeatureMap<'_>> {
        let bias = self.kernels.are_own().then_some(&self.bias);
        let values = self.convolved(x, if bias.is_some() { None } else { Some(&self.bias) })?;
        Ok(FeatureMap { values, bias, time })
    }

    /// Applies it and adds a residual.
    pub fn forward_plus(&self, x: &Tensor, residual: FeatureMap<'_>) -> Result<Tensor> {
        let h = self.begin(x, None)?;
        if residual.time.is_none()
            && let Some(sum) = self.kernels.bias_residual(&h.values, h.bias, &residual.values, residual.bias)?
        {
            return Ok(sum);
        }
        add(h.finished()?, &residual.finished()?)
    }

    fn convolved(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let (s, p) = (self.stride, self.padding);
        Ok(x.f_conv2d(&self.weight, bias, [s, s], [p, p], [1, 1], 1)?)
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
    kernels: Kernels,
}

impl GroupNorm {
    /// Takes `{name}.weight` and `{name}.bias`.
    pub fn load(weights: &Weights, name: &str, groups: i64, channels: i64, eps: f64) -> Result<Self> {
        Ok(Self {
            groups,
            weight: weights.take(&format!("{name}.weight"), &[channels])?,
            bias: weights.take(&format!("{name}.bias"), &[channels])?,
            eps,
            kernels: weights.kernels().clone(),
        })
    }

    /// Applies it.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.normed(x.into(), false)
    }

    /// Applies it and SiLU.
    pub fn forward_silu<'a>(&self, x: impl Into<FeatureMap<'a>>) -> Result<Tensor> {
        self.normed(x.into(), true)
    }

    /// What it runs on.
    pub fn kernels(&self) -> &Kernels {
        &self.kernels
    }

    fn normed(&self, x: FeatureMap<'_>, with_silu: bool) -> Result<Tensor> {
        let (left, norm) = ((x.bias, x.time.as_ref()), self.norm());
        if let Some(y) = self.kernels.group_norm(&x.values, left, self.groups, norm, with_silu)? {
            return Ok(y);
        }
        let (weight, bias) = (Some(&self.weight), Some(&self.bias));
        let y = x.finished()?.f_group_norm(self.groups, weight, bias, self.eps, true)?;
        if with_silu { silu(y) } else { Ok(y) }
    }

    fn norm(&self) -> Norm<'_> {
        Norm { weight: &self.weight, bias: &self.bias, eps: self.eps }
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
    kernels: Kernels,
}

impl LayerNorm {
    /// Takes `{name}.weight` and `{name}.bias`.
    pub fn load(weights: &Weights, name: &str, channels: i64, eps: f64) -> Result<Self> {
        Ok(Self {
            weight: weights.take(&format!("{name}.weight"), &[channels])?,
            bias: weights.take(&format!("{name}.bias"), &[channels])?,
            eps,
            kernels: weights.kernels().clone(),
        })
    }

    /// Applies it.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if let Some((_, y)) = self.kernels.add_layer_norm(x, None, self.norm())? {
            return Ok(y);
        }
        Ok(x.f_layer_norm(self.weight.size(), Some(&self.weight), Some(&self.bias), self.eps, true)?)
    }

    /// `x + y`, in memory as [`add`], and what it makes of that.
    pub fn forward_sum(&self, x: Tensor, y: &Tensor) -> Result<(Tensor, Tensor)> {
        if let Some(both) = self.kernels.add_layer_norm(&x, Some(y), self.norm())? {
            return Ok(both);
        }
        let sum = add(x, y)?;
        let normed = self.forward(&sum)?;
        Ok((sum, normed))
    }

    fn norm(&self) -> Norm<'_> {
        Norm { weight: &self.weight, bias: &self.bias, eps: self.eps }
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
