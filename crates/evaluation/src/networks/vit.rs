//! A layer of a vision transformer: CLIP's picture tower and DINO are stacks of it, under other names.

use diorama_diffusion::error::Result;
use diorama_diffusion::model::nn::{LayerNorm, Linear, attention, merge_heads, split_heads};
use diorama_diffusion::model::weights::Weights;
use tch::Tensor;

/// The activation between the two linear layers.
#[derive(Clone, Copy)]
pub(super) enum Activation {
    /// `x · σ(1.702 x)`.
    QuickGelu,
    /// The exact GELU.
    Gelu,
}

/// What a layer's parts are called below its prefix.
pub(super) struct Names {
    pub(super) norm1: &'static str,
    pub(super) query: &'static str,
    pub(super) key: &'static str,
    pub(super) value: &'static str,
    pub(super) out: &'static str,
    pub(super) norm2: &'static str,
    pub(super) fc1: &'static str,
    pub(super) fc2: &'static str,
}

/// The sizes of a layer.
#[derive(Clone, Copy)]
pub(super) struct Size {
    pub(super) width: i64,
    pub(super) inner: i64,
    pub(super) heads: i64,
    pub(super) eps: f64,
    pub(super) activation: Activation,
}

pub(super) struct Layer {
    norm1: LayerNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    size: Size,
}

impl Layer {
    pub(super) fn load(weights: &Weights, prefix: &str, names: &Names, size: Size) -> Result<Self> {
        let square = |name: &str| Linear::load(weights, &format!("{prefix}.{name}"), size.width, size.width, true);
        let norm = |name: &str| LayerNorm::load(weights, &format!("{prefix}.{name}"), size.width, size.eps);
        Ok(Self {
            norm1: norm(names.norm1)?,
            query: square(names.query)?,
            key: square(names.key)?,
            value: square(names.value)?,
            out: square(names.out)?,
            norm2: norm(names.norm2)?,
            fc1: Linear::load(weights, &format!("{prefix}.{}", names.fc1), size.width, size.inner, true)?,
            fc2: Linear::load(weights, &format!("{prefix}.{}", names.fc2), size.inner, size.width, true)?,
            size,
        })
    }

    /// `[b, n, c]` → `[b, n, c]`.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let h = self.norm1.forward(x)?;
        let heads = |linear: &Linear| split_heads(&linear.forward(&h)?, self.size.heads);
        let h = merge_heads(&attention(&heads(&self.query)?, &heads(&self.key)?, &heads(&self.value)?, None)?)?;
        let x = x.f_add(&self.out.forward(&h)?)?;
        let h = self.fc1.forward(&self.norm2.forward(&x)?)?;
        let h = match self.size.activation {
            Activation::QuickGelu => h.f_mul(&h.f_mul_scalar(1.702)?.f_sigmoid()?)?,
            Activation::Gelu => h.f_gelu("none")?,
        };
        Ok(x.f_add(&self.fc2.forward(&h)?)?)
    }

    /// The keys of all heads side by side, `[b, n, c]`, for the same input as [`Layer::forward`].
    pub(super) fn keys(&self, x: &Tensor) -> Result<Tensor> {
        self.key.forward(&self.norm1.forward(x)?)
    }
}
