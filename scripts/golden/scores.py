"""The scores of METHOD.md by brute force: one backward pass for each output element.

`capture` exposes the attention probabilities of one cross-attention layer as an independent leaf: whatever reached the
layer is constant, as in the definition of the Jacobian. `jacobian` then differentiates every element of the output.
"""
import torch
import torch.nn.functional as F

import published

MIXTURE_SEED = 11


class LeafAttention:
    """diffusers attention processor whose probabilities [B, H, N, T] are a leaf of the graph."""

    def __init__(self):
        self.probabilities = None

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, **_):
        def heads(x):
            return x.view(x.shape[0], x.shape[1], attn.heads, -1).transpose(1, 2)

        q, k, v = heads(attn.to_q(hidden_states)), heads(attn.to_k(encoder_hidden_states)), \
            heads(attn.to_v(encoder_hidden_states))
        p = (q @ k.transpose(-1, -2) * attn.scale).softmax(-1)
        self.probabilities = p.detach().requires_grad_(True)
        out = (self.probabilities @ v).transpose(1, 2).flatten(2)
        return attn.to_out[1](attn.to_out[0](out))


def last_layer(unet):
    """The path of the last cross-attention layer."""
    return [n for n, m in unet.named_modules() if n.endswith("attn2") and n.startswith("up_blocks")][-1]


def capture(unet, path, *inputs):
    """One forward; gives (output [B,4,h,w] with its graph, probabilities [B,H,N,T])."""
    layer = unet.get_submodule(path)
    processor, before = LeafAttention(), layer.processor
    layer.set_processor(processor)
    try:
        with torch.enable_grad():
            output = unet(*inputs).sample
    finally:
        layer.set_processor(before)
    return output, processor.probabilities


@torch.enable_grad()
def sums(output, probabilities, tokens):
    """Of each row: Σ A·|J|, Σ A·ReLU(J) and sqrt(Σ A²·J²) over heads and queries, each [B, tokens, 4, h, w]."""
    b, c, h, w = output.shape
    flat, a = output.flatten(1), probabilities.detach()[..., tokens]
    found = {"abs": [], "relu": [], "l2": []}
    for i in range(flat.shape[1]):
        # Rows do not depend on each other, so the sum over rows gives each row's own gradient.
        (j,) = torch.autograd.grad(flat[:, i].sum(), probabilities, retain_graph=True)
        j = j[..., tokens]
        found["abs"].append((a * j.abs()).sum((1, 2)))
        found["relu"].append((a * j.relu()).sum((1, 2)))
        found["l2"].append((a * j).square().sum((1, 2)).sqrt())
    return {k: torch.stack(v, -1).view(b, len(tokens), c, h, w) for k, v in found.items()}


def golden(pipe, data, tokens):
    """Tensors named `score.…` for the UNet inputs in `data` (sample [3,4,h,w], hidden [4,77,C], timestep)."""
    unet, t = pipe.unet, data["timestep"]
    sample, hidden = data["sample"], data["hidden"][:3]
    path, out = last_layer(unet), {}

    output, a = capture(unet, path, sample[:1], t, hidden[:1])
    one = sums(output, a, tokens)
    out["score.last.f32.abs"], out["score.last.f32.relu"] = one["abs"][0], one["relu"][0]

    unet.double()
    sample, hidden = sample.double(), hidden.double()
    output, a = capture(unet, path, sample, t, hidden)
    truth = sums(output, a, tokens)
    out["score.last.f64.abs"], out["score.last.f64.relu"] = truth["abs"][0], truth["relu"][0]
    out["score.last.batch.abs"], out["score.last.batch.relu"] = truth["abs"].float(), truth["relu"].float()
    mixture = published.mixtures(MIXTURE_SEED, output[0].numel())
    out["score.last.mixed"] = published.mixed_sums(output, a, tokens, mixture).float()
    columns = a.detach()[..., tokens]                                                    # [3, H, N, tokens]
    out["score.last.probabilities"] = columns.float()
    # Without a gradient: the attention that each latent position pays, the same for every channel.
    # A layer with fewer positions is enlarged.
    h, w = output.shape[2:]
    paid = columns.sum(1).permute(0, 2, 1)
    factor = round((h * w / paid.shape[-1]) ** 0.5)
    paid = paid.reshape(3, len(tokens), h // factor, w // factor).float()
    out["score.last.attention"] = paid if factor == 1 else F.interpolate(paid, size=(h, w), mode="bilinear")

    # Layers without a closed form: the outermost one of the way down, and the middle one, which has fewer positions.
    for name, back in (("down", "down_blocks.0.attentions.0.transformer_blocks.0.attn2"),
                       ("mid", "mid_block.attentions.0.transformer_blocks.0.attn2")):
        output, a = capture(unet, back, sample[:1], t, hidden[:1])
        for form, value in sums(output, a, tokens).items():
            out[f"score.{name}.{form}"] = value[0].float()
        if name == "mid":
            out["score.mid.mixed"] = published.mixed_sums(output, a, tokens, mixture)[0].float()

    with torch.no_grad():
        empty = data["hidden"][data["empty"]].double().expand(3, -1, -1)
        difference = unet(sample, t, hidden).sample - unet(sample, t, empty).sample
    out["score.guidance-difference"] = difference.abs().float()
    unet.float()
    return {k: v.detach().contiguous() for k, v in out.items()}
