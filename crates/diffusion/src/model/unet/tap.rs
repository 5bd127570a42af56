//! A tap on the network's cross-attention: what a forward pass should capture, and how it should be disturbed.

use tch::Tensor;

use crate::error::Result;

/// What one forward pass does beside its output. The default does nothing and costs nothing.
#[derive(Default)]
pub struct Tap {
    /// The layers, by index, whose probabilities are captured.
    pub layers: Vec<usize>,
    /// Whether to capture what the closed form needs of the last layer.
    pub tail: bool,
    /// Whether captured probabilities become leaves of an autograd graph.
    pub differentiable: bool,
    /// Probabilities to multiply, for finite differences.
    pub perturb: Option<Perturbation>,
    /// What was captured: one a layer of `layers`, in the network's order.
    pub captured: Vec<Captured>,
    /// The input of the last layer norm before the last feed-forward, `[B, N, C]`.
    pub tail_residual: Option<Tensor>,
    /// The input of the output's group norm, `[B, C0, h, w]`.
    pub tail_input: Option<Tensor>,
}

/// The attention of one layer.
pub struct Captured {
    /// The layer.
    pub layer: usize,
    /// `A`, the probabilities `[B, H, N, T]`, float32 or the network's precision.
    pub probabilities: Tensor,
    /// The values `[B, H, T, d]`.
    pub values: Tensor,
    /// Rows of the layer's positions: `N = height · width`.
    pub height: i64,
    /// Positions a row.
    pub width: i64,
}

/// Multiplies the probabilities of one layer by `factor` `[B, H, N, T]` (broadcast).
pub struct Perturbation {
    /// The layer.
    pub layer: usize,
    /// The factor.
    pub factor: Tensor,
}

impl Tap {
    /// Captures these layers, and the tail of the closed form if `tail`.
    pub fn capture(layers: &[usize], tail: bool) -> Self {
        Self { layers: layers.to_vec(), tail, ..Self::default() }
    }

    /// Whether the probabilities of `layer` have to be formed.
    pub(super) fn wants(&self, layer: usize) -> bool {
        self.layers.contains(&layer) || self.perturb.as_ref().is_some_and(|p| p.layer == layer)
    }

    pub(super) fn capture_tail_input(&mut self, x: &Tensor) -> Result<()> {
        if self.tail {
            self.tail_input = Some(x.shallow_clone());
        }
        Ok(())
    }
}
