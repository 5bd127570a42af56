//! `UNet2DConditionModel` of the Stable Diffusion 1.x / 2.x families: `[B, 4, h, w]` latents, a timestep and text
//! hidden states → the model output `[B, 4, h, w]`, with a [`Tap`] on its cross-attention.

mod attention;
mod blocks;
mod config;
mod tail;
mod tap;

use std::path::Path;

use tch::{Device, Kind, Tensor};

pub use self::attention::{CrossAttention, TransformerBlock, TransformerModel};
use self::blocks::{DownBlock, MidBlock, UpBlock};
use self::config::UnetConfig;
pub use self::tail::Tail;
pub use self::tap::{Captured, Perturbation, Tap};
use super::nn::{Conv2d, GroupNorm, Linear};
use super::weights::Weights;
use crate::error::{Error, Result};
use crate::kernels::Kernels;

/// The denoising network of one model.
pub struct Unet {
    conv_in: Conv2d,
    time_channels: i64,
    flip_sin_to_cos: bool,
    freq_shift: f64,
    time_1: Linear,
    time_2: Linear,
    down: Vec<DownBlock>,
    mid: MidBlock,
    up: Vec<UpBlock>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
    sample_size: (i64, i64),
    smallest: i64,
    text_width: i64,
    layers: Vec<String>,
    kind: Kind,
    device: Device,
    digest: [u8; 32],
    parameters: usize,
}

/// The keys and values of every cross-attention layer for a batch of texts: computed once a prompt, used each step.
pub struct TextContext {
    /// `(key, value)` a layer in the network's order, each `[B, H, T, d]`.
    pub(crate) layers: Vec<(Tensor, Tensor)>,
}

impl TextContext {
    /// One row of the batch, as often as `copies` says.
    pub fn copies(&self, row: i64, copies: i64) -> Result<Self> {
        let copy = |x: &Tensor| -> Result<Tensor> { Ok(x.f_narrow(0, row, 1)?.f_expand([copies, -1, -1, -1], false)?) };
        let layers = self.layers.iter().map(|(k, v)| Ok((copy(k)?, copy(v)?))).collect::<Result<_>>()?;
        Ok(Self { layers })
    }

    /// The same keys and values under another handle.
    pub fn shallow_clone(&self) -> Self {
        Self { layers: self.layers.iter().map(|(k, v)| (k.shallow_clone(), v.shallow_clone())).collect() }
    }

    /// The number of text positions.
    pub fn length(&self) -> Result<i64> {
        let (keys, _) = self.layers.first().ok_or_else(|| Error::Torch("a network without attention".to_owned()))?;
        Ok(keys.size4()?.2)
    }
}

impl Unet {
    /// Reads a model's `unet` folder.
    pub fn load(folder: &Path, variant: Option<&str>, kind: Kind, device: Device, kernels: &Kernels) -> Result<Self> {
        let config = UnetConfig::read(&folder.join("config.json"))?;
        let w = Weights::open(folder, "diffusion_pytorch_model", variant, kind, device)?.with_kernels(kernels);
        let (digest, parameters) = (w.digest(), w.parameters());
        let first = config.channels[0];
        let temb = first * 4;
        let mut layers = Vec::new();
        let unet = Self {
            conv_in: Conv2d::load(&w, "conv_in", (4, first), 3, 1, 1)?,
            time_channels: first,
            flip_sin_to_cos: config.flip_sin_to_cos,
            freq_shift: config.freq_shift,
            time_1: Linear::load(&w, "time_embedding.linear_1", first, temb, true)?,
            time_2: Linear::load(&w, "time_embedding.linear_2", temb, temb, true)?,
            down: DownBlock::load_all(&w, &config, &mut layers)?,
            mid: MidBlock::load(&w, &config, &mut layers)?,
            up: UpBlock::load_all(&w, &config, &mut layers)?,
            norm_out: GroupNorm::load(&w, "conv_norm_out", config.groups, first, config.eps)?,
            conv_out: Conv2d::load(&w, "conv_out", (first, 4), 3, 1, 1)?,
            sample_size: config.sample_size,
            smallest: config.smallest(),
            text_width: config.text_width,
            layers,
            kind,
            device,
            digest,
            parameters,
        };
        w.finish()?;
        Ok(unet)
    }

    /// Width and height of the latents that the model was trained on.
    pub fn sample_size(&self) -> (i64, i64) {
        self.sample_size
    }

    /// The least rows and columns of latents that it can halve as often as it does.
    pub fn smallest(&self) -> i64 {
        self.smallest
    }

    /// The width of the text hidden states.
    pub fn text_width(&self) -> i64 {
        self.text_width
    }

    /// The cross-attention layers by their diffusers paths, in the order in which they run.
    pub fn cross_attention_layers(&self) -> &[String] {
        &self.layers
    }

    /// Where the network runs.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The precision of its weights.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The number of its weights.
    pub fn parameters(&self) -> usize {
        self.parameters
    }

    /// The digest of the weights.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// Computes keys and values of `text` `[B, T, C]` for every cross-attention layer.
    pub fn prepare_text(&self, text: &Tensor) -> Result<TextContext> {
        let text = text.f_to_device(self.device)?.f_to_kind(self.kind)?;
        let mut layers = Vec::with_capacity(self.layers.len());
        self.each_cross_attention(&mut |layer| {
            layers.push(layer.keys_and_values(&text)?);
            Ok(())
        })?;
        Ok(TextContext { layers })
    }

    /// The model output for `sample` `[B, 4, h, w]` at `timestep`, float32. `tap` captures or perturbs attention.
    pub fn forward(&self, sample: &Tensor, timestep: f64, text: &TextContext, tap: &mut Tap) -> Result<Tensor> {
        let temb = self.time_embedding(timestep)?;
        let mut h = self.conv_in.forward(&sample.f_to_device(self.device)?.f_to_kind(self.kind)?.f_contiguous()?)?;
        let mut skips = vec![h.shallow_clone()];
        let mut cursor = attention::Cursor::new(text, tap);
        for block in &self.down {
            h = block.forward(h, &temb, &mut skips, &mut cursor)?;
        }
        h = self.mid.forward(h, &temb, &mut cursor)?;
        for block in &self.up {
            h = block.forward(h, &temb, &mut skips, &mut cursor)?;
        }
        tap.capture_tail_input(&h)?;
        let h = self.conv_out.forward(&self.norm_out.forward_silu(&h)?)?;
        Ok(h.f_to_kind(Kind::Float)?.f_contiguous()?)
    }

    /// The parts of the network behind the last cross-attention layer, where the closed form of its Jacobian holds:
    /// the last block ends with attention, and nothing but the output's normalisation and convolution follows.
    pub fn closed_form_tail(&self) -> Option<Tail<'_>> {
        let transformer = self.up.last()?.last_transformer()?;
        Some(Tail { transformer, norm_out: &self.norm_out, conv_out: &self.conv_out })
    }

    /// Sinusoidal features of the timestep through two linear layers: `[1, 4·C0]`.
    fn time_embedding(&self, timestep: f64) -> Result<Tensor> {
        let half = self.time_channels / 2;
        let options = (Kind::Float, self.device);
        let exponent = Tensor::f_arange(half, options)?
            .f_mul_scalar(-(10_000f64.ln()))?
            .f_div_scalar(half as f64 - self.freq_shift)?;
        let angles = exponent.f_exp()?.f_mul_scalar(timestep)?;
        let (sin, cos) = (angles.f_sin()?, angles.f_cos()?);
        let parts = if self.flip_sin_to_cos { [cos, sin] } else { [sin, cos] };
        let features = Tensor::f_cat(&parts, 0)?.f_unsqueeze(0)?.f_to_kind(self.kind)?;
        self.time_2.forward(&self.time_1.forward(&features)?.f_silu()?)
    }

    fn each_cross_attention(&self, visit: &mut dyn FnMut(&CrossAttention) -> Result<()>) -> Result<()> {
        for block in &self.down {
            block.each_cross_attention(visit)?;
        }
        self.mid.each_cross_attention(visit)?;
        for block in &self.up {
            block.each_cross_attention(visit)?;
        }
        Ok(())
    }

    /// The index of a layer given by its path.
    pub fn layer_index(&self, path: &str) -> Result<usize> {
        self.layers.iter().position(|layer| layer == path).ok_or_else(|| Error::Setting {
            param: "layers",
            message: format!(
                "{path:?} is not a cross-attention layer of this model; it has {}",
                self.layers.join(", ")
            ),
        })
    }
}
