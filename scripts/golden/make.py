"""Writes the golden data of crates/diffusion/tests/golden: small random models, and what diffusers and brute-force
autograd make of them. The Rust tests read it; nothing else does.

    scripts/setup-python
    OMP_NUM_THREADS=1 .libtorch/venv/bin/python scripts/golden/make.py [CONFIGURATION…]

Versions are pinned in scripts/requirements.txt. Every number comes from fixed seeds: a second run writes the same data
(up to the last bits, which depend on the CPU).
"""
import json
import logging
import os
import random
import sys
import warnings

import numpy as np
import safetensors.torch as st
import torch
from PIL import Image

import components
import pipelines
import reference_method
import schedulers
import scores
import tiny_models

ROOT = os.path.join(os.path.dirname(__file__), "..", "..", "crates", "diffusion", "tests", "golden")
MOST_BYTES, MOST_BYTES_OF_A_FILE = 8_000_000, 1_000_000
SCORED_TOKENS = [1, 3, 7]       # two words and one that follows the sentence's end
LAST = "last"

METHOD_RUNS = {
    "plain-end": [dict(name="no-closed-form", scheduler="ddim", config={}, prompt="a seagull standing on a beach",
                       subjects=["seagull"], seed=11, steps=10, strength=0.9, guidance=5.0, negative_prompt="",
                       edit_steps=[2, 5], score="abs-grad", blur=6.0, threshold=0.5, dilation=0, start="reference")],
    "demo": [dict(name="default", scheduler="ddpm", config={}, prompt="a seagull standing on a beach",
                  subjects=["seagull"], seed=7, steps=10, strength=0.9, guidance=8.0, negative_prompt="",
                  edit_steps=[1, 4, 6], score="abs-grad", blur=6.0, threshold=0.5, dilation=1, start="reference"),
             # The author's procedure with two subjects, on latents whose rows are no multiple of eight long.
             dict(name="published", scheduler="ddpm", config={}, prompt="the tiger and the deer", subjects=["tiger", "deer"],
                  seed=9, steps=10, strength=0.9, guidance=8.0, negative_prompt="", edit_steps=[2, 5],
                  score="mixed-relu-grad", blur="box-sum", threshold=0.5, dilation=0, start="noise", token_index="word")],
    "deep": [dict(name="several", scheduler="euler", config={},
                  prompt="the tiger and the xylophone beside the deer and the tiger",
                  subjects=["tiger", "xylophone", "deer"], seed=18, steps=10, strength=0.9, guidance=8.0,
                  negative_prompt="clouds", edit_steps=[2, 5], score="abs-grad", blur=6.0, threshold=1.0, dilation=0,
                  start="reference")],
    "sd2-v": [dict(name="v-prediction", scheduler="dpmpp-2m", config={}, prompt="Squirrels playing and a camel",
                   subjects=["squirrels", "camel"], seed=29, steps=8, strength=0.9, guidance=5.0, negative_prompt="",
                   edit_steps=[1, 3, 5], score="abs-grad", blur=6.0, threshold=1.0, dilation=1, start="reference")],
    "sd1": [dict(name="paper", scheduler="ddpm", config={"steps_offset": 0}, prompt="Tiger walking",
                 subjects=["tiger"], seed=51828, steps=50, strength=0.9, guidance=8.0, negative_prompt="",
                 edit_steps=[5, 18, 28], score="mixed-relu-grad", blur="box-sum", threshold=0.5, dilation=0,
                 start="noise", token_index="word")],
}


def write_reference(path):
    """A small picture with smooth and sharp parts, of a size that no model has."""
    y, x = np.mgrid[0:37, 0:50]
    pixels = np.stack([5 * x, 6 * y, 127 + 100 * np.sin(x / 3.0 + y / 5.0)], -1).clip(0, 255)
    pixels[10:22, 12:30] = (230, 40, 30)
    pixels[(x - 38) ** 2 + (y - 24) ** 2 < 40] = (20, 90, 250)
    noise = np.random.RandomState(3).randint(-6, 7, pixels.shape)
    Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)).save(path, optimize=True)


def check_load(name, pipe, folder):
    """diffusers read every tensor: none kept its random initial value because of its name."""
    spec = tiny_models.SPECS[name]
    vocabulary = len(pipe.tokenizer.get_vocab())
    drawn = tiny_models.make_modules(spec, vocabulary)
    for module, loaded in zip(drawn, (pipe.unet, pipe.vae, pipe.text_encoder)):
        for (n, a), (m, b) in zip(module.named_parameters(), loaded.named_parameters(), strict=True):
            assert n == m and torch.equal(a.to(spec.dtype).float(), b), (name, n)


def write_configuration(name, reference):
    folder = os.path.join(ROOT, name)
    spec = tiny_models.SPECS[name]
    tiny_models.build(name, f"{folder}/model")
    pipe = tiny_models.load(name, f"{folder}/model")
    check_load(name, pipe, folder)

    generator = torch.Generator().manual_seed(spec.seed + 1)
    tensors, facts = components.golden(pipe, generator, spec.latent)
    scored = scores.golden(pipe, dict(sample=tensors["unet.sample"], hidden=tensors["hidden"], timestep=501,
                                      empty=components.EMPTY), SCORED_TOKENS)
    whole, run_facts = pipelines.golden(pipe, spec, reference)
    methods = []
    for run in METHOD_RUNS.get(name, []):
        run = dict({"token_index": "pieces"}, **run, layer=scores.last_layer(pipe.unet))
        # As the pipelines' constructors would have it.
        config = {**spec.scheduler, "steps_offset": 1, "clip_sample": False, **run["config"]}
        scheduler = schedulers.make(run["scheduler"], config)
        size = run_facts["height"], run_facts["width"]
        values, found = reference_method.abs_grad_sam(pipe, scheduler, reference, size, run["prompt"], run["subjects"],
                                                      run["seed"], run)
        print(f"  {run['name']}: {found}", flush=True)
        # Far enough from the threshold that rounding does not move the mask, and neither empty nor full.
        assert found["margin"] > 2e-4 and all(0.02 < c < 0.9 for c in found["covered"]), found
        whole.update({f"method.{run['name']}.{k}": v for k, v in values.items()})
        methods.append({**run, "positions": found["positions"]})

    tensors.update(scored)
    tensors.update(whole)
    st.save_file({k: v.contiguous() for k, v in tensors.items()}, f"{folder}/golden.safetensors")
    facts = dict(about=spec.about, variant=spec.variant, **facts, **run_facts,
                 scores=dict(tokens=SCORED_TOKENS, timestep=501, last_layer=scores.last_layer(pipe.unet),
                             down_layer="down_blocks.0.attentions.0.transformer_blocks.0.attn2",
                             mid_layer="mid_block.attentions.0.transformer_blocks.0.attn2"),
                 methods=methods)
    with open(f"{folder}/golden.json", "w", encoding="utf-8") as f:
        json.dump(facts, f, ensure_ascii=False, indent=1)
    print(f"{name}: {len(tensors)} tensors, {os.path.getsize(f'{folder}/golden.safetensors')} bytes", flush=True)


def check_sizes():
    sizes = {os.path.join(d, f): os.path.getsize(os.path.join(d, f)) for d, _, files in os.walk(ROOT) for f in files}
    total, largest = sum(sizes.values()), max(sizes, key=sizes.get)
    print(f"{len(sizes)} files, {total} bytes; the largest: {os.path.relpath(largest, ROOT)}, {sizes[largest]}")
    assert total <= MOST_BYTES and sizes[largest] <= MOST_BYTES_OF_A_FILE


def main(names):
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.manual_seed(0)
    random.seed(0)
    os.makedirs(ROOT, exist_ok=True)
    write_reference(f"{ROOT}/reference.png")
    reference = Image.open(f"{ROOT}/reference.png").convert("RGB")
    os.makedirs(f"{ROOT}/schedulers", exist_ok=True)
    schedulers.write(f"{ROOT}/schedulers")
    for name in names or tiny_models.SPECS:
        write_configuration(name, reference)
    check_sizes()


if __name__ == "__main__":
    main(sys.argv[1:])
