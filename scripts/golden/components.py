"""Golden data of each component by itself: tokenizer, text encoder, UNet, VAE."""
import torch

PROMPTS = [
    "a seagull standing on a beach",
    "A Photo of a CAT, it's 3 o'clock!",
    "",
    " ".join(["the tiger and the deer walking under streetlights"] * 20),
    "   spaces\tand\nlines  ",
    "café déjà-vu naïve",
    "cafe\u0301 in two code points",
    "日本語の風景 と 🦊🌲",
    "👩‍👩‍👧 family at the beach",
    "don't we'll I'm they've you're he'd",
    "price: $12.50 (50% off) #1 @home ... !!! wow!",
    "<|endoftext|> and <|startoftext|> inside",
    "İstanbul Ǆ straße ΣΊΣΥΦΟΣ",
    "²³½ ① Ⅳ ٣ x²",
    "zero\u200bwidth soft\u00adhyphen nbsp\u00a0here",
    "x" * 300,
    "words " * 75,
    "words " * 76,
]
EMPTY = 2
ENCODED = 4           # the text encoder sees the first four: plain, capitals, empty, cut


@torch.no_grad()
def golden(pipe, generator, latent):
    """(tensors, facts). The UNet reads the text encoder's own output, so its inputs need no room of their own."""
    ids = pipe.tokenizer(PROMPTS, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    hidden = pipe.text_encoder(ids[:ENCODED]).last_hidden_state
    sample = torch.randn(3, 4, *latent, generator=generator)
    out = {"tokens": ids.int(), "hidden": hidden, "unet.sample": sample}
    timesteps = {"unet.one": 999, "unet.batch": 501, "unet.last": 1}
    out["unet.one"] = pipe.unet(sample[:1], 999, hidden[:1]).sample
    out["unet.batch"] = pipe.unet(sample, 501, hidden[:3]).sample
    out["unet.last"] = pipe.unet(sample[1:2], 1, hidden[3:4]).sample

    # Small and not square, whatever the model's own size.
    scale = pipe.vae_scale_factor
    pixels = torch.rand(1, 3, 4 * scale, 6 * scale, generator=generator) * 2 - 1
    z = torch.randn(2, 4, 4, 6, generator=generator)
    out["vae.pixels"] = pixels
    out["vae.moments"] = pipe.vae.encode(pixels).latent_dist.parameters
    out["vae.latents"] = z
    out["vae.decoded"] = pipe.vae.decode(z[:1]).sample
    out["vae.decoded_batch"] = pipe.vae.decode(z).sample[1:]
    facts = dict(prompts=PROMPTS, empty=EMPTY, encoded=ENCODED, unet_timesteps=timesteps, vae_scale_factor=scale,
                 scaling_factor=pipe.vae.config.scaling_factor)
    return {k: v.contiguous().clone() for k, v in out.items()}, facts
