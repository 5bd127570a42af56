"""Write a diffusers folder of fp16 safetensors. Files are written beside the target and renamed,
so that a reader never sees half a file.

    python export.py WORK OUT [raw|ema|untrained] [NAME]
"""
import json
import os
import shutil
import sys
import tempfile

import torch
from safetensors.torch import load_file, save_file

from networks import DEVICE, build_autoencoder, build_scheduler, build_text_encoder, build_unet

INDEX = {
    "_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.42.1",
    "feature_extractor": [None, None], "image_encoder": [None, None], "requires_safety_checker": False,
    "safety_checker": [None, None], "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
}


def add_published_prefix(path):
    """Current transformers saves CLIPTextModel without `text_model.`; published folders have it."""
    weights = load_file(path)
    named = {k if k.startswith("text_model.") else "text_model." + k: v.contiguous() for k, v in weights.items()}
    save_file(named, path, metadata={"format": "pt"})


def install(source, target):
    for folder, _, names in os.walk(source):
        into = os.path.join(target, os.path.relpath(folder, source))
        os.makedirs(into, exist_ok=True)
        for name in names:
            beside = os.path.join(into, "." + name + ".tmp")
            shutil.copyfile(os.path.join(folder, name), beside)
            os.replace(beside, os.path.join(into, name))


def export(unet, text_encoder, autoencoder, tokenizer_folder, target):
    with tempfile.TemporaryDirectory() as t:
        for name, network in (("unet", unet), ("text_encoder", text_encoder), ("vae", autoencoder)):
            network.to(torch.float16).save_pretrained(f"{t}/{name}")
        add_published_prefix(f"{t}/text_encoder/model.safetensors")
        build_scheduler().save_pretrained(f"{t}/scheduler")
        shutil.copytree(tokenizer_folder, f"{t}/tokenizer")
        with open(f"{t}/model_index.json", "w") as f:
            json.dump(INDEX, f, indent=2)
        install(t, target)


def main(work, out, weights="ema", name="diffusion"):
    networks = torch.nn.ModuleDict({"unet": build_unet(), "text_encoder": build_text_encoder()})
    autoencoder = build_autoencoder()
    if weights != "untrained":
        saved = torch.load(f"{work}/autoencoder.pt", map_location=DEVICE)
        autoencoder.load_state_dict(saved["weights"])
        autoencoder.register_to_config(scaling_factor=saved["scaling_factor"])
        networks.load_state_dict(torch.load(f"{work}/{name}.pt", map_location=DEVICE)[weights])
    export(networks["unet"], networks["text_encoder"], autoencoder, f"{work}/model/tokenizer", out)


if __name__ == "__main__":
    main(*sys.argv[1:])
