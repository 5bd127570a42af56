"""The three networks (architecture classes of Stable Diffusion 1.x, small), the noise schedule,
prompts as token ids, and a plain DDIM sampler. Latents are [B, 4, 16, 16], pictures [B, 3, 64, 64]
in [-1, 1].

The variable DEVICE (`cpu`, `cuda`) says where all tensors live, in every script that uses this module."""
import functools
import os

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

DEVICE = torch.device(os.environ.get("DEVICE", "cpu"))
if DEVICE.type != "cpu":
    torch.set_default_device(DEVICE)

START_TOKEN, END_TOKEN, LENGTH = 49406, 49407, 77
COLOUR_POSITION, NOUN_POSITION = 2, 3  # "<start> a red circle on a beach <end> ..."
LATENT = (4, 16, 16)


def build_autoencoder():
    return AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, sample_size=64, layers_per_block=1,
        block_out_channels=(32, 64, 64), norm_num_groups=8,
        down_block_types=["DownEncoderBlock2D"] * 3, up_block_types=["UpDecoderBlock2D"] * 3)


def build_unet():
    """Cross-attention at 16x16 (down 0, up 2: the last one) and at 8x8. 4 heads everywhere
    (`attention_head_dim` is the number of heads in this class of UNet, as in Stable Diffusion 1.x)."""
    return UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(64, 128, 128),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=64, attention_head_dim=(2, 4, 4), norm_num_groups=16)


def build_text_encoder():
    return CLIPTextModel(CLIPTextConfig(
        vocab_size=49408, hidden_size=64, intermediate_size=256, projection_dim=64, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=LENGTH, hidden_act="quick_gelu",
        bos_token_id=START_TOKEN, eos_token_id=END_TOKEN, pad_token_id=END_TOKEN))


def build_scheduler():
    return DDIMScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        clip_sample=False, set_alpha_to_one=False, steps_offset=1, prediction_type="v_prediction",
        timestep_spacing="leading")


ALPHA = build_scheduler().alphas_cumprod.to(DEVICE)  # float32 [1000]


def half():
    """bfloat16 where a network's training can have it."""
    return torch.autocast(DEVICE.type, torch.bfloat16)


def noise_from(generator, *shape):
    """Normal noise: a CPU generator's, so that a seed means the same on every device."""
    return torch.randn(shape, generator=generator, device="cpu").to(DEVICE)


def add_noise(z0, noise, t):
    """q(z_t | z0)."""
    signal, spread = levels(t)
    return signal * z0 + spread * noise


def levels(t):
    """sqrt(alpha_t) and sqrt(1 - alpha_t), ready to be multiplied with latents."""
    a = ALPHA[t]
    a = a.view(-1, 1, 1, 1) if torch.is_tensor(t) and t.dim() else a
    return a.sqrt(), (1 - a).sqrt()


def velocity(z0, noise, t):
    """What the UNet predicts (Salimans and Ho 2022, appendix D)."""
    signal, spread = levels(t)
    return signal * noise - spread * z0


def noise_of(v, z, t):
    """The noise prediction that a velocity prediction means."""
    signal, spread = levels(t)
    return spread * z + signal * v


def timesteps(steps):
    """'leading' spacing with offset 1, largest first."""
    return [int(t) + 1 for t in (np.arange(steps) * (1000 // steps))[::-1]]


def ddim_step(z, noise, t, steps):
    """One deterministic DDIM step; returns the latent at the next timestep of the list."""
    previous = t - 1000 // steps
    a, b = ALPHA[t], ALPHA[max(previous, 0)]
    z0 = (z - (1 - a).sqrt() * noise) / a.sqrt()
    return b.sqrt() * z0 + (1 - b).sqrt() * noise


def token_ids(tokenizer, prompts):
    return tokenizer(prompts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt").input_ids.to(DEVICE)


@torch.no_grad()
def sample(unet, text, empty, z, steps, guidance):
    """Pictures' latents from noise z: text [B, 77, C], empty [1, 77, C]."""
    for t in timesteps(steps):
        u, c = unet(torch.cat([z, z]), t, torch.cat([empty.expand_as(text), text])).sample.float().chunk(2)
        z = ddim_step(z, noise_of(u + guidance * (c - u), z, t), t, steps)
    return z


@torch.no_grad()
def decode(autoencoder, z):
    return autoencoder.decode(z / autoencoder.config.scaling_factor).sample.float().clamp(-1, 1)


def to_tensor(pictures):
    """uint8 [B, 64, 64, 3] to float [B, 3, 64, 64] in [-1, 1]."""
    return torch.as_tensor(pictures).to(DEVICE).permute(0, 3, 1, 2).float() / 127.5 - 1


def save_grid(x, columns, path, scale=2):
    from PIL import Image
    columns = min(columns, len(x))
    x = x[:len(x) - len(x) % columns]
    rows = torch.cat([torch.cat(list(r), 2) for r in x.split(columns)], 1)
    im = ((rows.permute(1, 2, 0).cpu().numpy() + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
    im = Image.fromarray(im)
    im.resize((im.width * scale, im.height * scale), 0).save(path + ".tmp.png")
    os.replace(path + ".tmp.png", path)


@functools.cache
def tokenizer_of(folder):
    return CLIPTokenizer.from_pretrained(f"{folder}/tokenizer")


def load(folder):
    """(unet, text encoder, autoencoder, tokenizer) of an exported folder, float32, frozen."""
    networks = (UNet2DConditionModel.from_pretrained(f"{folder}/unet", torch_dtype=torch.float32),
                CLIPTextModel.from_pretrained(f"{folder}/text_encoder", torch_dtype=torch.float32),
                AutoencoderKL.from_pretrained(f"{folder}/vae", torch_dtype=torch.float32))
    return (*(n.to(DEVICE).eval().requires_grad_(False) for n in networks), tokenizer_of(folder))
