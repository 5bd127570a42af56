//! Convolutions of the evaluation networks: rectangular kernels, batch normalisation as in training's frozen statistics.

use diorama_diffusion::error::Result;
use diorama_diffusion::model::weights::Weights;
use tch::Tensor;

/// The shape of a convolution.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) inputs: i64,
    pub(super) outputs: i64,
    /// Rows, columns.
    pub(super) kernel: [i64; 2],
    pub(super) stride: i64,
    /// Rows, columns.
    pub(super) padding: [i64; 2],
}

impl Shape {
    /// A square kernel.
    pub(super) fn square(inputs: i64, outputs: i64, kernel: i64, stride: i64, padding: i64) -> Self {
        Self { inputs, outputs, kernel: [kernel; 2], stride, padding: [padding; 2] }
    }
}

/// A convolution.
pub(super) struct Conv {
    weight: Tensor,
    bias: Option<Tensor>,
    stride: [i64; 2],
    padding: [i64; 2],
}

impl Conv {
    /// Takes `{name}.weight` and, where there is one, `{name}.bias`.
    pub(super) fn load(weights: &Weights, name: &str, shape: Shape, bias: bool) -> Result<Self> {
        let [rows, columns] = shape.kernel;
        Ok(Self {
            weight: weights.take(&format!("{name}.weight"), &[shape.outputs, shape.inputs, rows, columns])?,
            bias: if bias { Some(weights.take(&format!("{name}.bias"), &[shape.outputs])?) } else { None },
            stride: [shape.stride; 2],
            padding: shape.padding,
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_conv2d(&self.weight, self.bias.as_ref(), self.stride, self.padding, [1, 1], 1)?)
    }
}

/// Convolution, batch normalisation, ReLU.
pub(super) struct ConvNormRelu {
    conv: Conv,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    eps: f64,
}

impl ConvNormRelu {
    /// `conv` and `norm` are the names of the two.
    pub(super) fn load(weights: &Weights, conv: &str, norm: &str, shape: Shape, eps: f64) -> Result<Self> {
        let take = |what: &str| weights.take(&format!("{norm}.{what}"), &[shape.outputs]);
        weights.ignore(&format!("{norm}.num_batches_tracked"));
        Ok(Self {
            conv: Conv::load(weights, conv, shape, false)?,
            weight: take("weight")?,
            bias: take("bias")?,
            mean: take("running_mean")?,
            variance: take("running_var")?,
            eps,
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (weight, bias) = (Some(&self.weight), Some(&self.bias));
        let (mean, variance) = (Some(&self.mean), Some(&self.variance));
        let x = self.conv.forward(x)?;
        Ok(x.f_batch_norm(weight, bias, mean, variance, false, 0.0, self.eps, false)?.f_relu()?)
    }
}
