"""Attention processors that keep the probabilities A [B, heads, queries, text positions]."""


class KeepsProbabilities:
    """Plain softmax attention. With `leaf`, A is cut from the graph, so that derivatives with
    respect to A itself can be taken; with a `factor` (broadcast to A), A is multiplied by it."""

    def __init__(self, leaf=False):
        self.leaf, self.factor, self.probabilities, self.values = leaf, None, None, None

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, **_):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        split = lambda y: y.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        q, k, v = split(attn.to_q(hidden_states)), split(attn.to_k(context)), split(attn.to_v(context))
        a = ((q * attn.scale) @ k.transpose(-1, -2)).softmax(-1)
        if self.leaf:
            a = a.detach().requires_grad_(True)
        if self.factor is not None:
            a = a * self.factor
        self.probabilities, self.values = a, v
        return attn.to_out[1](attn.to_out[0]((a @ v).transpose(1, 2).flatten(2)))


def cross_attention_names(unet, resolution_blocks=("down_blocks.0", "up_blocks.2")):
    """Diffusers paths of the cross-attention layers at 16x16; the last one is `names[-1]`."""
    return [n for n, _ in unet.named_modules() if n.endswith("attn2") and n.startswith(resolution_blocks)]


def watch(unet, names, leaf=False):
    processors = [KeepsProbabilities(leaf) for _ in names]
    for name, processor in zip(names, processors):
        unet.get_submodule(name).set_processor(processor)
    return processors
