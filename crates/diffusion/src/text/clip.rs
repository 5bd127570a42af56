//! CLIP's text transformer (`CLIPTextModel` of transformers): `[B, T]` token ids → `[B, T, C]` hidden states after
//! the final layer norm.

use std::path::Path;

use tch::{Device, Kind, Tensor};

use crate::error::Result;
use crate::model::config::{COUNTS, Config, SIZES};
use crate::model::nn::{LayerNorm, Linear, attention, merge_heads, split_heads};
use crate::model::weights::Weights;

/// The activation between the two linear layers of a block.
#[derive(Clone, Copy)]
enum Activation {
    /// `x · σ(1.702 x)`: OpenAI's CLIP, Stable Diffusion 1.x.
    QuickGelu,
    /// The exact GELU: OpenCLIP, Stable Diffusion 2.x.
    Gelu,
}

/// What such files say of training, generation and other heads, and of how transformers gives results: the hidden states
/// do not depend on it.
const UNUSED: &str = "\
    add_cross_attention architectures attention_dropout bad_words_ids begin_suppress_tokens bos_token_id \
    chunk_size_feed_forward cross_attention_hidden_size decoder_start_token_id diversity_penalty do_sample dropout \
    dtype early_stopping encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty \
    finetuning_task forced_bos_token_id forced_eos_token_id gradient_checkpointing id2label initializer_factor \
    initializer_range is_decoder is_encoder_decoder label2id length_penalty max_length min_length \
    no_repeat_ngram_size num_beam_groups num_beams num_return_sequences output_attentions output_hidden_states \
    output_scores pad_token_id prefix problem_type projection_dim remove_invalid_values repetition_penalty \
    return_dict return_dict_in_generate sep_token_id suppress_tokens task_specific_params temperature \
    tf_legacy_loss tie_encoder_decoder tie_word_embeddings tokenizer_class top_k top_p torch_dtype torchscript \
    transformers_version typical_p use_bfloat16 use_cache";

struct Layer {
    norm1: LayerNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
}

/// The text encoder of one model.
pub struct ClipTextModel {
    token_embedding: Tensor,
    position_embedding: Tensor,
    layers: Vec<Layer>,
    final_norm: LayerNorm,
    heads: i64,
    activation: Activation,
    causal_mask: Tensor,
    digest: [u8; 32],
    width: i64,
}

impl ClipTextModel {
    /// Reads a model's `text_encoder` folder.
    pub fn load(folder: &Path, variant: Option<&str>, kind: Kind, device: Device) -> Result<Self> {
        let config = Config::read(&folder.join("config.json"))?;
        let weights = Weights::open(folder, "model", variant, kind, device)?;
        let model = Self::take(config, &weights)?;
        weights.finish()?;
        Ok(model)
    }

    /// Takes the text tower out of weights that may hold more, such as those of a `CLIPModel`.
    pub fn take(mut config: Config, weights: &Weights) -> Result<Self> {
        let vocab = config.number("vocab_size", 49408, 1..=1 << 24)?;
        let width = config.number("hidden_size", 512, SIZES)?;
        let inner = config.number("intermediate_size", 2048, SIZES)?;
        let count = config.number("num_hidden_layers", 12, COUNTS)?;
        let heads = config.number("num_attention_heads", 8, SIZES)?;
        // Start, end and a token between them.
        let length = config.number("max_position_embeddings", 77, 3..=1 << 16)?;
        let eps: f64 = config.take("layer_norm_eps", 1e-5)?;
        let act: String = config.take("hidden_act", "quick_gelu".to_owned())?;
        let activation = match act.as_str() {
            "quick_gelu" => Activation::QuickGelu,
            "gelu" => Activation::Gelu,
            other => {
                return Err(config.error(format!("\"hidden_act\": \"{other}\" is not supported (quick_gelu, gelu)")));
            }
        };
        config.expect("model_type", &["clip_text_model".into(), "clip".into()])?;
        config.expect("pruned_heads", &[serde_json::json!({})])?;
        // diffusers' pipelines would hide the padding from the encoder.
        config.expect("use_attention_mask", &[false.into()])?;
        UNUSED.split_whitespace().for_each(|key| config.ignore(&[key]));
        if width % heads != 0 {
            return Err(config.error(format!("\"num_attention_heads\": {heads} does not divide hidden_size {width}")));
        }
        config.finish()?;

        let (kind, device, digest) = (weights.kind(), weights.device(), weights.digest());
        // Published folders have the prefix, transformers 5 writes without it.
        weights.rename(|name| name.strip_prefix("text_model.").map(str::to_owned));
        weights.ignore("embeddings.position_ids");
        let linear = |name: &str, i, o| Linear::load(weights, name, i, o, true);
        let norm = |name: &str| LayerNorm::load(weights, name, width, eps);
        let token_embedding = weights.take("embeddings.token_embedding.weight", &[vocab, width])?;
        let position_embedding = weights.take("embeddings.position_embedding.weight", &[length, width])?;
        let layers = (0..count)
            .map(|i| {
                let p = format!("encoder.layers.{i}");
                Ok(Layer {
                    norm1: norm(&format!("{p}.layer_norm1"))?,
                    q: linear(&format!("{p}.self_attn.q_proj"), width, width)?,
                    k: linear(&format!("{p}.self_attn.k_proj"), width, width)?,
                    v: linear(&format!("{p}.self_attn.v_proj"), width, width)?,
                    out: linear(&format!("{p}.self_attn.out_proj"), width, width)?,
                    norm2: norm(&format!("{p}.layer_norm2"))?,
                    fc1: linear(&format!("{p}.mlp.fc1"), width, inner)?,
                    fc2: linear(&format!("{p}.mlp.fc2"), inner, width)?,
                })
            })
            .collect::<Result<_>>()?;
        let final_norm = norm("final_layer_norm")?;
        let causal_mask =
            Tensor::f_full([length, length], f64::NEG_INFINITY, (Kind::Float, device))?.f_triu(1)?.f_to_kind(kind)?;
        Ok(Self {
            token_embedding,
            position_embedding,
            layers,
            final_norm,
            heads,
            activation,
            causal_mask,
            digest,
            width,
        })
    }

    /// The number of positions: 77 in every published model.
    pub fn length(&self) -> usize {
        self.position_embedding.size()[0] as usize
    }

    /// The number of tokens that it knows.
    pub fn vocabulary(&self) -> i64 {
        self.token_embedding.size()[0]
    }

    /// The width of the hidden states.
    pub fn width(&self) -> i64 {
        self.width
    }

    /// The digest of the weights.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// `ids`: one prompt of at most [`ClipTextModel::length`] tokens → `[1, T, C]`.
    pub fn forward(&self, ids: &[i64]) -> Result<Tensor> {
        let length = ids.len() as i64;
        let ids = Tensor::f_from_slice(ids)?.f_unsqueeze(0)?.f_to_device(self.token_embedding.device())?;
        let embedded = Tensor::f_embedding(&self.token_embedding, &ids, -1, false, false)?;
        let mut x = embedded.f_add(&self.position_embedding.f_narrow(0, 0, length)?)?;
        let causal_mask = self.causal_mask.f_narrow(0, 0, length)?.f_narrow(1, 0, length)?;
        for layer in &self.layers {
            let h = layer.norm1.forward(&x)?;
            let q = split_heads(&layer.q.forward(&h)?, self.heads)?;
            let k = split_heads(&layer.k.forward(&h)?, self.heads)?;
            let v = split_heads(&layer.v.forward(&h)?, self.heads)?;
            let h = merge_heads(&attention(&q, &k, &v, Some(&causal_mask))?)?;
            x = x.f_add(&layer.out.forward(&h)?)?;
            let h = layer.fc1.forward(&layer.norm2.forward(&x)?)?;
            let h = match self.activation {
                Activation::QuickGelu => h.f_mul(&h.f_mul_scalar(1.702)?.f_sigmoid()?)?,
                Activation::Gelu => h.f_gelu("none")?,
            };
            x = x.f_add(&layer.fc2.forward(&h)?)?;
        }
        self.final_norm.forward(&x)
    }
}
