//! LPIPS 0.1 (Zhang et al. 2018): how different two pictures look, as distances of a trunk's features, weighted by what
//! people said.

use std::path::Path;

use diorama_diffusion::device::Device;
use diorama_diffusion::error::Result;
use diorama_diffusion::model::weights::Weights;
use tch::{Kind, Tensor};

use super::layers::{Conv, Shape};
use super::resize::normalized;

/// The scaling layer's, for pictures in [-1, 1].
const SHIFT: [f64; 3] = [-0.030, -0.088, -0.188];
const SCALE: [f64; 3] = [0.458, 0.448, 0.450];
/// Pictures with a shorter side have no features left at the trunk's end.
pub const SMALLEST_SIDE: u32 = 32;

/// The network whose features are compared. Figures of one trunk do not compare with those of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trunk {
    /// AlexNet: the authors' default.
    Alex,
    /// VGG16.
    Vgg,
    /// SqueezeNet 1.1: what PIE-Bench takes.
    Squeeze,
}

impl Trunk {
    /// The name of the measure.
    pub fn measure(self) -> &'static str {
        match self {
            Self::Alex => "lpips_alex",
            Self::Vgg => "lpips_vgg",
            Self::Squeeze => "lpips_squeeze",
        }
    }
}

enum Step {
    ConvRelu(Conv),
    /// Kernel and stride; whether what is left at the border counts as a window.
    Pool(i64, i64, bool),
    Fire {
        squeeze: Conv,
        narrow: Conv,
        wide: Conv,
    },
    /// Features that are compared.
    Tap,
}

/// LPIPS on one trunk.
pub struct Lpips {
    trunk: Trunk,
    steps: Vec<Step>,
    heads: Vec<Tensor>,
    device: tch::Device,
    digest: [u8; 32],
}

impl Lpips {
    /// Reads `model.safetensors` of a folder: torchvision's `features.*` and the package's `lin*.model.1.weight`.
    pub fn load(folder: &Path, trunk: Trunk, device: Device) -> Result<Self> {
        let weights = Weights::open(folder, "model", None, Kind::Float, device.torch())?;
        let digest = weights.digest();
        let (steps, channels) = match trunk {
            Trunk::Alex => (alex(&weights)?, &[64, 192, 384, 256, 256][..]),
            Trunk::Vgg => (vgg(&weights)?, &[64, 128, 256, 512, 512][..]),
            Trunk::Squeeze => (squeeze(&weights)?, &[64, 128, 256, 384, 384, 512, 512][..]),
        };
        let head =
            |(at, channels): (usize, &i64)| weights.take(&format!("lin{at}.model.1.weight"), &[1, *channels, 1, 1]);
        let heads = channels.iter().enumerate().map(head).collect::<Result<_>>()?;
        weights.finish()?;
        Ok(Self { trunk, steps, heads, device: device.torch(), digest })
    }

    /// The digest of the weights.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// On which trunk.
    pub fn trunk(&self) -> Trunk {
        self.trunk
    }

    /// How different two batches `[b, 3, h, w]` in [0, 255] look, pair by pair: `b` numbers, 0 for equal ones.
    pub fn distance(&self, a: &Tensor, b: &Tensor) -> Result<Vec<f64>> {
        let count = a.size()[0];
        let both = Tensor::f_cat(&[a, b], 0)?.f_to_device(self.device)?.f_to_kind(Kind::Float)?;
        let mut x = normalized(&both.f_div_scalar(127.5)?.f_sub_scalar(1.0)?, SHIFT, SCALE)?;
        let mut heads = self.heads.iter();
        let mut total = Tensor::f_zeros([count], (Kind::Double, self.device))?;
        for step in &self.steps {
            match step {
                Step::Tap => {
                    let Some(head) = heads.next() else { break };
                    total = total.f_add(&layer_distance(&x, count, head)?)?;
                }
                step => x = step.forward(&x)?,
            }
        }
        Ok(Vec::<f64>::try_from(total.f_to_device(tch::Device::Cpu)?)?)
    }
}

impl Step {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::ConvRelu(conv) => conv.forward(x)?.f_relu()?,
            Self::Pool(kernel, stride, ceil) => {
                x.f_max_pool2d([*kernel, *kernel], [*stride, *stride], [0, 0], [1, 1], *ceil)?
            }
            Self::Fire { squeeze, narrow, wide } => {
                let x = squeeze.forward(x)?.f_relu()?;
                Tensor::f_cat(&[narrow.forward(&x)?.f_relu()?, wide.forward(&x)?.f_relu()?], 1)?
            }
            Self::Tap => x.shallow_clone(),
        })
    }
}

/// Features as directions, their squared difference by the head, the mean over places.
fn layer_distance(x: &Tensor, count: i64, head: &Tensor) -> Result<Tensor> {
    let length = x.f_square()?.f_sum_dim_intlist(&[1_i64][..], true, Kind::Float)?.f_sqrt()?;
    let directions = x.f_div(&length.f_add_scalar(1e-10)?)?;
    let difference = directions.f_narrow(0, 0, count)?.f_sub(&directions.f_narrow(0, count, count)?)?.f_square()?;
    let weighted = difference.f_conv2d::<Tensor>(head, None, [1, 1], [0, 0], [1, 1], 1)?;
    Ok(weighted.f_mean_dim(&[1_i64, 2, 3][..], false, Kind::Double)?)
}

fn conv(weights: &Weights, at: i64, shape: Shape) -> Result<Step> {
    Ok(Step::ConvRelu(Conv::load(weights, &format!("features.{at}"), shape, true)?))
}

fn alex(weights: &Weights) -> Result<Vec<Step>> {
    Ok(vec![
        conv(weights, 0, Shape::square(3, 64, 11, 4, 2))?,
        Step::Tap,
        Step::Pool(3, 2, false),
        conv(weights, 3, Shape::square(64, 192, 5, 1, 2))?,
        Step::Tap,
        Step::Pool(3, 2, false),
        conv(weights, 6, Shape::square(192, 384, 3, 1, 1))?,
        Step::Tap,
        conv(weights, 8, Shape::square(384, 256, 3, 1, 1))?,
        Step::Tap,
        conv(weights, 10, Shape::square(256, 256, 3, 1, 1))?,
        Step::Tap,
    ])
}

fn vgg(weights: &Weights) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    let (mut at, mut inputs) = (0, 3);
    for (stage, (outputs, convs)) in [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)].into_iter().enumerate() {
        if stage > 0 {
            steps.push(Step::Pool(2, 2, false));
            at += 1;
        }
        for _ in 0..convs {
            steps.push(conv(weights, at, Shape::square(inputs, outputs, 3, 1, 1))?);
            // Each convolution is followed by its activation.
            at += 2;
            inputs = outputs;
        }
        steps.push(Step::Tap);
    }
    Ok(steps)
}

fn squeeze(weights: &Weights) -> Result<Vec<Step>> {
    let fire = |at: i64, inputs: i64, inner: i64, outputs: i64| -> Result<Step> {
        let part = |name: &str, shape: Shape| Conv::load(weights, &format!("features.{at}.{name}"), shape, true);
        Ok(Step::Fire {
            squeeze: part("squeeze", Shape::square(inputs, inner, 1, 1, 0))?,
            narrow: part("expand1x1", Shape::square(inner, outputs, 1, 1, 0))?,
            wide: part("expand3x3", Shape::square(inner, outputs, 3, 1, 1))?,
        })
    };
    Ok(vec![
        conv(weights, 0, Shape::square(3, 64, 3, 2, 0))?,
        Step::Tap,
        Step::Pool(3, 2, true),
        fire(3, 64, 16, 64)?,
        fire(4, 128, 16, 64)?,
        Step::Tap,
        Step::Pool(3, 2, true),
        fire(6, 128, 32, 128)?,
        fire(7, 256, 32, 128)?,
        Step::Tap,
        Step::Pool(3, 2, true),
        fire(9, 256, 48, 192)?,
        Step::Tap,
        fire(10, 384, 48, 192)?,
        Step::Tap,
        fire(11, 384, 64, 256)?,
        Step::Tap,
        fire(12, 512, 64, 256)?,
        Step::Tap,
    ])
}
