//! `AutoencoderKL`: pictures `[B, 3, H, W]` in [−1, 1] ↔ latents `[B, 4, H/f, W/f]`, f = 2^(blocks − 1).

use std::path::Path;

use tch::{Device, Kind, Tensor};

use super::config::{COUNTS, Config, SIZES};
use super::nn::{Conv2d, GroupNorm, Linear, attention};
use super::weights::Weights;
use crate::error::Result;
use crate::kernels::Kernels;

const EPS: f64 = 1e-6;

/// Two convolutions with a residual, without time embedding.
struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    norm2: GroupNorm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
}

impl ResnetBlock {
    fn load(w: &Weights, name: &str, groups: i64, inputs: i64, outputs: i64) -> Result<Self> {
        let shortcut = if inputs == outputs {
            None
        } else {
            Some(Conv2d::load(w, &format!("{name}.conv_shortcut"), (inputs, outputs), 1, 1, 0)?)
        };
        Ok(Self {
            norm1: GroupNorm::load(w, &format!("{name}.norm1"), groups, inputs, EPS)?,
            conv1: Conv2d::load(w, &format!("{name}.conv1"), (inputs, outputs), 3, 1, 1)?,
            norm2: GroupNorm::load(w, &format!("{name}.norm2"), groups, outputs, EPS)?,
            conv2: Conv2d::load(w, &format!("{name}.conv2"), (outputs, outputs), 3, 1, 1)?,
            shortcut,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let h = self.norm1.forward_silu(x)?;
        let h = self.norm2.forward_silu(self.conv1.begin(&h, None)?)?;
        match &self.shortcut {
            Some(shortcut) => self.conv2.forward_plus(&h, shortcut.begin(x, None)?),
            None => self.conv2.forward_plus(&h, x.into()),
        }
    }
}

/// Single-head self-attention over positions, at the lowest resolution.
struct AttentionBlock {
    norm: GroupNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
}

impl AttentionBlock {
    fn load(w: &Weights, name: &str, groups: i64, channels: i64) -> Result<Self> {
        let linear = |part: &str| Linear::load(w, &format!("{name}.{part}"), channels, channels, true);
        Ok(Self {
            norm: GroupNorm::load(w, &format!("{name}.group_norm"), groups, channels, EPS)?,
            q: linear("to_q")?,
            k: linear("to_k")?,
            v: linear("to_v")?,
            out: linear("to_out.0")?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (b, c, height, width) = x.size4()?;
        let h = self.norm.forward(x)?.f_reshape([b, c, height * width])?.f_transpose(1, 2)?;
        let one_head = |y: Tensor| y.f_unsqueeze(1);
        let q = one_head(self.q.forward(&h)?)?;
        let k = one_head(self.k.forward(&h)?)?;
        let v = one_head(self.v.forward(&h)?)?;
        let h = self.out.forward(&attention(&q, &k, &v, None)?.f_squeeze_dim(1)?)?;
        Ok(h.f_transpose(1, 2)?.f_reshape([b, c, height, width])?.f_add(x)?)
    }
}

struct MidBlock {
    first: ResnetBlock,
    attention: Option<AttentionBlock>,
    second: ResnetBlock,
}

impl MidBlock {
    fn load(w: &Weights, name: &str, groups: i64, channels: i64, with_attention: bool) -> Result<Self> {
        let resnet = |i: i64| ResnetBlock::load(w, &format!("{name}.resnets.{i}"), groups, channels, channels);
        Ok(Self {
            first: resnet(0)?,
            attention: if with_attention {
                Some(AttentionBlock::load(w, &format!("{name}.attentions.0"), groups, channels)?)
            } else {
                None
            },
            second: resnet(1)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut h = self.first.forward(x)?;
        if let Some(attention) = &self.attention {
            h = attention.forward(&h)?;
        }
        self.second.forward(&h)
    }
}

/// The residual blocks of one resolution and the convolution that leads to the next.
struct Stage {
    resnets: Vec<ResnetBlock>,
    resample: Option<Conv2d>,
}

/// The autoencoder of one model.
pub struct AutoencoderKl {
    encoder_in: Conv2d,
    encoder: Vec<Stage>,
    encoder_mid: MidBlock,
    encoder_norm: GroupNorm,
    encoder_out: Conv2d,
    quant: Option<Conv2d>,
    post_quant: Option<Conv2d>,
    decoder_in: Conv2d,
    decoder_mid: MidBlock,
    decoder: Vec<Stage>,
    decoder_norm: GroupNorm,
    decoder_out: Conv2d,
    scaling_factor: f64,
    kind: Kind,
    device: Device,
    digest: [u8; 32],
}

impl AutoencoderKl {
    /// Reads a model's `vae` folder.
    pub fn load(folder: &Path, variant: Option<&str>, kind: Kind, device: Device, kernels: &Kernels) -> Result<Self> {
        let mut config = Config::read(&folder.join("config.json"))?;
        config.expect("_class_name", &["AutoencoderKL".into()])?;
        config.expect("in_channels", &[3.into()])?;
        config.expect("out_channels", &[3.into()])?;
        config.expect("act_fn", &["silu".into(), "swish".into()])?;
        let latents = config.number("latent_channels", 4, SIZES)?;
        if latents != 4 {
            return Err(config.error(format!("\"latent_channels\": {latents} is not supported (supported: 4)")));
        }
        let groups = config.number("norm_num_groups", 32, SIZES)?;
        let channels = config.numbers("block_out_channels", &[64], SIZES)?;
        let per_block = config.number("layers_per_block", 1, COUNTS)?;
        let down: Vec<String> = config.take("down_block_types", vec!["DownEncoderBlock2D".to_owned()])?;
        let up: Vec<String> = config.take("up_block_types", vec!["UpDecoderBlock2D".to_owned()])?;
        for (types, supported) in [(&down, "DownEncoderBlock2D"), (&up, "UpDecoderBlock2D")] {
            if types.len() != channels.len() || types.iter().any(|t| t != supported) {
                return Err(config.error(format!("block types {types:?}: only {supported}, one a block, is supported")));
            }
        }
        let scaling_factor: f64 = config.take("scaling_factor", 0.18215)?;
        let mid_attention: bool = config.take("mid_block_add_attention", true)?;
        let use_quant: bool = config.take("use_quant_conv", true)?;
        let use_post_quant: bool = config.take("use_post_quant_conv", true)?;
        config.expect("shift_factor", &[serde_json::Value::Null, 0.into(), 0.0.into()])?;
        config.expect("latents_mean", &[serde_json::Value::Null])?;
        config.expect("latents_std", &[serde_json::Value::Null])?;
        config.ignore(&["sample_size", "force_upcast"]);
        if channels.iter().any(|c| c % groups != 0) {
            return Err(config.error(format!("\"norm_num_groups\": {groups} does not divide {channels:?}")));
        }
        config.finish()?;

        let w = Weights::open(folder, "diffusion_pytorch_model", variant, kind, device)?.with_kernels(kernels);
        let digest = w.digest();
        w.rename(modern_attention_name);
        let last = channels[channels.len() - 1];

        let encoder_in = Conv2d::load(&w, "encoder.conv_in", (3, channels[0]), 3, 1, 1)?;
        let mut encoder = Vec::new();
        let mut inputs = channels[0];
        for (i, &outputs) in channels.iter().enumerate() {
            let name = format!("encoder.down_blocks.{i}");
            let resnets = load_resnets(&w, &name, groups, inputs, outputs, per_block)?;
            let resample = if i + 1 < channels.len() {
                Some(Conv2d::load(&w, &format!("{name}.downsamplers.0.conv"), (outputs, outputs), 3, 2, 0)?)
            } else {
                None
            };
            encoder.push(Stage { resnets, resample });
            inputs = outputs;
        }
        let encoder_mid = MidBlock::load(&w, "encoder.mid_block", groups, last, mid_attention)?;
        let encoder_norm = GroupNorm::load(&w, "encoder.conv_norm_out", groups, last, EPS)?;
        let encoder_out = Conv2d::load(&w, "encoder.conv_out", (last, 2 * latents), 3, 1, 1)?;
        let quant =
            if use_quant { Some(Conv2d::load(&w, "quant_conv", (2 * latents, 2 * latents), 1, 1, 0)?) } else { None };

        let post_quant =
            if use_post_quant { Some(Conv2d::load(&w, "post_quant_conv", (latents, latents), 1, 1, 0)?) } else { None };
        let decoder_in = Conv2d::load(&w, "decoder.conv_in", (latents, last), 3, 1, 1)?;
        let decoder_mid = MidBlock::load(&w, "decoder.mid_block", groups, last, mid_attention)?;
        let mut decoder = Vec::new();
        let mut inputs = last;
        for (i, &outputs) in channels.iter().rev().enumerate() {
            let name = format!("decoder.up_blocks.{i}");
            let resnets = load_resnets(&w, &name, groups, inputs, outputs, per_block + 1)?;
            let resample = if i + 1 < channels.len() {
                Some(Conv2d::load(&w, &format!("{name}.upsamplers.0.conv"), (outputs, outputs), 3, 1, 1)?)
            } else {
                None
            };
            decoder.push(Stage { resnets, resample });
            inputs = outputs;
        }
        let decoder_norm = GroupNorm::load(&w, "decoder.conv_norm_out", groups, channels[0], EPS)?;
        let decoder_out = Conv2d::load(&w, "decoder.conv_out", (channels[0], 3), 3, 1, 1)?;
        w.finish()?;
        Ok(Self {
            encoder_in,
            encoder,
            encoder_mid,
            encoder_norm,
            encoder_out,
            quant,
            post_quant,
            decoder_in,
            decoder_mid,
            decoder,
            decoder_norm,
            decoder_out,
            scaling_factor,
            kind,
            device,
            digest,
        })
    }

    /// Pixels a latent element, in each direction.
    pub fn factor(&self) -> i64 {
        1 << (self.encoder.len() - 1)
    }

    /// What latents are multiplied by before the UNet sees them.
    pub fn scaling_factor(&self) -> f64 {
        self.scaling_factor
    }

    /// The digest of the weights.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// `[1, 3, H, W]` in [−1, 1] → the posterior's moments, float32 `[1, 8, h, w]`: mean, then log variance.
    pub fn encode_moments(&self, picture: &Tensor) -> Result<Tensor> {
        let mut h = self.encoder_in.forward(&self.enter(picture)?)?;
        for stage in &self.encoder {
            for resnet in &stage.resnets {
                h = resnet.forward(&h)?;
            }
            if let Some(down) = &stage.resample {
                h = down.forward(&h.f_constant_pad_nd([0, 1, 0, 1])?)?;
            }
        }
        let h = self.encoder_norm.forward_silu(&self.encoder_mid.forward(&h)?)?;
        let h = self.encoder_out.forward(&h)?;
        let h = match &self.quant {
            Some(quant) => quant.forward(&h)?,
            None => h,
        };
        leave(&h)
    }

    /// A sample of the posterior, times the scaling factor: `(mean + std·noise) · s`, float32 `[1, 4, h, w]`.
    pub fn encode(&self, picture: &Tensor, noise: &Tensor) -> Result<Tensor> {
        let moments = self.encode_moments(picture)?;
        let halves = moments.f_chunk(2, 1)?;
        let std = halves[1].f_clamp(-30.0, 20.0)?.f_mul_scalar(0.5)?.f_exp()?;
        let noise = noise.f_to_device(self.device)?;
        Ok(halves[0].f_add(&std.f_mul(&noise)?)?.f_mul_scalar(self.scaling_factor)?)
    }

    /// Scaled latents `[1, 4, h, w]` → picture, float32 `[1, 3, H, W]`, nominally in [−1, 1].
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        let mut h = self.enter(&latents.f_div_scalar(self.scaling_factor)?)?;
        if let Some(post_quant) = &self.post_quant {
            h = post_quant.forward(&h)?;
        }
        h = self.decoder_mid.forward(&self.decoder_in.forward(&h)?)?;
        for stage in &self.decoder {
            for resnet in &stage.resnets {
                h = resnet.forward(&h)?;
            }
            if let Some(up) = &stage.resample {
                let (_, _, height, width) = h.size4()?;
                h = up.forward(&h.f_upsample_nearest2d([2 * height, 2 * width], None, None)?)?;
            }
        }
        leave(&self.decoder_out.forward(&self.decoder_norm.forward_silu(&h)?)?)
    }

    fn enter(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_to_device(self.device)?.f_to_kind(self.kind)?.f_contiguous()?)
    }
}

fn leave(x: &Tensor) -> Result<Tensor> {
    Ok(x.f_to_kind(Kind::Float)?.f_contiguous()?)
}

fn load_resnets(
    w: &Weights,
    name: &str,
    groups: i64,
    inputs: i64,
    outputs: i64,
    count: i64,
) -> Result<Vec<ResnetBlock>> {
    (0..count)
        .map(|j| {
            let first = if j == 0 { inputs } else { outputs };
            ResnetBlock::load(w, &format!("{name}.resnets.{j}"), groups, first, outputs)
        })
        .collect()
}

/// Before diffusers 0.12 the attention of the autoencoder had other names.
fn modern_attention_name(name: &str) -> Option<String> {
    let (block, rest) = name.split_once(".attentions.0.")?;
    let (part, end) = rest.rsplit_once('.')?;
    let part = match part {
        "query" => "to_q",
        "key" => "to_k",
        "value" => "to_v",
        "proj_attn" => "to_out.0",
        _ => return None,
    };
    Some(format!("{block}.attentions.0.{part}.{end}"))
}
