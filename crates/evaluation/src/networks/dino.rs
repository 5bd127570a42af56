//! DINO's ViT-B/8 (Caron et al. 2021) in the layout of transformers' `ViTModel`: how the structure of two pictures
//! differs, whatever their colours (Splice, Tumanyan et al. 2022; PIE-Bench).

use std::path::Path;

use diorama_diffusion::device::Device;
use diorama_diffusion::error::Result;
use diorama_diffusion::model::config::{COUNTS, Config, SIZES};
use diorama_diffusion::model::weights::Weights;
use tch::{Kind, Tensor};

use super::layers::{Conv, Shape};
use super::resize::{bilinear, normalized};
use super::vit::{Activation, Layer, Names, Size};

/// ImageNet's.
const MEAN: [f64; 3] = [0.485, 0.456, 0.406];
const DEVIATION: [f64; 3] = [0.229, 0.224, 0.225];

const NAMES: Names = Names {
    norm1: "layernorm_before",
    query: "attention.attention.query",
    key: "attention.attention.key",
    value: "attention.attention.value",
    out: "attention.output.dense",
    norm2: "layernorm_after",
    fc1: "intermediate.dense",
    fc2: "output.dense",
};

/// As transformers 5 calls them in memory, and published folders do.
const RENAMED: [(&str, &str); 6] = [
    (".attention.q_proj.", ".attention.attention.query."),
    (".attention.k_proj.", ".attention.attention.key."),
    (".attention.v_proj.", ".attention.attention.value."),
    (".attention.o_proj.", ".attention.output.dense."),
    (".mlp.fc1.", ".intermediate.dense."),
    (".mlp.fc2.", ".output.dense."),
];

/// The network.
pub struct Dino {
    patches: Conv,
    class: Tensor,
    positions: Tensor,
    layers: Vec<Layer>,
    side: i64,
    width: i64,
    device: tch::Device,
    digest: [u8; 32],
}

impl Dino {
    /// Reads `config.json` and `model.safetensors` of a folder.
    pub fn load(folder: &Path, device: Device) -> Result<Self> {
        let mut config = Config::read(&folder.join("config.json"))?;
        config.expect("model_type", &["vit".into()])?;
        config.expect("hidden_act", &["gelu".into()])?;
        config.expect("qkv_bias", &[true.into()])?;
        let width = config.number("hidden_size", 768, SIZES)?;
        let inner = config.number("intermediate_size", 3072, SIZES)?;
        let count = config.number("num_hidden_layers", 12, COUNTS)?;
        let heads = config.number("num_attention_heads", 12, SIZES)?;
        let side = config.number("image_size", 224, 1..=4096)?;
        let patch = config.number("patch_size", 16, 1..=4096)?;
        let eps: f64 = config.take("layer_norm_eps", 1e-12)?;
        if width % heads != 0 || side < patch {
            return Err(
                config.error("num_attention_heads does not divide hidden_size, or patch_size is above image_size")
            );
        }
        let size = Size { width, inner, heads, eps, activation: Activation::Gelu };
        let weights = Weights::open(folder, "model", None, Kind::Float, device.torch())?;
        let digest = weights.digest();
        weights.rename(published_name);
        for name in ["weight", "bias"] {
            // After the last layer's keys: no measure of ours needs them.
            weights.ignore(&format!("layernorm.{name}"));
            weights.ignore(&format!("pooler.dense.{name}"));
        }
        let patches = (side / patch).pow(2);
        let shape = Shape::square(3, width, patch, patch, 0);
        let network = Self {
            patches: Conv::load(&weights, "embeddings.patch_embeddings.projection", shape, true)?,
            class: weights.take("embeddings.cls_token", &[1, 1, width])?,
            positions: weights.take("embeddings.position_embeddings", &[1, patches + 1, width])?,
            layers: (0..count)
                .map(|at| Layer::load(&weights, &format!("encoder.layer.{at}"), &NAMES, size))
                .collect::<Result<_>>()?,
            side,
            width,
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

    /// The cosines between the last layer's keys of every two places of a picture `[3, h, w]` in [0, 255]: `[n, n]`, the
    /// class token among the places. The picture is brought to the square that the network knows, whatever its shape.
    pub fn self_similarity(&self, picture: &Tensor) -> Result<Tensor> {
        Ok(self.self_similarities(&[picture])?.remove(0))
    }

    /// [`Dino::self_similarity`] of several pictures in one pass, in their order.
    pub fn self_similarities(&self, pictures: &[&Tensor]) -> Result<Vec<Tensor>> {
        let prepared = |picture: &&Tensor| -> Result<Tensor> {
            let x = picture.f_to_device(self.device)?.f_to_kind(Kind::Float)?.f_div_scalar(255.0)?.f_unsqueeze(0)?;
            normalized(&bilinear(&x, (self.side, self.side), true)?, MEAN, DEVIATION)
        };
        let x = pictures.iter().map(prepared).collect::<Result<Vec<_>>>()?;
        let keys = self.keys(&Tensor::f_cat(&x, 0)?)?;
        let of = |at: usize| -> Result<Tensor> {
            let keys = keys.f_get(at as i64)?;
            let norm = keys.f_norm_scalaropt_dim(2.0, [1_i64], true)?;
            let norms = norm.f_matmul(&norm.f_transpose(0, 1)?)?.f_clamp_min(1e-8)?;
            Ok(keys.f_matmul(&keys.f_transpose(0, 1)?)?.f_div(&norms)?)
        };
        (0..pictures.len()).map(of).collect()
    }

    /// The mean squared difference of two [`Dino::self_similarity`].
    pub fn distance(&self, a: &Tensor, b: &Tensor) -> Result<f64> {
        Ok(a.f_sub(b)?.f_square()?.f_mean(Kind::Double)?.f_double_value(&[])?)
    }

    fn keys(&self, x: &Tensor) -> Result<Tensor> {
        let patches = self.patches.forward(x)?.f_flatten(2, 3)?.f_transpose(1, 2)?;
        let class = self.class.f_expand([patches.size()[0], 1, self.width], false)?;
        let mut x = Tensor::f_cat(&[class, patches], 1)?.f_add(&self.positions)?;
        let Some((last, before)) = self.layers.split_last() else { return Ok(x) };
        for layer in before {
            x = layer.forward(&x)?;
        }
        last.keys(&x)
    }
}

fn published_name(name: &str) -> Option<String> {
    let name = name.strip_prefix("vit.").unwrap_or(name);
    let name = match name.strip_prefix("layers.") {
        Some(rest) => format!("encoder.layer.{rest}"),
        None => name.to_owned(),
    };
    Some(RENAMED.iter().fold(name, |name, (from, to)| name.replace(from, to)))
}
