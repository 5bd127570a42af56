"""What the paper's author published (kshitij79/CS-7476-Improvements-in-DIffusion-Model at 8289959), as facts, written
anew: the score of a latent element, the rule of the mask, and which token a subject is.

1. The latent elements [4, h, w], row by row, are taken in strips of eight. For each strip the eight gradients are asked
   for at once, with a Gaussian 8×8 matrix as their "gradient of the outputs": so the "gradient of element r" is a random
   mixture of the derivatives of all eight. Its positive part is weighted by the attention and summed over heads and
   queries.
2. The score goes through a 3×3 box of ones, zero beyond the edge; the mask is what lies above mean + k·std of its
   channel. (A blurred score is computed before and never used; the box is applied thrice, to the same score.)
3. A subject is one word. Its token is the number of the word in the sentence, counted from 0, although position 0 of the
   text encoder is the start token. Of a word that is repeated, the last counts.
4. Denoising starts from noise that is drawn after the reference's own.
"""
import torch
import torch.nn.functional as F

STRIP = 8


def mixtures(seed, elements):
    """The Gaussian matrices [elements / 8, 8, 8] of one edit, by its seed."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn((elements + STRIP - 1) // STRIP, STRIP, STRIP, generator=generator)


def edit_seed(seed, step):
    """The seed of an edit after scheduler step `step` of a task: Diorama's own, the author's draws have none."""
    return (seed + 0x9E3779B97F4A7C15 * (step + 1)) % 2 ** 64


@torch.enable_grad()
def mixed_sums(output, probabilities, tokens, mixture):
    """Σ A·ReLU(mixed J) over heads and queries of each row, [B, tokens, 4, h, w]."""
    rows, c, h, w = output.shape
    a = probabilities.detach()[..., tokens]
    found = []
    for s in range(0, c * h * w, STRIP):
        # Rows do not depend on each other, so the sum over rows gives each row's own gradient.
        strip = output.flatten(1)[:, s:s + STRIP].sum(0)
        weights = mixture[s // STRIP].to(output.dtype)[:, :len(strip)]
        (j,) = torch.autograd.grad(strip, probabilities, grad_outputs=weights, is_grads_batched=True, retain_graph=True)
        score = (a * j[..., tokens].relu()).sum((2, 3))                              # [8, B, tokens]
        found.append(score[:len(strip)])
    return torch.cat(found).permute(1, 2, 0).reshape(rows, len(tokens), c, h, w)


def box_sum(score):
    """A 3×3 box of ones over each channel of [4, h, w], zero beyond the edge."""
    return F.conv2d(score[None], torch.ones(score.shape[0], 1, 3, 3), padding=1, groups=score.shape[0])[0]


def word_number(prompt, word):
    """The token that the author takes for `word`: its place among the words of a prompt without punctuation."""
    return max(i for i, each in enumerate(prompt.split(" ")) if each.lower() == word.lower())
