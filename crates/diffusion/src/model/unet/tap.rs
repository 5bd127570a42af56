//! A tap on the network's cross-attention: what a forward pass should capture, and how it should be disturbed.

use tch::Tensor;

use crate::error::Result;

/// What one forward pass does beside its output. The default does nothing and costs nothing.
#[derive(Default)]
pub struct Tap {
    /// The layers, by index, whose probabilities are captured.
    pub layers: Vec<usize>,
    /// The first row of the batch that is captured: with guidance the first conditional one.
    pub first: i64,
    /// Whether the probabilities of the rows before it are not even formed: their attention is fused, as in a step
    /// without an edit.
    pub spares: bool,
    /// Whether to capture what the closed form needs of the last layer.
    pub tail: bool,
    /// Whether captured probabilities become leaves of an autograd graph.
    pub differentiable: bool,
    /// Probabilities to multiply, for finite differences.
    pub perturb: Option<Perturbation>,
    /// What was captured: one a layer of `layers`, in the network's order.
    pub captured: Vec<Captured>,
    /// The input of the last layer norm before the last feed-forward, `[R, N, C]`.
    pub tail_residual: Option<Tensor>,
    /// The input of the output's group norm, `[R, C0, h, w]`.
    pub tail_input: Option<Tensor>,
}

/// The attention of one layer, in the R rows of the batch that are captured.
pub struct Captured {
    /// The layer.
    pub layer: usize,
    /// `A`, the probabilities `[R, H, N, T]`, float32 or the network's precision.
    pub probabilities: Tensor,
    /// The values `[R, H, T, d]`.
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

    /// The rows of a batch that are captured.
    pub(super) fn rows(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_narrow(0, self.first, x.size()[0] - self.first)?)
    }

    pub(super) fn capture_tail_residual(&mut self, x: &Tensor) -> Result<()> {
        if self.tail {
            // Each later layer overwrites it: what stays is the last layer's.
            self.tail_residual = Some(self.rows(x)?);
        }
        Ok(())
    }

    pub(super) fn capture_tail_input(&mut self, x: &Tensor) -> Result<()> {
        if self.tail {
            self.tail_input = Some(self.rows(x)?);
        }
        Ok(())
    }
}
