"""Measures Diorama on a GPU beside eager PyTorch and `torch.compile`, in one call; scripts/bench/gpu.sh runs it."""
import argparse
import datetime
import json
import os
import pathlib
import statistics
import sys
import time

import torch

import model_folder
from sides import Side

# Dense bfloat16 TFLOP/s by the makers' data sheets.
NOMINAL = {"H100": 989, "H200": 989, "A100": 312, "L40S": 362, "RTX 4090": 165}
# One row through the UNet, and one picture through the decoder, at 512x512.
UNET_TFLOP, DECODE_TFLOP = 0.803, 2.51


def synchronise(device):
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def limit(device, size):
    """What a large bfloat16 matrix product reaches, in TFLOP/s: the best of many."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = float("inf")
    for _ in range(20):
        synchronise(device)
        started = time.perf_counter()
        a @ b
        synchronise(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best / 1e12


def agreement(bench, root, device):
    """Relative L2 difference of the final latents of a tiny golden model on the CPU and on the device, float32."""
    latents = []
    side = Side("diorama", [bench], {})
    for place in ("cpu", device):
        side.ask(op="load", model=str(root / "golden/model"), device=place, dtype="f32", batch=1)
        made = side.ask(op="make", method="img2img", scheduler="ddim", steps=10, strength=0.8, guidance=4.0, size=64,
                        prompts=["a red ball"], seeds=[3], reference=str(root / "examples/demo/references/beach-1.png"),
                        subject=None, decode=True, latents=True)
        latents.append(torch.tensor(made["latents"], dtype=torch.float64))
    side.end()
    return ((latents[0] - latents[1]).norm() / latents[0].norm()).item()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bench", required=True)
    parser.add_argument("--root", type=pathlib.Path, required=True)
    parser.add_argument("--model", type=pathlib.Path, help="default: random weights of Stable Diffusion v1.5's size")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=lambda text: [int(n) for n in text.split(",")], default=[1, 4, 16])
    parser.add_argument("--matrix", type=int, default=8192)
    options = parser.parse_args()
    model = options.model or model_folder.write(options.root / "sd-v1-5-size")
    name = torch.cuda.get_device_name(options.device) if options.device.startswith("cuda") else options.device
    flops = limit(options.device, options.matrix)
    measured = {"date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"), "device": name,
                "torch": torch.__version__, "dtype": options.dtype, "steps": options.steps, "limit_tflops": flops,
                "nominal_tflops": next((v for k, v in NOMINAL.items() if k in name), None),
                "agreement": agreement(options.bench, options.root, options.device), "rows": []}
    work = (2 * UNET_TFLOP * options.steps + DECODE_TFLOP) * (options.size / 512) ** 2
    python = [sys.executable, "-B", str(options.root / "scripts/bench/diffusers_side.py")]
    programs = {"Diorama": ([options.bench], {}), "diffusers, eager": (python, {}),
                "diffusers, torch.compile": (python, {"compiled": True})}
    for batch in options.batches:
        # Each alone on the card: together they would not fit, and would share it.
        for program, (command, extra) in programs.items():
            side = Side(program, command, {})
            side.ask(op="load", model=str(model), device=options.device, dtype=options.dtype, batch=batch, **extra)
            rates = []
            for turn in range(options.rounds + 1):
                made = side.ask(op="make", method="txt2img", scheduler="ddim", steps=options.steps, strength=1.0,
                                guidance=7.5, size=options.size, prompts=["a red ball on a beach"] * batch,
                                seeds=list(range(batch)), reference=None, subject=None, decode=True, latents=False)
                if turn > 0:       # the first compiles and warms up
                    rates.append(batch / made["end"])
            side.end()
            share = statistics.median(rates) * work / flops
            measured["rows"].append({"batch": batch, "program": program, "pictures_per_second": rates, "share": share})
            print(f"batch {batch}, {program}: {statistics.median(rates):.3f} pictures/s, {share:.0%} of the limit",
                  file=sys.stderr)
    docs = options.root / "docs"
    os.makedirs(docs, exist_ok=True)
    (docs / "benchmarks-gpu.json").write_text(json.dumps(measured, indent=1) + "\n")
    print(f"Written: {docs / 'benchmarks-gpu.json'}", file=sys.stderr)


if __name__ == "__main__":
    main()
