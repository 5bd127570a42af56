//! `unet/config.json`, read so that nothing is overlooked.

use std::path::Path;

use serde_json::Value;

use crate::error::Result;
use crate::model::config::{COUNTS, Config, SIZES};

/// One resolution of the down or up path.
#[derive(Debug, Clone)]
pub(super) struct BlockConfig {
    /// Whether it has cross-attention.
    pub attends: bool,
    /// Channels.
    pub channels: i64,
    /// Residual blocks of the down path; the up path has one more.
    pub resnets: i64,
    /// Heads of its attention.
    pub heads: i64,
    /// Transformer blocks after each residual block.
    pub depth: i64,
}

/// What decides the network's shape.
#[derive(Debug, Clone)]
pub(super) struct UnetConfig {
    /// Width and height of the latents that it was trained on.
    pub sample_size: (i64, i64),
    pub channels: Vec<i64>,
    pub down: Vec<BlockConfig>,
    pub mid: BlockConfig,
    pub up: Vec<BlockConfig>,
    pub groups: i64,
    pub eps: f64,
    pub text_width: i64,
    pub linear_projection: bool,
    pub upcast_attention: bool,
    pub downsample_padding: i64,
    pub flip_sin_to_cos: bool,
    pub freq_shift: f64,
}

impl UnetConfig {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let mut c = Config::read(path)?;
        let null = Value::Null;
        c.expect("_class_name", &["UNet2DConditionModel".into()])?;
        c.expect("in_channels", &[4.into()])?;
        c.expect("out_channels", &[4.into()])?;
        c.expect("act_fn", &["silu".into(), "swish".into()])?;
        c.expect("mid_block_type", &["UNetMidBlock2DCrossAttn".into()])?;
        c.expect("center_input_sample", &[false.into()])?;
        c.expect_per_block("only_cross_attention", &false.into())?;
        c.expect("mid_block_only_cross_attention", &[null.clone(), false.into()])?;
        c.expect("dual_cross_attention", &[false.into()])?;
        c.expect("mid_block_scale_factor", &[1.into(), 1.0.into()])?;
        c.expect("resnet_time_scale_shift", &["default".into()])?;
        c.expect("resnet_skip_time_act", &[false.into()])?;
        c.expect("resnet_out_scale_factor", &[1.into(), 1.0.into()])?;
        c.expect("time_embedding_type", &["positional".into()])?;
        c.expect("conv_in_kernel", &[3.into()])?;
        c.expect("conv_out_kernel", &[3.into()])?;
        c.expect("attention_type", &["default".into()])?;
        c.expect("class_embeddings_concat", &[false.into()])?;
        c.expect("num_attention_heads", std::slice::from_ref(&null))?;
        for unsupported in [
            "encoder_hid_dim",
            "encoder_hid_dim_type",
            "class_embed_type",
            "addition_embed_type",
            "addition_time_embed_dim",
            "num_class_embeds",
            "time_embedding_dim",
            "time_embedding_act_fn",
            "timestep_post_act",
            "time_cond_proj_dim",
            "projection_class_embeddings_input_dim",
            "cross_attention_norm",
            "reverse_transformer_layers_per_block",
        ] {
            c.expect(unsupported, std::slice::from_ref(&null))?;
        }
        c.ignore(&["dropout", "addition_embed_type_num_heads"]);

        let channels = c.numbers("block_out_channels", &[320, 640, 1280, 1280], SIZES)?;
        let blocks = channels.len();
        let groups = c.number("norm_num_groups", 32, SIZES)?;
        if channels.iter().any(|n| n % groups != 0) {
            return Err(c.error(format!("\"norm_num_groups\": {groups} does not divide each of {channels:?}")));
        }
        // The key is called attention_head_dim, but diffusers has always used it as the number of heads.
        let heads = c.number_per_block("attention_head_dim", 8, blocks, SIZES)?;
        if channels.iter().zip(&heads).any(|(channels, heads)| channels % heads != 0) {
            return Err(c.error(format!("\"attention_head_dim\": {heads:?} does not divide each of {channels:?}")));
        }
        let resnets = c.number_per_block("layers_per_block", 2, blocks, COUNTS)?;
        let depth = c.number_per_block("transformer_layers_per_block", 1, blocks, COUNTS)?;
        let down = block_types(&mut c, "down_block_types", "CrossAttnDownBlock2D", "DownBlock2D", blocks)?;
        let up = block_types(&mut c, "up_block_types", "CrossAttnUpBlock2D", "UpBlock2D", blocks)?;
        let block = |i: usize, attends: bool| BlockConfig {
            attends,
            channels: channels[i],
            resnets: resnets[i],
            heads: heads[i],
            depth: depth[i],
        };
        let config = Self {
            sample_size: sample_size(&mut c)?,
            down: (0..blocks).map(|i| block(i, down[i])).collect(),
            mid: block(blocks - 1, true),
            up: (0..blocks).map(|i| block(blocks - 1 - i, up[i])).collect(),
            groups,
            eps: c.take("norm_eps", 1e-5)?,
            text_width: text_width(&mut c, blocks)?,
            linear_projection: c.take("use_linear_projection", false)?,
            upcast_attention: c.take("upcast_attention", false)?,
            downsample_padding: c.number("downsample_padding", 1, 0..=1)?,
            flip_sin_to_cos: c.take("flip_sin_to_cos", true)?,
            freq_shift: c.take("freq_shift", 0.0)?,
            channels,
        };
        c.finish()?;
        Ok(config)
    }
}

impl UnetConfig {
    /// The least rows and columns of latents. Without padding of its own, a convolution on the way down needs two.
    pub(super) fn smallest(&self) -> i64 {
        if self.downsample_padding == 0 { 1 << (self.channels.len() - 1).min(30) } else { 1 }
    }
}

/// `sample_size`, written once or as height and width. Files of diffusers before 0.9 say 32 of models that were trained at
/// 64, and its pipelines know.
fn sample_size(c: &mut Config) -> Result<(i64, i64)> {
    let version = c.text("_diffusers_version").unwrap_or_default();
    let mut parts = version.split('.').map(|part| part.parse::<u64>().unwrap_or_default());
    let is_old = !version.is_empty() && (parts.next(), parts.next()) < (Some(0), Some(9));
    let [height, width] = c.one_or_two("sample_size", 64, SIZES)?;
    let is_square = height == width;
    Ok(if is_old && is_square && height < 64 { (64, 64) } else { (width, height) })
}

/// `cross_attention_dim`, written once or as the same number for each block.
fn text_width(c: &mut Config, blocks: usize) -> Result<i64> {
    let widths = c.number_per_block("cross_attention_dim", 1280, blocks, SIZES)?;
    match widths.split_first() {
        Some((first, rest)) if rest.iter().all(|width| width == first) => Ok(*first),
        _ => Err(c.error(format!("\"cross_attention_dim\": {widths:?} is not the same for each block"))),
    }
}

/// For each block, whether it has cross-attention.
fn block_types(c: &mut Config, key: &str, attending: &str, plain: &str, blocks: usize) -> Result<Vec<bool>> {
    let types: Vec<String> = c.require(key)?;
    if types.len() != blocks {
        return Err(c.error(format!("\"{key}\" has {} entries, \"block_out_channels\" has {blocks}", types.len())));
    }
    types
        .iter()
        .map(|name| match name.as_str() {
            name if name == attending => Ok(true),
            name if name == plain => Ok(false),
            other => Err(c.error(format!("\"{key}\": \"{other}\" is not supported (supported: {attending}, {plain})"))),
        })
        .collect()
}
