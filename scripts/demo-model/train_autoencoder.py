"""Train the autoencoder, then cache the latent distribution of every training picture.

    python train_autoencoder.py WORK SECONDS
    python train_autoencoder.py WORK --from FOLDER     takes the autoencoder of an exported folder, as it is

Writes WORK/autoencoder.pt (every few minutes and at the end), WORK/latents.pt and WORK/autoencoder.png.
"""
import argparse
import math
import os
import time

import numpy as np
import torch
from diffusers import AutoencoderKL

from local_sgd import MEET_EVERY, launch, meet, processes
from networks import DEVICE, build_autoencoder, decode, half, save_grid, to_tensor

BATCH, PEAK_RATE, HELD_BACK = 4, 1.5e-3, 256  # batch of each process
REPORT_EVERY = 120


def load_pictures(work):
    return torch.from_numpy(np.load(f"{work}/train.npz")["pictures"]).to(DEVICE)


def edges(e):
    """Mean absolute difference of neighbouring errors: keeps outlines sharp."""
    return (e[..., 1:] - e[..., :-1]).abs().mean() + (e[..., 1:, :] - e[..., :-1, :]).abs().mean()


def psnr(x, y):
    return (-10 * ((x - y) / 2).square().mean((1, 2, 3)).log10()).mean().item()


@torch.no_grad()
def round_trip(autoencoder, x):
    return torch.cat([autoencoder.decode(autoencoder.encode(p).latent_dist.mode()).sample.clamp(-1, 1) for p in x.split(16)])


def train(rank, work, name, seconds):
    pictures, network = load_pictures(work), build_autoencoder()
    parameters = list(network.parameters())
    average = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=PEAK_RATE, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    test, last = to_tensor(pictures[-HELD_BACK:]), len(pictures) - HELD_BACK
    torch.manual_seed(100 + rank)
    say = print if rank == 0 else lambda *_, **__: None
    say(f"{sum(p.numel() for p in parameters) / 1e6:.2f} M parameters", flush=True)
    began, report, step, spent = time.time(), REPORT_EVERY, 0, 0

    def averaged():
        saved = build_autoencoder().eval()
        torch._foreach_copy_([p.detach() for p in saved.parameters()], average)
        return saved

    while spent < 1:
        own = (time.time() - began) / seconds
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * min(1, (step + 1) / 100) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(own, 1))))
        x = to_tensor(pictures[torch.randint(0, last, (BATCH,))])
        if torch.rand(()) < 0.5:
            x = x.flip(3)
        with half():
            posterior = network.encode(x).latent_dist
            y = network.decode(posterior.sample()).sample
        error, mean, logvar = y.float() - x, posterior.mean.float(), posterior.logvar.float()
        divergence = 0.5 * (mean ** 2 + logvar.exp() - 1 - logvar).mean()
        loss = error.abs().mean() + 3 * error.square().mean() + 0.5 * edges(error) + 1e-4 * divergence
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        with torch.no_grad():
            torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - min(0.99, (1 + step) / (10 + step)))
        if step % MEET_EVERY == 0:
            spent = meet(parameters, own)
        if rank == 0 and time.time() - began > report:
            report += REPORT_EVERY
            save(averaged(), work, 1.0)
            print(f"{time.time() - began:.0f} s, step {step}, loss {loss.item():.4f}, KL {divergence.item():.1f}, "
                  f"PSNR {psnr(round_trip(averaged(), test[:64]), test[:64]):.2f}", flush=True)
    if rank == 0:
        save(averaged(), work, 1.0)
    say(f"{step} steps of {processes()} x {BATCH} pictures in {time.time() - began:.0f} s", flush=True)


def save(network, work, factor):
    torch.save({"weights": network.state_dict(), "scaling_factor": factor}, f"{work}/autoencoder.pt.tmp")
    os.replace(f"{work}/autoencoder.pt.tmp", f"{work}/autoencoder.pt")


@torch.no_grad()
def cache_latents(network, pictures):
    """Means and standard deviations [N, 4, 16, 16], and the factor that gives latents unit variance."""
    parts = []
    for p in pictures.split(16):
        with half():
            moments = network.encode(to_tensor(p)).latent_dist
        parts.append((moments.mean.float(), (0.5 * moments.logvar.float()).exp()))
    mean, std = (torch.cat(part) for part in zip(*parts))
    return mean, std, 1 / (mean + std * torch.randn_like(mean)).std().item()


@torch.no_grad()
def finish(work, network, factor=None):
    """Measures the autoencoder, caches the latents and saves both; without a factor it is computed."""
    pictures = load_pictures(work)
    test = to_tensor(pictures[-HELD_BACK:])
    print(f"PSNR {psnr(round_trip(network, test), test):.2f} dB on {HELD_BACK} pictures not trained on", flush=True)
    mean, std, measured = cache_latents(network, pictures)
    factor = factor or measured
    network.register_to_config(scaling_factor=factor)
    save(network, work, factor)
    torch.save({"mean": mean, "std": std}, f"{work}/latents.pt")
    x = test[-32:]
    y = decode(network, network.encode(x).latent_dist.mode() * factor)
    save_grid(torch.cat([torch.cat([a, b]) for a, b in zip(x.split(8), y.split(8))]), 8, f"{work}/autoencoder.png")
    print(f"scaling factor {factor:.4f}, mean posterior std x factor {std.mean().item() * factor:.4f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work")
    parser.add_argument("seconds", type=float, nargs="?", default=1260)
    parser.add_argument("--from", dest="start", metavar="FOLDER")
    o = parser.parse_args()
    if o.start:
        network = AutoencoderKL.from_pretrained(f"{o.start}/vae", torch_dtype=torch.float32).to(DEVICE).eval()
        return finish(o.work, network, network.config.scaling_factor)  # the factor its UNet was trained with
    launch(train, o.work, "autoencoder", o.seconds)
    network = build_autoencoder().eval()
    network.load_state_dict(torch.load(f"{o.work}/autoencoder.pt", map_location=DEVICE)["weights"])
    return finish(o.work, network)


if __name__ == "__main__":
    main()
