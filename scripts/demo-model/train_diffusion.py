"""Train UNet and text encoder together on cached latents, with a loss that ties the attention of the
object's words to the object's known mask ("grounding"; weight 0 trains without it).

    python train_diffusion.py WORK SECONDS [--grounding 0.05] [--name diffusion] [--from FOLDER] [--rate 1] [--batch 16]

`--from` goes on from an exported folder instead of random weights; `--rate` scales the learning rate.
Writes WORK/NAME.pt (raw and averaged weights) and WORK/NAME.png (samples of held-out combinations)
every few minutes and at the end.
"""
import argparse
import contextlib
import math
import os
import time

import numpy as np
import torch
import torch.nn.functional as F

from attention import cross_attention_names, watch
from local_sgd import MEET_EVERY, launch, meet, processes
from muon import Muon
from networks import (ALPHA, COLOUR_POSITION, DEVICE, LATENT, NOUN_POSITION, add_noise, build_autoencoder, build_text_encoder,
                      build_unet, decode, half, load, noise_from, sample, save_grid, token_ids, tokenizer_of, velocity)
from scenes import HELD_OUT, NO_SHAPE, prompt

ADAM_RATE, MUON_RATE, WARM_UP = 1e-3, 0.015, 60
NO_PROMPT, OBJECT_ALONE = 0.10, 0.10  # shares of pictures told with an empty prompt, or without the scene
CLEAN_CAP = 3.0                       # the loss weighs the error of the clean latent by min(1 + SNR, this)
AVERAGE_EVERY, AVERAGE = 4, 0.98      # weight average: a window of about 200 steps
REPORT_EVERY, SAVE_EVERY = 60, 300


class Prompts:
    """Every prompt that training uses, tokenised once; index 0 is the empty prompt."""

    def __init__(self, work, labels):
        texts = {"": 0}
        index = lambda *attributes: texts.setdefault(prompt(*attributes), len(texts))
        rows = [(index(None, None, b), 0) if s == NO_SHAPE else (index(c, s, b), index(c, s, None)) for c, s, b in labels.tolist()]
        self.full, self.object_alone = torch.tensor(rows).unbind(1)
        self.ids = token_ids(tokenizer_of(f"{work}/model"), list(texts))

    def draw(self, i):
        r = torch.rand(len(i))
        chosen = torch.where((r > 1 - OBJECT_ALONE) & (self.object_alone[i] > 0), self.object_alone[i], self.full[i])
        return torch.where(r < NO_PROMPT, 0, chosen)


def grounding_loss(processors, masks, weight):
    """Colour and noun should look at the object: all their attention inside it, and not too little
    of it. masks [B, 256] coverage on the latent grid, weight [B] (0 where there is no object)."""
    words, total = slice(COLOUR_POSITION, NOUN_POSITION + 1), 0
    for p in processors:
        a = p.probabilities[..., words].float()
        inside = (a * masks[:, None, :, None]).sum(2) / a.sum(2).clamp(min=1e-6)
        strength = -torch.log(a.sum(3).mean(1) + 1e-3)
        total = total + (1 - inside).square().mean((1, 2)) + 0.05 * (strength * masks).sum(1) / masks.sum(1).clamp(min=1)
    return (total * weight).sum() / weight.sum().clamp(min=1) / len(processors)


class Training:
    def __init__(self, work, grounding, name, start, batch):
        self.work, self.grounding, self.name, self.batch = work, grounding, name, batch
        latents, data = torch.load(f"{work}/latents.pt", map_location=DEVICE), np.load(f"{work}/train.npz")
        saved = torch.load(f"{work}/autoencoder.pt", map_location=DEVICE)
        self.mean, self.std, self.factor = latents["mean"], latents["std"], saved["scaling_factor"]
        self.autoencoder = build_autoencoder().eval()
        self.autoencoder.load_state_dict(saved["weights"])
        self.autoencoder.register_to_config(scaling_factor=self.factor)
        labels = torch.from_numpy(data["labels"]).to(DEVICE)
        self.has_object = labels[:, 1] != NO_SHAPE
        self.masks = F.avg_pool2d(torch.from_numpy(data["masks"]).to(DEVICE).float()[:, None], 4).flatten(1)
        self.prompts = Prompts(work, labels)
        shown = HELD_OUT[::4]
        self.shown = token_ids(tokenizer_of(f"{work}/model"), [""] + [prompt(*h) for h in shown])

        self.networks = torch.nn.ModuleDict({"unet": build_unet(), "text_encoder": build_text_encoder()})
        self.unet, self.text_encoder = self.networks["unet"], self.networks["text_encoder"]
        if start:
            for network, weights in zip((self.unet, self.text_encoder), load(start)):
                network.load_state_dict(weights.state_dict())
        # Plain softmax attention everywhere: its backward pass is the faster one on a CPU at this size.
        watch(self.unet, [n for n, m in self.unet.named_modules() if n.endswith(("attn1", "attn2"))])
        self.watched = [self.unet.get_submodule(n).processor for n in cross_attention_names(self.unet)]
        self.parameters = list(self.networks.parameters())
        self.average = [p.detach().clone() for p in self.parameters]
        inner = [p for n, p in self.unet.named_parameters() if p.dim() > 1 and n not in ("conv_in.weight", "conv_out.weight")]
        rest = list({id(p): p for p in self.parameters}.keys() - {id(p) for p in inner})
        self.muon = Muon(inner)
        self.adam = torch.optim.AdamW([p for p in self.parameters if id(p) in rest], lr=ADAM_RATE, betas=(0.9, 0.99),
                                      weight_decay=1e-3, fused=True)
        self.step = 0

    def encode(self, ids):
        return self.text_encoder(ids).last_hidden_state

    def loss(self):
        count = self.batch
        i = torch.randint(0, len(self.mean), (count,))
        z0 = (self.mean[i] + self.std[i] * torch.randn(count, *LATENT)) * self.factor
        told, noise = self.prompts.draw(i), torch.randn(count, *LATENT)
        t = ((torch.arange(count) + torch.rand(count)) / count * 1000).long()
        with half():
            predicted = self.unet(add_noise(z0, noise, t), t, self.encode(self.prompts.ids[told])).sample
        error = (predicted.float() - velocity(z0, noise, t)).square().mean((1, 2, 3))
        loss, ground = (error * (CLEAN_CAP * (1 - ALPHA[t])).clamp(max=1)).mean(), torch.zeros(())
        if self.grounding:
            weight = (self.has_object[i] & (told > 0)) * (2 * ALPHA[t].sqrt()).clamp(max=1)
            ground = grounding_loss(self.watched, self.masks[i], weight)
        return loss + self.grounding * ground, error.mean().detach(), ground.detach()

    def update(self, rate):
        """One step; `rate` in [0, 1] is the share of the peak learning rates."""
        rate *= min(1, (self.step + 1) / WARM_UP)
        loss, *figures = self.loss()
        for p in self.parameters:
            p.grad = None
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.adam.param_groups[0]["lr"] = ADAM_RATE * rate
        self.adam.step()
        self.muon.step(MUON_RATE * rate)
        self.step += 1
        if self.step % AVERAGE_EVERY == 0:
            keep = min(AVERAGE, ((1 + self.step) / (30 + self.step)) ** AVERAGE_EVERY)
            with torch.no_grad():
                torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - keep)
        return figures

    @contextlib.contextmanager
    def averaged(self):
        raw = [p.detach().clone() for p in self.parameters]
        try:
            self.set_weights(self.average)
            self.networks.eval()
            yield
        finally:
            self.set_weights(raw)
            self.networks.train()

    @torch.no_grad()
    def set_weights(self, values):
        torch._foreach_copy_([p.detach() for p in self.parameters], values)

    def save(self):
        state = {"raw": {k: v.clone() for k, v in self.networks.state_dict().items()}, "step": self.step}
        with self.averaged(), torch.no_grad(), half():
            state["ema"] = {k: v.clone() for k, v in self.networks.state_dict().items()}
            empty, *texts = self.encode(self.shown).float()
            z = noise_from(torch.Generator().manual_seed(5), len(texts), *LATENT)
            z = sample(self.unet, torch.stack(texts), empty[None], z, steps=20, guidance=4.0)
            save_grid(decode(self.autoencoder, z), 8, f"{self.work}/{self.name}.png")
        torch.save(state, f"{self.work}/{self.name}.pt.tmp")
        os.replace(f"{self.work}/{self.name}.pt.tmp", f"{self.work}/{self.name}.pt")


def train(rank, work, name, seconds, grounding, start, peak, batch):
    """One process. All end at the same step, because all are told the same share of time spent."""
    training = Training(work, grounding, name, start, batch)
    torch.manual_seed(100 + rank)
    say = print if rank == 0 else lambda *_, **__: None
    count = lambda network: sum(p.numel() for p in network.parameters()) / 1e6
    say(f"UNet {count(training.unet):.2f} M, text encoder {count(training.text_encoder):.2f} M parameters, "
        f"{len(training.prompts.ids)} prompts", flush=True)
    began = reported = saved = time.time()
    figures, spent = [], 0
    while spent < 1:
        own = (time.time() - began) / seconds
        figures.append(training.update(peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(own, 1))))))
        if training.step % MEET_EVERY == 0:
            spent = meet(training.parameters, own)
        now = time.time()
        if now - reported > REPORT_EVERY:
            mse, ground = (torch.stack(column).mean() for column in zip(*figures))
            say(f"{now - began:.0f} s, step {training.step}, {(now - reported) / len(figures):.3f} s/step, "
                f"velocity MSE {mse:.4f}, grounding {ground:.3f}", flush=True)
            figures, reported = [], now
        if rank == 0 and now - saved > SAVE_EVERY:
            training.save()
            saved = now
    if rank == 0:
        training.save()
    say(f"{training.step} steps of {processes()} x {batch} pictures in {time.time() - began:.0f} s", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work")
    parser.add_argument("seconds", type=float)
    parser.add_argument("--grounding", type=float, default=0.05)
    parser.add_argument("--name", default="diffusion")
    parser.add_argument("--from", dest="start", metavar="FOLDER")
    parser.add_argument("--rate", type=float, default=1)
    parser.add_argument("--batch", type=int, default=16, help="pictures a step of each process")
    o = parser.parse_args()
    launch(train, o.work, o.name, o.seconds, o.grounding, o.start, o.rate, o.batch)


if __name__ == "__main__":
    main()
