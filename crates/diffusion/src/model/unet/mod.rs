//! `UNet2DConditionModel` of the Stable Diffusion 1.x / 2.x families: `[B, 4, h, w]` latents, a timestep and text
//! hidden states → the model output `[B, 4, h, w]`, with a [`Tap`] on its cross-attention.

mod attention;
mod blocks;
mod config;
mod tail;
mod tap;
mod time;

use std::path::Path;

use tch::{Device, Kind, Tensor};

pub use self::attention::{CrossAttention, TransformerBlock, TransformerModel};
use self::blocks::{DownBlock, MidBlock, UpBlock};
use self::config::UnetConfig;
pub use self::tail::Tail;
pub use self::tap::{Captured, Perturbation, Tap};
use self::time::{Additions, TimeCursor, TimeEmbedding};
use super::nn::{Conv2d, GroupNorm, Linear};
use super::weights::Weights;
use crate::error::{Error, Result};
use crate::kernels::Kernels;

/// The denoising network of one model.
pub struct Unet {
    conv_in: Conv2d,
    time_embedding: TimeEmbedding,
    additions: Additions,
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
        let mut layers = Vec::new();
        let unet = Self {
            conv_in: Conv2d::load(&w, "conv_in", (4, first), 3, 1, 1)?,
            time_embedding: TimeEmbedding::load(&w, first, config.flip_sin_to_cos, config.freq_shift)?,
            additions: Additions::default(),
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

    /// Channels at the latents' resolution, where it begins and ends.
    pub fn channels(&self) -> i64 {
        self.conv_in.weight.size().first().copied().unwrap_or_default()
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
    ///
    /// Where `text` has n times as many rows, the output has too: the samples, one after the other, with the first B
    /// texts, then again with the next. What lies before the first cross-attention is then computed once for all n, which
    /// is exact: it sees no text.
    pub fn forward(&self, sample: &Tensor, timestep: f64, text: &TextContext, tap: &mut Tap) -> Result<Tensor> {
        let additions = self.time_additions(timestep)?;
        let mut time = TimeCursor::new(&additions);
        let mut h = self.conv_in.forward(&sample.f_to_device(self.device)?.f_to_kind(self.kind)?.f_contiguous()?)?;
        let mut skips = vec![h.shallow_clone()];
        let mut cursor = attention::Cursor::new(text, tap);
        for block in &self.down {
            h = block.forward(h, &mut time, &mut skips, &mut cursor)?;
        }
        h = self.mid.forward(h, &mut time, &mut cursor)?;
        for block in &self.up {
            h = block.forward(h, &mut time, &mut skips, &mut cursor)?;
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

    /// What the timestep adds to each residual block, in the order in which they run: `[1, C, 1, 1]` each.
    fn time_additions(&self, timestep: f64) -> Result<Vec<Tensor>> {
        self.additions.at(timestep, || {
            let down = self.down.iter().flat_map(DownBlock::time_projections);
            let up = self.up.iter().flat_map(UpBlock::time_projections);
            let projections: Vec<&Linear> = down.chain(self.mid.time_projections()).chain(up).collect();
            self.time_embedding.additions(timestep, &projections)
        })
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
