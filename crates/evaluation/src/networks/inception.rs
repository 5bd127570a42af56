//! InceptionV3 as FID's first implementation has it (TensorFlow, 2015-12-05), in torch-fidelity's conversion: unlike
//! torchvision's, averages leave padding out, and the last block's pool branch takes the maximum.

use std::path::Path;

use diorama_diffusion::device::Device;
use diorama_diffusion::error::Result;
use diorama_diffusion::image_processor::resample::{Filter, matrix};
use diorama_diffusion::model::weights::Weights;
use tch::{Kind, Tensor};

use super::layers::{ConvNormRelu, Shape};
use super::resize::tf1_bilinear;

/// The side that it sees.
const SIDE: i64 = 299;
const EPS: f64 = 1e-3;

/// How pictures come to 299 × 299. Figures of one way do not compare with those of the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resize {
    /// TensorFlow 1's bilinear without antialias: FID as published.
    Tf1,
    /// Pillow's bicubic in floating point, clipped: clean-fid (Parmar et al. 2022).
    Clean,
}

/// What it sees in pictures, float32.
pub struct Features {
    /// `[b, 64]`: means over the first max-pool.
    pub first: Tensor,
    /// `[b, 2048]`: means over the last block.
    pub last: Tensor,
}

/// The network.
pub struct Inception {
    stem: [ConvNormRelu; 3],
    middle: [ConvNormRelu; 2],
    blocks: Vec<Vec<Branch>>,
    device: tch::Device,
    digest: [u8; 32],
}

/// What is done one after the other, between the block's input and its part of the output.
type Branch = Vec<Step>;

enum Step {
    Conv(ConvNormRelu),
    /// Both, their outputs one behind the other.
    Both(ConvNormRelu, ConvNormRelu),
    /// 3 × 3, padding left out of the mean.
    Average,
    /// 3 × 3, the size stays.
    Maximum,
    /// 3 × 3, the size halves.
    Half,
}

impl Inception {
    /// Reads `model.safetensors` of a folder.
    pub fn load(folder: &Path, device: Device) -> Result<Self> {
        let weights = Weights::open(folder, "model", None, Kind::Float, device.torch())?;
        let digest = weights.digest();
        // The classifier, which no measure of ours needs.
        weights.ignore("fc.weight");
        weights.ignore("fc.bias");
        let conv = |name: &str, shape: Shape| one(&weights, name, shape);
        let network = Self {
            stem: [
                conv("Conv2d_1a_3x3", Shape::square(3, 32, 3, 2, 0))?,
                conv("Conv2d_2a_3x3", Shape::square(32, 32, 3, 1, 0))?,
                conv("Conv2d_2b_3x3", Shape::square(32, 64, 3, 1, 1))?,
            ],
            middle: [
                conv("Conv2d_3b_1x1", Shape::square(64, 80, 1, 1, 0))?,
                conv("Conv2d_4a_3x3", Shape::square(80, 192, 3, 1, 0))?,
            ],
            blocks: vec![
                block_a(&weights, "Mixed_5b", 192, 32)?,
                block_a(&weights, "Mixed_5c", 256, 64)?,
                block_a(&weights, "Mixed_5d", 288, 64)?,
                block_b(&weights, "Mixed_6a", 288)?,
                block_c(&weights, "Mixed_6b", 128)?,
                block_c(&weights, "Mixed_6c", 160)?,
                block_c(&weights, "Mixed_6d", 160)?,
                block_c(&weights, "Mixed_6e", 192)?,
                block_d(&weights, "Mixed_7a")?,
                block_e(&weights, "Mixed_7b", 1280, Step::Average)?,
                block_e(&weights, "Mixed_7c", 2048, Step::Maximum)?,
            ],
            device: device.torch(),
            digest,
        };
        weights.finish()?;
        Ok(network)
    }

    /// The digest of the weights.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// `pictures`: `[b, 3, h, w]` in [0, 255], any kind.
    pub fn features(&self, pictures: &Tensor, resize: Resize) -> Result<Features> {
        let pooled = self.pooled(pictures, resize)?;
        let mut x = pooled.shallow_clone();
        for conv in &self.middle {
            x = conv.forward(&x)?;
        }
        x = half(&x)?;
        for block in &self.blocks {
            x = mixed(block, &x)?;
        }
        Ok(Features { first: mean(&pooled)?, last: mean(&x)? })
    }

    /// Only [`Features::first`], `[b, 64]`: a tenth of the work.
    pub fn first(&self, pictures: &Tensor) -> Result<Tensor> {
        mean(&self.pooled(pictures, Resize::Tf1)?)
    }

    /// `[b, 64, 73, 73]`.
    fn pooled(&self, pictures: &Tensor, resize: Resize) -> Result<Tensor> {
        let x = pictures.f_to_device(self.device)?.f_to_kind(Kind::Float)?;
        let x = match resize {
            Resize::Tf1 => tf1_bilinear(&x, SIDE)?,
            Resize::Clean => clean(&x)?,
        };
        let mut x = x.f_sub_scalar(128.0)?.f_div_scalar(128.0)?;
        for conv in &self.stem {
            x = conv.forward(&x)?;
        }
        half(&x)
    }
}

/// Pillow's bicubic in mode `F`: sums in double precision, each pass rounded to float32.
fn clean(x: &Tensor) -> Result<Tensor> {
    let (_, _, height, width) = x.size4()?;
    let pass = |from: i64| -> Result<Tensor> {
        let values = matrix(from as usize, SIDE as usize, Filter::Bicubic);
        Ok(Tensor::f_from_slice(&values)?.f_view([SIDE, from])?.f_to_device(x.device())?)
    };
    let rows = x.f_to_kind(Kind::Double)?.f_matmul(&pass(width)?.f_transpose(0, 1)?)?.f_to_kind(Kind::Float)?;
    let both = pass(height)?.f_matmul(&rows.f_to_kind(Kind::Double)?)?.f_to_kind(Kind::Float)?;
    Ok(both.f_clamp(0.0, 255.0)?)
}

fn one(weights: &Weights, name: &str, shape: Shape) -> Result<ConvNormRelu> {
    ConvNormRelu::load(weights, &format!("{name}.conv"), &format!("{name}.bn"), shape, EPS)
}

/// A branch of convolutions, `(name, inputs, outputs, kernel rows, kernel columns, stride)`; without a stride of 2 the
/// size stays.
fn branch(weights: &Weights, block: &str, convs: &[(&str, i64, i64, i64, i64, i64)]) -> Result<Branch> {
    convs
        .iter()
        .map(|(name, inputs, outputs, rows, columns, stride)| {
            let padding = if *stride == 1 { [rows / 2, columns / 2] } else { [0, 0] };
            let (inputs, outputs, kernel, stride) = (*inputs, *outputs, [*rows, *columns], *stride);
            let shape = Shape { inputs, outputs, kernel, stride, padding };
            Ok(Step::Conv(one(weights, &format!("{block}.{name}"), shape)?))
        })
        .collect()
}

fn pool_branch(weights: &Weights, block: &str, inputs: i64, outputs: i64, pool: Step) -> Result<Branch> {
    let conv = one(weights, &format!("{block}.branch_pool"), Shape::square(inputs, outputs, 1, 1, 0))?;
    Ok(vec![pool, Step::Conv(conv)])
}

fn double_branch(weights: &Weights, name: &str, inputs: i64, stride: i64) -> Result<Branch> {
    let convolutions = [
        ("branch3x3dbl_1", inputs, 64, 1, 1, 1),
        ("branch3x3dbl_2", 64, 96, 3, 3, 1),
        ("branch3x3dbl_3", 96, 96, 3, 3, stride),
    ];
    branch(weights, name, &convolutions)
}

fn block_a(weights: &Weights, name: &str, inputs: i64, pool: i64) -> Result<Vec<Branch>> {
    Ok(vec![
        branch(weights, name, &[("branch1x1", inputs, 64, 1, 1, 1)])?,
        branch(weights, name, &[("branch5x5_1", inputs, 48, 1, 1, 1), ("branch5x5_2", 48, 64, 5, 5, 1)])?,
        double_branch(weights, name, inputs, 1)?,
        pool_branch(weights, name, inputs, pool, Step::Average)?,
    ])
}

fn block_b(weights: &Weights, name: &str, inputs: i64) -> Result<Vec<Branch>> {
    Ok(vec![
        branch(weights, name, &[("branch3x3", inputs, 384, 3, 3, 2)])?,
        double_branch(weights, name, inputs, 2)?,
        vec![Step::Half],
    ])
}

fn block_c(weights: &Weights, name: &str, inner: i64) -> Result<Vec<Branch>> {
    Ok(vec![
        branch(weights, name, &[("branch1x1", 768, 192, 1, 1, 1)])?,
        branch(
            weights,
            name,
            &[
                ("branch7x7_1", 768, inner, 1, 1, 1),
                ("branch7x7_2", inner, inner, 1, 7, 1),
                ("branch7x7_3", inner, 192, 7, 1, 1),
            ],
        )?,
        branch(
            weights,
            name,
            &[
                ("branch7x7dbl_1", 768, inner, 1, 1, 1),
                ("branch7x7dbl_2", inner, inner, 7, 1, 1),
                ("branch7x7dbl_3", inner, inner, 1, 7, 1),
                ("branch7x7dbl_4", inner, inner, 7, 1, 1),
                ("branch7x7dbl_5", inner, 192, 1, 7, 1),
            ],
        )?,
        pool_branch(weights, name, 768, 192, Step::Average)?,
    ])
}

fn block_d(weights: &Weights, name: &str) -> Result<Vec<Branch>> {
    Ok(vec![
        branch(weights, name, &[("branch3x3_1", 768, 192, 1, 1, 1), ("branch3x3_2", 192, 320, 3, 3, 2)])?,
        branch(
            weights,
            name,
            &[
                ("branch7x7x3_1", 768, 192, 1, 1, 1),
                ("branch7x7x3_2", 192, 192, 1, 7, 1),
                ("branch7x7x3_3", 192, 192, 7, 1, 1),
                ("branch7x7x3_4", 192, 192, 3, 3, 2),
            ],
        )?,
        vec![Step::Half],
    ])
}

fn block_e(weights: &Weights, name: &str, inputs: i64, pool: Step) -> Result<Vec<Branch>> {
    let flat = |which: &str| {
        let shape = Shape { inputs: 384, outputs: 384, kernel: [1, 3], stride: 1, padding: [0, 1] };
        one(weights, &format!("{name}.{which}"), shape)
    };
    let high = |which: &str| {
        let shape = Shape { inputs: 384, outputs: 384, kernel: [3, 1], stride: 1, padding: [1, 0] };
        one(weights, &format!("{name}.{which}"), shape)
    };
    let mut single = branch(weights, name, &[("branch3x3_1", inputs, 384, 1, 1, 1)])?;
    single.push(Step::Both(flat("branch3x3_2a")?, high("branch3x3_2b")?));
    let double = [("branch3x3dbl_1", inputs, 448, 1, 1, 1), ("branch3x3dbl_2", 448, 384, 3, 3, 1)];
    let mut double = branch(weights, name, &double)?;
    double.push(Step::Both(flat("branch3x3dbl_3a")?, high("branch3x3dbl_3b")?));
    Ok(vec![
        branch(weights, name, &[("branch1x1", inputs, 320, 1, 1, 1)])?,
        single,
        double,
        pool_branch(weights, name, inputs, 192, pool)?,
    ])
}

fn mixed(branches: &[Branch], x: &Tensor) -> Result<Tensor> {
    let outputs = branches.iter().map(|branch| follow(branch, x)).collect::<Result<Vec<_>>>()?;
    Ok(Tensor::f_cat(&outputs, 1)?)
}

fn follow(branch: &[Step], x: &Tensor) -> Result<Tensor> {
    branch.iter().try_fold(x.shallow_clone(), |x, step| match step {
        Step::Conv(conv) => conv.forward(&x),
        Step::Both(a, b) => Ok(Tensor::f_cat(&[a.forward(&x)?, b.forward(&x)?], 1)?),
        Step::Average => Ok(x.f_avg_pool2d([3, 3], [1, 1], [1, 1], false, false, None)?),
        Step::Maximum => Ok(x.f_max_pool2d([3, 3], [1, 1], [1, 1], [1, 1], false)?),
        Step::Half => half(&x),
    })
}

fn half(x: &Tensor) -> Result<Tensor> {
    Ok(x.f_max_pool2d([3, 3], [2, 2], [0, 0], [1, 1], false)?)
}

fn mean(x: &Tensor) -> Result<Tensor> {
    Ok(x.f_mean_dim(&[2_i64, 3][..], false, Kind::Float)?)
}
