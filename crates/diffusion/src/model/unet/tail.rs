//! What the closed form differentiates through: the network behind its last cross-attention.

use super::attention::TransformerModel;
use crate::model::nn::{Conv2d, GroupNorm};

/// The parts of the network behind the last cross-attention.
pub struct Tail<'a> {
    /// The transformer whose last block holds the layer.
    pub transformer: &'a TransformerModel,
    /// The output's group norm.
    pub norm_out: &'a GroupNorm,
    /// The output's convolution.
    pub conv_out: &'a Conv2d,
}
