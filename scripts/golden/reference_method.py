"""METHOD.md's Abs-Grad-SAM masked latent replacement, written plainly on diffusers: brute-force gradients, one picture at
a time, nothing shared with the Rust code. It exports what `diorama generate --save-tensors` exports.
"""
import torch
import torch.nn.functional as F

import published
import scores


def token_positions(tokenizer, prompt, subject):
    """Positions of every piece of every occurrence of `subject` (one word or more) in the prompt's token list."""
    pieces = lambda words: tokenizer(words, add_special_tokens=False).input_ids
    ids, wanted = pieces(prompt), pieces(subject)
    found = [i + j + 1 for i in range(len(ids)) if ids[i:i + len(wanted)] == wanted for j in range(len(wanted))]
    assert found, subject
    return found                                                   # + 1: the start token


def gaussian_blur(score, sigma):
    """torchvision's gaussian_blur with a 3×3 kernel: reflect padding, each channel by itself."""
    line = torch.exp(-0.5 * (torch.tensor([-1.0, 0.0, 1.0], dtype=score.dtype) / sigma) ** 2)
    line = line / line.sum()
    kernel = torch.outer(line, line).expand(score.shape[0], 1, 3, 3)
    return F.conv2d(F.pad(score[None], (1, 1, 1, 1), mode="reflect"), kernel, groups=score.shape[0])[0]


def smoothed(score, blur):
    """The score as it is thresholded: `blur` is a sigma, 0, or "box-sum"."""
    if blur == "box-sum":
        return published.box_sum(score)
    return gaussian_blur(score, blur) if blur else score


def mask_of(score, threshold, dilation):
    """(mask [4,h,w], the smallest distance of a score from its threshold in standard deviations)."""
    mean, std = score.mean((1, 2), keepdim=True), score.std((1, 2), keepdim=True)
    distance = (score - mean) / std - threshold
    mask = (distance > 0).float()
    for _ in range(dilation):
        mask = F.max_pool2d(mask[None], 3, 1, 1)[0]
    return mask.bool(), distance.abs().min().item()


@torch.no_grad()
def abs_grad_sam(pipe, scheduler, picture, size, prompt, subjects, seed, settings):
    """Runs the method; `picture` is a PIL image, `size` (height, width) in pixels. Gives the exported tensors."""
    s, out = settings, {}
    if s["token_index"] == "word":
        positions = [[published.word_number(prompt, subject)] for subject in subjects]
    else:
        positions = [token_positions(pipe.tokenizer, prompt, subject) for subject in subjects]
    encode = lambda text: pipe.text_encoder(pipe.tokenizer(
        text, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids).last_hidden_state
    hidden = torch.cat([encode(s["negative_prompt"]), encode(prompt)])

    # All noise from the task's generator, in the order that diffusers draws it.
    generator = torch.Generator("cpu").manual_seed(seed)
    pixels = pipe.image_processor.preprocess(picture, *size)
    z0 = pipe.vae.encode(pixels).latent_dist.sample(generator) * pipe.vae.config.scaling_factor
    noise = torch.randn(z0.shape, generator=generator)
    start = torch.randn(z0.shape, generator=generator) if s["start"] == "noise" else None

    scheduler.set_timesteps(s["steps"])
    begin = s["steps"] - min(int(s["steps"] * s["strength"]), s["steps"])
    timesteps = scheduler.timesteps[begin:]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    noised = lambda i: scheduler.add_noise(z0, noise, timesteps[i:i + 1])
    z = noised(0) if start is None else start * scheduler.init_noise_sigma

    edits, margin = 0, float("inf")
    for i, t in enumerate(timesteps):
        model_input = scheduler.scale_model_input(torch.cat([z, z]), t)
        editing = i + 1 in s["edit_steps"]
        if editing:
            output, probabilities = scores.capture(pipe.unet, s["layer"], model_input, t, hidden)
            # The conditional row only; a subject's score is the sum over all its pieces.
            every = sorted({p for span in positions for p in span})
            if s["score"] == "mixed-relu-grad":
                mixture = published.mixtures(published.edit_seed(seed, i), output[0].numel())
                per_token = published.mixed_sums(output, probabilities, every, mixture)[1]
            else:
                form = {"abs-grad": "abs", "relu-grad": "relu"}[s["score"]]
                per_token = scores.sums(output, probabilities, every)[form][1]
            output = output.detach()
        else:
            output = pipe.unet(model_input, t, hidden).sample
        uncond, cond = output.chunk(2)
        guided = uncond + s["guidance"] * (cond - uncond)
        z = scheduler.step(guided, t, z, generator=generator).prev_sample
        if not editing:
            continue
        union = torch.zeros(z.shape[1:], dtype=torch.bool)
        for n, span in enumerate(positions):
            score = per_token[[every.index(p) for p in span]].sum(0)
            out[f"score.{edits}.{n}"] = score
            mask, distance = mask_of(smoothed(score, s["blur"]), s["threshold"], s["dilation"])
            margin = min(margin, distance)
            union |= mask
        out[f"mask.{edits}"] = union.to(torch.uint8)
        out[f"latents_before.{edits}"] = z[0]
        z = torch.where(union, z, noised(i + 1))
        out[f"latents_after.{edits}"] = z[0]
        edits += 1
    assert edits == len(s["edit_steps"])
    out.update(reference_latents=z0[0], reference_noise=noise[0], timesteps=timesteps.float(), latents=z[0])
    picture = pipe.vae.decode(z / pipe.vae.config.scaling_factor).sample
    out["picture"] = (picture[0] / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0)
    facts = dict(positions=positions, margin=margin,
                 covered=[out[f"mask.{e}"].float().mean().item() for e in range(edits)])
    return {k: v.contiguous().clone() for k, v in out.items()}, facts

