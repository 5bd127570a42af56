"""The judge: a small network that finds the object and names shape, colour and scene. It is trained
on real (procedural) pictures only, never on generated ones, and on all 256 combinations, so that it
is no better or worse on those that the diffusion model has not seen.

    python judge.py WORK SECONDS
"""
import math
import os
import sys
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import load_file

from networks import DEVICE, half, to_tensor
from scenes import HELD_OUT, NO_SHAPE, SHAPES, sample

BATCH, HELD_BACK, MINIMUM_AREA = 32, 1000, 60


def conv(inputs, outputs, stride=1):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(True))


class Judge(nn.Module):
    """Pictures [B, 3, 64, 64] to mask logits [B, 64, 64], shape [B, 5], colour [B, 9], scene [B, 8]
    (the last class of shape and of colour: no object)."""

    def __init__(self):
        super().__init__()
        self.at32 = nn.Sequential(conv(3, 24, 2), conv(24, 32))
        self.at16 = nn.Sequential(conv(32, 48, 2), conv(48, 48))
        self.at8 = nn.Sequential(conv(48, 96, 2), conv(96, 96))
        self.up16, self.up32, self.mask = conv(96, 48), conv(48, 32), nn.Conv2d(32, 4, 3, 1, 1)
        self.names = nn.Sequential(conv(96, 128, 2), nn.Flatten(), nn.Linear(2048, 128), nn.ReLU(), nn.Linear(128, 17))
        self.outline = nn.Sequential(conv(4, 48, 2), conv(48, 96, 2), conv(96, 96, 2), conv(96, 96, 2), nn.Flatten(),
                                     nn.Linear(1536, 128), nn.ReLU(), nn.Linear(128, len(SHAPES) + 1))

    def forward(self, x):
        a = self.at32(x)
        b = self.at16(a)
        c = self.at8(b)
        up = F.interpolate(self.up16(c), scale_factor=2) + b
        up = F.interpolate(self.up32(up), scale_factor=2) + a
        mask = F.pixel_shuffle(self.mask(up), 2)
        names = self.names(c)
        return mask[:, 0], self.outline(torch.cat([x, mask.sigmoid()], 1)), names[:, :9], names[:, 9:]


class Verdict:
    """What the judge sees in pictures: object masks (bool [B, 64, 64]) and class indices."""

    @torch.no_grad()
    def __init__(self, judge, x):
        mask, shape, colour, scene = (torch.cat(parts) for parts in zip(*[judge(p) for p in x.split(64)]))
        self.mask, self.shape, self.colour, self.scene = mask > 0, shape.argmax(1), colour.argmax(1), scene.argmax(1)
        self.present = self.mask.sum((1, 2)) >= MINIMUM_AREA


def soften(x):
    """Blur and noise like an autoencoder's, so that only the content counts."""
    if torch.rand(()) < 0.6:
        width = 0.3 + 0.9 * torch.rand(())
        g = torch.exp(-torch.arange(-2, 3.0) ** 2 / (2 * width ** 2))
        kernel = (g[:, None] * g / g.sum() ** 2).expand(3, 1, 5, 5)
        x = F.conv2d(F.pad(x, (2,) * 4, mode="replicate"), kernel, groups=3)
    return x + torch.randn_like(x) * torch.rand(()) * 0.08


def accuracy(judge, x, masks, labels):
    v = Verdict(judge, x)
    has = labels[:, 1] < NO_SHAPE
    iou = (v.mask & masks).sum((1, 2)) / (v.mask | masks).sum((1, 2)).clamp(min=1)
    return "shape %.3f, colour %.3f, scene %.3f, mask IoU %.3f" % (
        (v.shape == labels[:, 1]).float().mean(), (v.colour == labels[:, 0]).float().mean(),
        (v.scene == labels[:, 2]).float().mean(), iou[has].mean())


def stack(samples):
    pictures, masks, labels = zip(*samples)
    return tuple(torch.from_numpy(np.stack(part)).to(DEVICE) for part in (pictures, masks, np.array(labels, np.int64)))


def load_judge(work):
    """The one that was trained into WORK; where WORK is models/eval, the one that was published."""
    judge = Judge()
    if os.path.exists(f"{work}/judge.pt"):
        judge.load_state_dict(torch.load(f"{work}/judge.pt", map_location=DEVICE))
    else:
        # What an export leaves out counts batches, which only training asks for.
        judge.load_state_dict({k: v.float() for k, v in load_file(f"{work}/judge/model.safetensors").items()}, strict=False)
    return judge.to(DEVICE).eval().requires_grad_(False)


def main(work, seconds):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    data = np.load(f"{work}/train.npz")
    base = [torch.from_numpy(data[k]).to(DEVICE) for k in ("pictures", "masks", "labels")]
    unseen = stack([sample(50_000_000 + i, *HELD_OUT[i % 64]) for i in range(6400)])
    pictures, masks, labels = (torch.cat([b[:-HELD_BACK], u[:-HELD_BACK]]) for b, u in zip(base, unseen))
    judge = Judge().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(judge.parameters(), 2e-3, weight_decay=1e-2)
    began, step = time.time(), 0
    while (spent := (time.time() - began) / float(seconds)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (0.5 + 0.5 * math.cos(math.pi * spent)) + 1e-5
        i = torch.randint(0, len(pictures), (BATCH,))
        with half():
            mask, *classes = judge(soften(to_tensor(pictures[i])).contiguous(memory_format=torch.channels_last))
        loss = 4 * F.binary_cross_entropy_with_logits(mask.float(), masks[i].float())
        for logits, column in zip(classes, (1, 0, 2)):
            loss = loss + F.cross_entropy(logits.float(), labels[i, column])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
    judge.eval()
    torch.save(judge.state_dict(), f"{work}/judge.pt")
    print(f"{step} steps; on {HELD_BACK} real pictures each, never trained on:")
    for name, (p, m, l) in (("training combinations, 14 % without object", base), ("held-out combinations", unseen)):
        p, m, l = p[-HELD_BACK:], m[-HELD_BACK:], l[-HELD_BACK:]
        print(f"  {name}: {accuracy(judge, to_tensor(p), m > 0, l)}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
