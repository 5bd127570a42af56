"""The Abs-Grad-SAM score at the last cross-attention layer, exact and batched.

    S[c, y, x] = sum over heads h, queries q of  A[h, q, n] * |d eps[c, y, x] / d A[h, q, n]|

After that layer come only per-position maps, one GroupNorm, SiLU and a 3x3 convolution. So
d eps[o, p] / d A[h, q] = Loc[o, q - p, h, q] (a 3x3 stencil) - (P Y^T)[(o, p), (h, q)], where P and Y
carry GroupNorm's two moments a group. See the project's docs on the method for the derivation.

    python absgrad.py FOLDER     checks the closed form against automatic differentiation
"""
import math
import sys
import time

import torch
import torch.nn.functional as F

from attention import cross_attention_names, watch


class LastLayer:
    """Records, in any forward pass of the UNet, what the score needs."""

    def __init__(self, unet, leaf=False):
        self.unet, self.transformer = unet, unet.up_blocks[-1].attentions[-1]
        self.block, self.seen = self.transformer.transformer_blocks[-1], {}
        self.name = cross_attention_names(unet)[-1]
        self.processor, = watch(unet, [self.name], leaf)
        keep = lambda key: lambda module, inputs, output: self.seen.__setitem__(key, inputs[0].detach())
        self.block.norm3.register_forward_hook(keep("stream"))
        unet.conv_norm_out.register_forward_hook(keep("normed"))

    def attention(self, row, token):
        """A [heads, queries] of one batch row."""
        return self.processor.probabilities[row, :, :, token].detach()

    @torch.no_grad()
    def score(self, row, token, positive_part=False):
        """S [4, h, w] for one row of the forward pass just done; with `positive_part`, negative
        derivatives count as zero (ReLU, as the paper's published code has it)."""
        a = self.attention(row, token)
        loc, p, y, (h, w) = self.factors(row, token)
        o, _, heads, n = loc.shape
        weighted = y * a.reshape(-1, 1)
        dense = p @ weighted.t()
        total, signed = dense.abs().sum(1).view(o, n), -dense.sum(1).view(o, n)
        p4, y4 = p.view(o, n, -1), weighted.view(heads, n, -1)
        for d, (at, q) in enumerate(neighbours(h, w)):
            far = torch.einsum("opr,hpr->oph", p4[:, at], y4[:, q])
            near = (loc[:, d] * a)[:, :, q].transpose(1, 2)
            total[:, at] += ((near - far).abs() - far.abs()).sum(-1)
            signed[:, at] += near.sum(-1)
        return ((total + signed) / 2 if positive_part else total).view(o, h, w)

    @torch.no_grad()
    def factors(self, row, token):
        x, y, v = self.seen["stream"][row], self.seen["normed"][row], self.processor.values[row][:, token].detach()
        norm, (gate, _, out) = self.block.norm3, self.block.ff.net
        last_norm, kernel = self.unet.conv_norm_out, self.unet.conv_out.weight
        (n, width), (heads, size), groups = x.shape, v.shape, last_norm.num_groups
        channels, h, w = y.shape
        # d(residual stream) / dA[h, q]: the same direction for every q.
        direction = torch.einsum("chd,hd->hc", self.block.attn2.to_out[0].weight.view(width, heads, size), v)
        # Forward derivative through LayerNorm, GEGLU feed-forward and the projection out, per position.
        rstd = (x.var(1, unbiased=False, keepdim=True) + norm.eps).rsqrt()
        unit = (x - x.mean(1, keepdim=True)) * rstd
        pre = F.linear(unit * norm.weight, gate.proj.weight)
        value, g = (pre + F.linear(norm.bias, gate.proj.weight, gate.proj.bias)).chunk(2, -1)
        cdf = 0.5 * (1 + torch.erf(g / math.sqrt(2)))
        slope = cdf + g * torch.exp(-g * g / 2) / math.sqrt(2 * math.pi)
        shared = F.linear((direction - direction.mean(1, keepdim=True)) * norm.weight, gate.proj.weight)
        along = unit @ direction.t() / width
        project = self.transformer.proj_out.weight.view(channels, -1)
        u = []
        for i in range(heads):
            dv, dg = (rstd * (shared[i] - along[:, i:i + 1] * pre)).chunk(2, -1)
            u.append((dv * g * cdf + value * slope * dg) @ (project @ out.weight).t() + project @ direction[i])
        u = torch.stack(u)
        # GroupNorm, SiLU, convolution.
        count = channels // groups * n
        yg = y.view(groups, -1)
        rg = (yg.var(1, unbiased=False) + last_norm.eps).rsqrt()
        yh = ((yg - yg.mean(1, keepdim=True)) * rg[:, None]).view(channels, n)
        z = yh * last_norm.weight[:, None] + last_norm.bias[:, None]
        s = torch.sigmoid(z)
        e = s * (1 + z * (1 - s)) * last_norm.weight[:, None] * rg.repeat_interleave(channels // groups)[:, None]
        o = kernel.shape[0]
        moment = lambda f: f.view(heads, n, groups, -1).sum(-1) / count
        moments = torch.cat([moment(u), moment(u * yh.t())], -1).reshape(heads * n, 2 * groups)
        grouped = kernel.view(o, groups, -1, 3, 3).transpose(0, 1).reshape(groups * o, -1, 3, 3)
        spread = lambda f: F.conv2d(f.view(1, channels, h, w), grouped, padding=1, groups=groups).view(groups, o * n).t()
        loc = ((u * e.t()).reshape(heads * n, channels) @ kernel.permute(0, 2, 3, 1).reshape(o * 9, channels).t())
        return loc.t().reshape(o, 9, heads, n), torch.cat([spread(e), spread(e * yh)], 1), moments, (h, w)


def neighbours(h, w):
    """For each of the nine offsets: positions p and their neighbours q = p + offset."""
    index = torch.arange(h * w).view(h, w)
    for di in (-1, 0, 1):
        for dj in (-1, 0, 1):
            p = index[max(0, -di):h - max(0, di), max(0, -dj):w - max(0, dj)].reshape(-1)
            yield p, p + di * w + dj


def brute_force(layer, run, token, magnitude):
    """The same score by one backward pass for each element of eps; `magnitude` is abs or ReLU."""
    eps = run()[0]
    a, total = layer.processor.probabilities, []
    for element in eps.flatten():
        g, = torch.autograd.grad(element, a, retain_graph=True)
        total.append((a.detach()[0, :, :, token] * magnitude(g[0, :, :, token])).sum())
    return torch.stack(total).view_as(eps)


def main(folder):
    from networks import LATENT, load, noise_from, token_ids
    unet, text_encoder, _, tokenizer = load(folder)
    layer = LastLayer(unet, leaf=True)
    text = text_encoder(token_ids(tokenizer, ["a red circle on a beach"])).last_hidden_state
    z = noise_from(torch.Generator().manual_seed(3), 1, *LATENT)
    for name, magnitude in (("abs-grad", torch.abs), ("relu-grad", torch.relu)):
        began = time.time()
        expected = brute_force(layer, lambda: unet(z, 501, text).sample, 3, magnitude)
        between = time.time()
        found = layer.score(0, 3, positive_part=magnitude is torch.relu)
        print(f"{name}: closed form against automatic differentiation: largest error relative to the mean score "
              f"{(found - expected).abs().max() / expected.mean():.1e} (float32), {time.time() - between:.3f} s against {between - began:.1f} s")


if __name__ == "__main__":
    main(sys.argv[1])
