//! CLIP (Radford et al. 2021) in the layout of transformers' `CLIPModel`: pictures and prompts as directions, whose
//! cosine says how well they fit.

use std::path::Path;

use diorama_core::picture::Rgb8;
use diorama_diffusion::device::Device;
use diorama_diffusion::error::Result;
use diorama_diffusion::image_processor::resample::{Filter, resize};
use diorama_diffusion::model::config::{COUNTS, Config, SIZES};
use diorama_diffusion::model::nn::{LayerNorm, Linear};
use diorama_diffusion::model::weights::Weights;
use diorama_diffusion::text::{ClipTextModel, ClipTokenizer};
use tch::{Kind, Tensor};

use super::layers::{Conv, Shape};
use super::resize::normalized;
use super::vit::{Activation, Layer, Names, Size};

const MEAN: [f64; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const DEVIATION: [f64; 3] = [0.268_629_54, 0.261_302_58, 0.275_777_11];

const NAMES: Names = Names {
    norm1: "layer_norm1",
    query: "self_attn.q_proj",
    key: "self_attn.k_proj",
    value: "self_attn.v_proj",
    out: "self_attn.out_proj",
    norm2: "layer_norm2",
    fc1: "mlp.fc1",
    fc2: "mlp.fc2",
};

/// CLIP, with its text tower where that was asked for.
pub struct Clip {
    vision: Vision,
    text: Option<Text>,
    device: tch::Device,
    digest: [u8; 32],
}

struct Vision {
    patches: Conv,
    class: Tensor,
    positions: Tensor,
    before: LayerNorm,
    layers: Vec<Layer>,
    after: LayerNorm,
    projection: Linear,
    side: i64,
    width: i64,
}

struct Text {
    model: ClipTextModel,
    projection: Linear,
    tokenizer: Option<ClipTokenizer>,
}

impl Clip {
    /// Reads a folder; `with_text` needs the tokenizer's files too.
    pub fn load(folder: &Path, with_text: bool, device: Device) -> Result<Self> {
        let mut clip = Self::towers(folder, device)?;
        match &mut clip.text {
            Some(text) if with_text => {
                text.tokenizer = Some(ClipTokenizer::load(folder, text.model.length())?);
            }
            text => *text = None,
        }
        Ok(clip)
    }

    /// Reads both towers of a folder, without a tokenizer.
    pub fn towers(folder: &Path, device: Device) -> Result<Self> {
        let mut config = Config::read(&folder.join("config.json"))?;
        config.expect("model_type", &["clip".into()])?;
        let projected = config.number("projection_dim", 512, SIZES)?;
        let (text_config, vision_config) = (config.section("text_config")?, config.section("vision_config")?);
        let weights = Weights::open(folder, "model", None, Kind::Float, device.torch())?;
        let digest = weights.digest();
        let model = ClipTextModel::take(text_config, &weights)?;
        let vision = Vision::take(vision_config, &weights, projected)?;
        let projection = Linear::load(&weights, "text_projection", model.width(), projected, false)?;
        weights.ignore("logit_scale");
        weights.finish()?;
        let text = Some(Text { model, projection, tokenizer: None });
        Ok(Self { vision, text, device: device.torch(), digest })
    }

    /// The digest of the weights.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// The side of the pictures that it sees, in pixels.
    pub fn side(&self) -> i64 {
        self.vision.side
    }

    /// As CLIP's preprocessing does it: the shorter side to [`Clip::side`] by Pillow's bicubic, the middle square of
    /// that, normalised: `[3, side, side]`, float32.
    pub fn prepare(&self, picture: &Rgb8) -> Result<Tensor> {
        let side = self.vision.side;
        let (width, height) = (i64::from(picture.width), i64::from(picture.height));
        let longer = |long: i64, short: i64| (side * long / short).max(side);
        let (to_width, to_height) =
            if width <= height { (side, longer(height, width)) } else { (longer(width, height), side) };
        let from = (width as usize, height as usize);
        let to = (to_width as usize, to_height as usize);
        let resized = resize(&picture.data, 3, from, to, Filter::Bicubic);
        let pixels = Tensor::f_from_slice(&resized)?.f_view([to_height, to_width, 3])?.f_permute([2, 0, 1])?;
        let (top, left) = ((to_height - side) / 2, (to_width - side) / 2);
        let square = pixels.f_narrow(1, top, side)?.f_narrow(2, left, side)?;
        normalized(&square.f_to_kind(Kind::Float)?.f_div_scalar(255.0)?, MEAN, DEVIATION)
    }

    /// As CMMD does it: the whole picture in [0, 1] to the square by bicubic in floating point, normalised.
    pub fn prepare_squeezed(&self, picture: &Tensor) -> Result<Tensor> {
        let side = self.vision.side;
        let squeezed = super::resize::bicubic(&picture.f_div_scalar(255.0)?, side)?;
        normalized(&squeezed.f_to_kind(Kind::Float)?, MEAN, DEVIATION)
    }

    /// `[b, 3, side, side]` → directions `[b, d]`, length 1.
    pub fn pictures(&self, prepared: &Tensor) -> Result<Tensor> {
        unit(&self.vision.forward(&prepared.f_to_device(self.device)?)?)
    }

    /// A prompt's direction, `[1, d]`, length 1; `None` where the text tower was left out.
    pub fn prompt(&self, prompt: &str) -> Result<Option<Tensor>> {
        let Some((text, tokenizer)) = self.text.as_ref().and_then(|text| Some((text, text.tokenizer.as_ref()?))) else {
            return Ok(None);
        };
        let ids = tokenizer.encode(prompt)?.ids;
        let end = ids.iter().skip(1).position(|id| *id == tokenizer.end()).map_or(ids.len() - 1, |at| at + 1);
        Ok(Some(text.direction(&ids, end)?))
    }

    /// The direction of token ids, of which the one at `end` ends the prompt; `None` where the text tower was left out.
    pub fn tokens(&self, ids: &[i64], end: usize) -> Result<Option<Tensor>> {
        self.text.as_ref().map(|text| text.direction(ids, end)).transpose()
    }
}

impl Text {
    fn direction(&self, ids: &[i64], end: usize) -> Result<Tensor> {
        let hidden = self.model.forward(ids)?;
        unit(&self.projection.forward(&hidden.f_select(1, end as i64)?)?)
    }
}

impl Vision {
    fn take(mut config: Config, weights: &Weights, projected: i64) -> Result<Self> {
        let width = config.number("hidden_size", 768, SIZES)?;
        let inner = config.number("intermediate_size", 3072, SIZES)?;
        let count = config.number("num_hidden_layers", 12, COUNTS)?;
        let heads = config.number("num_attention_heads", 12, SIZES)?;
        let side = config.number("image_size", 224, 1..=4096)?;
        let patch = config.number("patch_size", 32, 1..=4096)?;
        let eps: f64 = config.take("layer_norm_eps", 1e-5)?;
        let activation: String = config.take("hidden_act", "quick_gelu".to_owned())?;
        config.expect("model_type", &["clip_vision_model".into()])?;
        let activation = match activation.as_str() {
            "quick_gelu" => Activation::QuickGelu,
            "gelu" => Activation::Gelu,
            other => {
                return Err(config.error(format!("\"hidden_act\": \"{other}\" is not supported (quick_gelu, gelu)")));
            }
        };
        if width % heads != 0 || side < patch {
            return Err(
                config.error("num_attention_heads does not divide hidden_size, or patch_size is above image_size")
            );
        }
        let size = Size { width, inner, heads, eps, activation };
        let patches = (side / patch).pow(2);
        let norm = |name: &str| LayerNorm::load(weights, &format!("vision_model.{name}"), width, eps);
        let shape = Shape::square(3, width, patch, patch, 0);
        weights.ignore("vision_model.embeddings.position_ids");
        Ok(Self {
            patches: Conv::load(weights, "vision_model.embeddings.patch_embedding", shape, false)?,
            class: weights.take("vision_model.embeddings.class_embedding", &[width])?,
            positions: weights.take("vision_model.embeddings.position_embedding.weight", &[patches + 1, width])?,
            // The name's spelling is transformers'.
            before: norm("pre_layrnorm")?,
            layers: (0..count)
                .map(|at| Layer::load(weights, &format!("vision_model.encoder.layers.{at}"), &NAMES, size))
                .collect::<Result<_>>()?,
            after: norm("post_layernorm")?,
            projection: Linear::load(weights, "visual_projection", width, projected, false)?,
            side,
            width,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let patches = self.patches.forward(x)?.f_flatten(2, 3)?.f_transpose(1, 2)?;
        let class = self.class.f_view([1, 1, self.width])?.f_expand([patches.size()[0], 1, self.width], false)?;
        let mut x = self.before.forward(&Tensor::f_cat(&[class, patches], 1)?.f_add(&self.positions)?)?;
        for layer in &self.layers {
            x = layer.forward(&x)?;
        }
        self.projection.forward(&self.after.forward(&x.f_select(1, 0)?)?)
    }
}

fn unit(x: &Tensor) -> Result<Tensor> {
    Ok(x.f_div(&x.f_norm_scalaropt_dim(2.0, [-1_i64], true)?)?)
}
