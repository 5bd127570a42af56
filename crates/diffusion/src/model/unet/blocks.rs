//! The down, middle and up blocks: residual blocks with time embedding, transformers where a block attends, and the
//! convolutions between resolutions.

use tch::Tensor;

use super::attention::{CrossAttention, Cursor, TransformerModel, TransformerShape, repeated};
use super::config::{BlockConfig, UnetConfig};
use super::time::TimeCursor;
use crate::error::{Error, Result};
use crate::model::nn::{Conv2d, GroupNorm, Linear};
use crate::model::weights::Weights;

/// `ResnetBlock2D` with the time embedding added between its convolutions.
struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    time: Linear,
    norm2: GroupNorm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
}

impl ResnetBlock {
    fn load(w: &Weights, name: &str, config: &UnetConfig, inputs: i64, outputs: i64) -> Result<Self> {
        let shortcut = if inputs == outputs {
            None
        } else {
            Some(Conv2d::load(w, &format!("{name}.conv_shortcut"), (inputs, outputs), 1, 1, 0)?)
        };
        Ok(Self {
            norm1: GroupNorm::load(w, &format!("{name}.norm1"), config.groups, inputs, config.eps)?,
            conv1: Conv2d::load(w, &format!("{name}.conv1"), (inputs, outputs), 3, 1, 1)?,
            time: Linear::load(w, &format!("{name}.time_emb_proj"), config.channels[0] * 4, outputs, true)?,
            norm2: GroupNorm::load(w, &format!("{name}.norm2"), config.groups, outputs, config.eps)?,
            conv2: Conv2d::load(w, &format!("{name}.conv2"), (outputs, outputs), 3, 1, 1)?,
            shortcut,
        })
    }

    /// `time` `[1, C, 1, 1]` is what the timestep adds.
    fn forward(&self, x: &Tensor, time: &Tensor) -> Result<Tensor> {
        let h = self.norm1.forward_silu(x)?;
        let h = self.norm2.forward_silu(self.conv1.begin(&h, Some(time.shallow_clone()))?)?;
        match &self.shortcut {
            Some(shortcut) => self.conv2.forward_plus(&h, shortcut.begin(x, None)?),
            None => self.conv2.forward_plus(&h, x.into()),
        }
    }
}

fn shape(block: &BlockConfig, config: &UnetConfig) -> TransformerShape {
    TransformerShape {
        channels: block.channels,
        heads: block.heads,
        depth: block.depth,
        groups: config.groups,
        text_width: config.text_width,
        linear_projection: config.linear_projection,
        upcast: config.upcast_attention,
    }
}

fn load_transformers(
    w: &Weights,
    name: &str,
    block: &BlockConfig,
    count: i64,
    config: &UnetConfig,
    layers: &mut Vec<String>,
) -> Result<Vec<TransformerModel>> {
    let count = if block.attends { count } else { 0 };
    (0..count)
        .map(|j| TransformerModel::load(w, &format!("{name}.attentions.{j}"), &shape(block, config), layers))
        .collect()
}

/// `CrossAttnDownBlock2D` or `DownBlock2D`.
pub(super) struct DownBlock {
    resnets: Vec<ResnetBlock>,
    transformers: Vec<TransformerModel>,
    downsample: Option<Conv2d>,
    /// Whether the way down adds a row and a column of zeros below and to the right, as diffusers does where the
    /// convolution itself pads nothing.
    pads_below: bool,
}

impl DownBlock {
    pub(super) fn load_all(w: &Weights, config: &UnetConfig, layers: &mut Vec<String>) -> Result<Vec<Self>> {
        let mut inputs = config.channels[0];
        let mut blocks = Vec::new();
        for (i, block) in config.down.iter().enumerate() {
            let name = format!("down_blocks.{i}");
            let outputs = block.channels;
            let resnets = (0..block.resnets)
                .map(|j| {
                    let first = if j == 0 { inputs } else { outputs };
                    ResnetBlock::load(w, &format!("{name}.resnets.{j}"), config, first, outputs)
                })
                .collect::<Result<_>>()?;
            let downsample = if i + 1 < config.down.len() {
                let name = format!("{name}.downsamplers.0.conv");
                Some(Conv2d::load(w, &name, (outputs, outputs), 3, 2, config.downsample_padding)?)
            } else {
                None
            };
            let transformers = load_transformers(w, &name, block, block.resnets, config, layers)?;
            blocks.push(Self { resnets, transformers, downsample, pads_below: config.downsample_padding == 0 });
            inputs = outputs;
        }
        Ok(blocks)
    }

    pub(super) fn forward(
        &self,
        mut h: Tensor,
        time: &mut TimeCursor<'_>,
        skips: &mut Vec<Tensor>,
        cursor: &mut Cursor<'_>,
    ) -> Result<Tensor> {
        for (j, resnet) in self.resnets.iter().enumerate() {
            h = resnet.forward(&h, time.next()?)?;
            if let Some(transformer) = self.transformers.get(j) {
                h = transformer.forward(&h, cursor)?;
            }
            skips.push(h.shallow_clone());
        }
        if let Some(downsample) = &self.downsample {
            if self.pads_below {
                h = h.f_constant_pad_nd([0, 1, 0, 1])?;
            }
            h = downsample.forward(&h)?;
            skips.push(h.shallow_clone());
        }
        Ok(h)
    }

    /// The projections of the timestep, in the order in which their blocks run.
    pub(super) fn time_projections(&self) -> impl Iterator<Item = &Linear> {
        self.resnets.iter().map(|resnet| &resnet.time)
    }

    pub(super) fn each_cross_attention(&self, visit: &mut dyn FnMut(&CrossAttention) -> Result<()>) -> Result<()> {
        self.transformers.iter().try_for_each(|t| t.each_cross_attention(visit))
    }
}

/// `UNetMidBlock2DCrossAttn`.
pub(super) struct MidBlock {
    first: ResnetBlock,
    transformer: TransformerModel,
    second: ResnetBlock,
}

impl MidBlock {
    pub(super) fn load(w: &Weights, config: &UnetConfig, layers: &mut Vec<String>) -> Result<Self> {
        let c = config.mid.channels;
        Ok(Self {
            first: ResnetBlock::load(w, "mid_block.resnets.0", config, c, c)?,
            transformer: TransformerModel::load(w, "mid_block.attentions.0", &shape(&config.mid, config), layers)?,
            second: ResnetBlock::load(w, "mid_block.resnets.1", config, c, c)?,
        })
    }

    pub(super) fn forward(&self, h: Tensor, time: &mut TimeCursor<'_>, cursor: &mut Cursor<'_>) -> Result<Tensor> {
        let h = self.first.forward(&h, time.next()?)?;
        let h = self.transformer.forward(&h, cursor)?;
        self.second.forward(&h, time.next()?)
    }

    /// The projections of the timestep, in the order in which their blocks run.
    pub(super) fn time_projections(&self) -> impl Iterator<Item = &Linear> {
        [&self.first.time, &self.second.time].into_iter()
    }

    pub(super) fn each_cross_attention(&self, visit: &mut dyn FnMut(&CrossAttention) -> Result<()>) -> Result<()> {
        self.transformer.each_cross_attention(visit)
    }
}

/// `CrossAttnUpBlock2D` or `UpBlock2D`.
pub(super) struct UpBlock {
    resnets: Vec<ResnetBlock>,
    transformers: Vec<TransformerModel>,
    upsample: Option<Conv2d>,
}

impl UpBlock {
    pub(super) fn load_all(w: &Weights, config: &UnetConfig, layers: &mut Vec<String>) -> Result<Vec<Self>> {
        let count = config.up.len();
        let mut previous = config.mid.channels;
        let mut blocks = Vec::new();
        for (i, block) in config.up.iter().enumerate() {
            let name = format!("up_blocks.{i}");
            let outputs = block.channels;
            let below = config.up[(i + 1).min(count - 1)].channels;
            let resnets = (0..=block.resnets)
                .map(|j| {
                    let skip = if j == block.resnets { below } else { outputs };
                    let inputs = if j == 0 { previous } else { outputs };
                    ResnetBlock::load(w, &format!("{name}.resnets.{j}"), config, inputs + skip, outputs)
                })
                .collect::<Result<_>>()?;
            let upsample = if i + 1 < count {
                Some(Conv2d::load(w, &format!("{name}.upsamplers.0.conv"), (outputs, outputs), 3, 1, 1)?)
            } else {
                None
            };
            let transformers = load_transformers(w, &name, block, block.resnets + 1, config, layers)?;
            blocks.push(Self { resnets, transformers, upsample });
            previous = outputs;
        }
        Ok(blocks)
    }

    pub(super) fn forward(
        &self,
        mut h: Tensor,
        time: &mut TimeCursor<'_>,
        skips: &mut Vec<Tensor>,
        cursor: &mut Cursor<'_>,
    ) -> Result<Tensor> {
        for (j, resnet) in self.resnets.iter().enumerate() {
            let skip =
                skips.pop().ok_or_else(|| Error::Torch("the up path has more blocks than the down path".into()))?;
            let skip = repeated(&skip, h.size()[0])?;
            h = resnet.forward(&Tensor::f_cat(&[h, skip], 1)?, time.next()?)?;
            if let Some(transformer) = self.transformers.get(j) {
                h = transformer.forward(&h, cursor)?;
            }
        }
        if let Some(upsample) = &self.upsample {
            // The size of the next skip rather than twice this one: latents need not be a multiple of 2^blocks.
            let (_, _, height, width) = match skips.last() {
                Some(skip) => skip.size4()?,
                None => h.size4()?,
            };
            h = upsample.forward(&h.f_upsample_nearest2d([height, width], None, None)?)?;
        }
        Ok(h)
    }

    /// The transformer that the block ends with, if it does.
    pub(super) fn last_transformer(&self) -> Option<&TransformerModel> {
        if self.upsample.is_some() { None } else { self.transformers.last() }
    }

    /// The projections of the timestep, in the order in which their blocks run.
    pub(super) fn time_projections(&self) -> impl Iterator<Item = &Linear> {
        self.resnets.iter().map(|resnet| &resnet.time)
    }

    pub(super) fn each_cross_attention(&self, visit: &mut dyn FnMut(&CrossAttention) -> Result<()>) -> Result<()> {
        self.transformers.iter().try_for_each(|t| t.each_cross_attention(visit))
    }
}
