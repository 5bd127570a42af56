//! `Transformer2DModel` and its `BasicTransformerBlock`s. `[B, C, h, w]` outside, `[B, N, C]` inside.

use tch::{Device, Kind, Tensor};

use super::TextContext;
use super::tap::{Captured, Tap};
use crate::error::{Error, Result};
use crate::kernels::Kernels;
use crate::model::nn::{GroupNorm, LayerNorm, Linear, add, attention, merge_heads, split_heads};
use crate::model::weights::Weights;

/// Walks through the cross-attention layers in the order in which they run.
pub(super) struct Cursor<'a> {
    text: &'a TextContext,
    tap: &'a mut Tap,
    next: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a TextContext, tap: &'a mut Tap) -> Self {
        Self { text, tap, next: 0 }
    }
}

/// All rows of `x`, one after the other, again and again until there are `rows`: from where on each meets several texts.
pub(super) fn repeated(x: &Tensor, rows: i64) -> Result<Tensor> {
    let times = rows / x.size()[0].max(1);
    if times <= 1 {
        return Ok(x.shallow_clone());
    }
    Ok(Tensor::f_cat(&vec![x; times as usize], 0)?)
}

/// Attention of positions to positions.
struct SelfAttention {
    q: Linear,
    k: Linear,
    v: Linear,
    /// `[3C, C]`: all three over the same memory, where one product takes less time than three.
    qkv: Option<Linear>,
    out: Linear,
    heads: i64,
    upcast: bool,
}

impl SelfAttention {
    fn load(w: &Weights, name: &str, channels: i64, heads: i64, upcast: bool) -> Result<Self> {
        let projection = |part: &str, bias| Linear::load(w, &format!("{name}.{part}"), channels, channels, bias);
        let (mut q, mut k, mut v) =
            (projection("to_q", false)?, projection("to_k", false)?, projection("to_v", false)?);
        // Stand-ins for weights that were not found have no memory to put together.
        let whole = [&q, &k, &v].iter().all(|part| part.weight.is_contiguous());
        let mut qkv = None;
        if w.kernels().are_own() && whole {
            let weight = Tensor::f_cat(&[&q.weight, &k.weight, &v.weight], 0)?;
            let all = Linear { weight, bias: None };
            [q, k, v] =
                [all.outputs(0, channels)?, all.outputs(channels, channels)?, all.outputs(2 * channels, channels)?];
            qkv = Some(all);
        }
        Ok(Self { q, k, v, qkv, out: projection("to_out.0", true)?, heads, upcast })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let [q, k, v] = match &self.qkv {
            Some(all) => {
                let all = all.forward(x)?;
                let channels = x.size3()?.2;
                [
                    all.f_narrow(-1, 0, channels)?,
                    all.f_narrow(-1, channels, channels)?,
                    all.f_narrow(-1, 2 * channels, channels)?,
                ]
            }
            None => [self.q.forward(x)?, self.k.forward(x)?, self.v.forward(x)?],
        };
        let heads = |x: &Tensor| split_heads(x, self.heads);
        self.out.forward(&merge_heads(&attend(&heads(&q)?, &heads(&k)?, &heads(&v)?, self.upcast)?)?)
    }
}

/// Fused attention, in float32 where the model asks for it.
fn attend(q: &Tensor, k: &Tensor, v: &Tensor, upcast: bool) -> Result<Tensor> {
    if upcast && q.kind() != Kind::Float {
        let up = |x: &Tensor| x.f_to_kind(Kind::Float);
        return Ok(attention(&up(q)?, &up(k)?, &up(v)?, None)?.f_to_kind(q.kind())?);
    }
    attention(q, k, v, None)
}

/// Attention of positions to the prompt's tokens.
pub struct CrossAttention {
    q: Linear,
    k: Linear,
    v: Linear,
    /// The output projection `W_o` `[C, H·d]`.
    pub out: Linear,
    /// The number of heads H.
    pub heads: i64,
    upcast: bool,
}

impl CrossAttention {
    pub(super) fn keys_and_values(&self, text: &Tensor) -> Result<(Tensor, Tensor)> {
        Ok((split_heads(&self.k.forward(text)?, self.heads)?, split_heads(&self.v.forward(text)?, self.heads)?))
    }

    fn forward(&self, x: &Tensor, (height, width): (i64, i64), cursor: &mut Cursor<'_>) -> Result<Tensor> {
        let layer = cursor.next;
        cursor.next += 1;
        let (k, v) = cursor
            .text
            .layers
            .get(layer)
            .ok_or_else(|| Error::Torch("the text was prepared for another network".to_owned()))?;
        let q = repeated(&split_heads(&self.q.forward(x)?, self.heads)?, k.size()[0])?;
        let mixed = if cursor.tap.wants(layer) {
            let spared = if cursor.tap.spares { cursor.tap.first } else { 0 };
            let rest = |x: &Tensor| x.f_narrow(0, spared, x.size()[0] - spared);
            let formed = Self::tapped(&rest(&q)?, &rest(k)?, &rest(v)?, layer, (height, width), cursor.tap)?;
            if spared > 0 {
                let first = |x: &Tensor| x.f_narrow(0, 0, spared);
                Tensor::f_cat(&[attend(&first(&q)?, &first(k)?, &first(v)?, self.upcast)?, formed], 0)?
            } else {
                formed
            }
        } else {
            attend(&q, k, v, self.upcast)?
        };
        self.out.forward(&merge_heads(&mixed)?)
    }

    /// Attention by probabilities, which the tap disturbs and keeps.
    fn tapped(
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        layer: usize,
        (height, width): (i64, i64),
        tap: &mut Tap,
    ) -> Result<Tensor> {
        let mut probabilities = probabilities(q, k)?;
        if let Some(perturb) = tap.perturb.as_ref().filter(|p| p.layer == layer) {
            probabilities = probabilities.f_mul(&perturb.factor)?;
        }
        if tap.layers.contains(&layer) {
            if tap.differentiable {
                probabilities = probabilities.f_detach()?.f_set_requires_grad(true)?;
            }
            // A leaf is kept as it is: a view of it would have no gradient.
            let kept = |x: &Tensor| -> Result<Tensor> {
                if tap.spares || tap.first == 0 { Ok(x.shallow_clone()) } else { tap.rows(x) }
            };
            let (kept_probabilities, values) = (kept(&probabilities)?, kept(v)?);
            tap.captured.push(Captured { layer, probabilities: kept_probabilities, values, height, width });
        }
        Ok(probabilities.f_to_kind(v.kind())?.f_matmul(v)?)
    }
}

/// `softmax(q kᵀ / √d)` in float32, `[B, H, N, T]`.
fn probabilities(q: &Tensor, k: &Tensor) -> Result<Tensor> {
    let d = q.size4()?.3;
    let (q, k) = (q.f_to_kind(Kind::Float)?, k.f_to_kind(Kind::Float)?);
    let logits = q.f_matmul(&k.f_transpose(-1, -2)?)?.f_mul_scalar(1.0 / (d as f64).sqrt())?;
    Ok(logits.f_softmax(-1, Kind::Float)?)
}

/// Self-attention, cross-attention and a GEGLU feed-forward, each with a residual.
pub struct TransformerBlock {
    norm1: LayerNorm,
    self_attention: SelfAttention,
    norm2: LayerNorm,
    /// The attention to the prompt.
    pub cross_attention: CrossAttention,
    /// The norm before the feed-forward.
    pub norm3: LayerNorm,
    /// `[2M, C]`: values and gates.
    pub ff_in: Linear,
    /// Both apart, over the same memory.
    ff_value: Linear,
    ff_gate: Linear,
    /// `[C, M]`.
    pub ff_out: Linear,
    kernels: Kernels,
}

impl TransformerBlock {
    fn load(w: &Weights, name: &str, channels: i64, heads: i64, text_width: i64, upcast: bool) -> Result<Self> {
        let projection =
            |part: &str, inputs: i64, bias: bool| Linear::load(w, &format!("{name}.{part}"), inputs, channels, bias);
        let norm = |part: &str| LayerNorm::load(w, &format!("{name}.{part}"), channels, 1e-5);
        let inner = 4 * channels;
        let ff_in = Linear::load(w, &format!("{name}.ff.net.0.proj"), channels, 2 * inner, true)?;
        Ok(Self {
            norm1: norm("norm1")?,
            self_attention: SelfAttention::load(w, &format!("{name}.attn1"), channels, heads, upcast)?,
            norm2: norm("norm2")?,
            cross_attention: CrossAttention {
                q: projection("attn2.to_q", channels, false)?,
                k: projection("attn2.to_k", text_width, false)?,
                v: projection("attn2.to_v", text_width, false)?,
                out: projection("attn2.to_out.0", channels, true)?,
                heads,
                upcast,
            },
            norm3: norm("norm3")?,
            ff_value: ff_in.outputs(0, inner)?,
            ff_gate: ff_in.outputs(inner, inner)?,
            ff_in,
            ff_out: Linear::load(w, &format!("{name}.ff.net.2"), inner, channels, true)?,
            kernels: w.kernels().clone(),
        })
    }

    fn forward(&self, x: &Tensor, size: (i64, i64), cursor: &mut Cursor<'_>, last: bool) -> Result<Tensor> {
        let (x, h) = self.norm2.forward_sum(self.self_attention.forward(&self.norm1.forward(x)?)?, x)?;
        let attended = self.cross_attention.forward(&h, size, cursor)?;
        let rows = attended.size()[0];
        let (x, h) = self.norm3.forward_sum(attended, &repeated(&x, rows)?)?;
        if last {
            cursor.tap.capture_tail_residual(&x)?;
        }
        add(self.ff_out.forward(&self.gated(&h)?)?, &x)
    }

    /// GEGLU (Shazeer 2020): `value · gelu(gate)`.
    fn gated(&self, x: &Tensor) -> Result<Tensor> {
        if x.requires_grad() || x.device() != Device::Cpu || self.kernels.are_own() {
            let both = self.ff_in.forward(x)?;
            if let Some(gated) = self.kernels.geglu(&both)? {
                return Ok(gated);
            }
            let halves = both.f_chunk(2, -1)?;
            return Ok(halves[0].f_mul(&halves[1].f_gelu("none")?)?);
        }
        // Two products take as long as one, and what comes of them lies side by side, and is used again in its place.
        let (mut value, mut gate) = (self.ff_value.forward(x)?, self.ff_gate.forward(x)?);
        let _ = gate.f_gelu_("none")?;
        let _ = value.f_mul_(&gate)?;
        Ok(value)
    }
}

/// `Transformer2DModel`: positions of a feature map attend to each other and to the prompt.
pub struct TransformerModel {
    norm: GroupNorm,
    proj_in: Linear,
    /// Its blocks.
    pub blocks: Vec<TransformerBlock>,
    /// The projection back into the feature map, a 1×1 convolution written as a matrix.
    pub proj_out: Linear,
}

/// What a [`TransformerModel`] needs to know of its model.
pub(super) struct TransformerShape {
    pub channels: i64,
    pub heads: i64,
    pub depth: i64,
    pub groups: i64,
    pub text_width: i64,
    pub linear_projection: bool,
    pub upcast: bool,
}

impl TransformerModel {
    pub(super) fn load(w: &Weights, name: &str, shape: &TransformerShape, layers: &mut Vec<String>) -> Result<Self> {
        let c = shape.channels;
        // A 1×1 convolution over a feature map is the same matrix at each position.
        let projection = |part: &str| -> Result<Linear> {
            let name = format!("{name}.{part}");
            if shape.linear_projection {
                return Linear::load(w, &name, c, c, true);
            }
            let weight = w.take(&format!("{name}.weight"), &[c, c, 1, 1])?.f_view([c, c])?;
            Ok(Linear { weight, bias: Some(w.take(&format!("{name}.bias"), &[c])?) })
        };
        let blocks = (0..shape.depth)
            .map(|i| {
                let block = format!("{name}.transformer_blocks.{i}");
                layers.push(format!("{block}.attn2"));
                TransformerBlock::load(w, &block, c, shape.heads, shape.text_width, shape.upcast)
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            norm: GroupNorm::load(w, &format!("{name}.norm"), shape.groups, c, 1e-6)?,
            proj_in: projection("proj_in")?,
            blocks,
            proj_out: projection("proj_out")?,
        })
    }

    pub(super) fn forward(&self, x: &Tensor, cursor: &mut Cursor<'_>) -> Result<Tensor> {
        let (b, c, height, width) = x.size4()?;
        let h = self.norm.forward(x)?.f_permute([0, 2, 3, 1])?.f_reshape([b, height * width, c])?;
        let mut h = self.proj_in.forward(&h)?;
        for (i, block) in self.blocks.iter().enumerate() {
            h = block.forward(&h, (height, width), cursor, i + 1 == self.blocks.len())?;
        }
        let rows = h.size()[0];
        let h = self.proj_out.forward(&h)?.f_view([rows, height, width, c])?.f_permute([0, 3, 1, 2])?;
        // The sum takes its memory order from its first term.
        Ok(repeated(x, rows)?.f_add(&h)?)
    }

    pub(super) fn each_cross_attention(&self, visit: &mut dyn FnMut(&CrossAttention) -> Result<()>) -> Result<()> {
        self.blocks.iter().try_for_each(|block| visit(&block.cross_attention))
    }
}
