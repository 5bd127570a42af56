"""Measures Diorama on a GPU beside PyTorch: eager, compiled as it comes, and tuned as far as it goes (minutes to compile a
batch size). scripts/bench/gpu.sh runs it; `--device cpu --tiny` tries the script itself, with the bundled model.
"""
import argparse
import datetime
import json
import pathlib
import statistics
import subprocess
import sys
import time

import torch

import model_folder
from sides import Side

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Dense bfloat16 TFLOP/s by the makers' data sheets.
NOMINAL = {"H100": 989, "H200": 989, "A100": 312, "L40S": 362, "RTX 4090": 165}
# One row through the UNet, and one picture through the decoder, at 512x512.
UNET_TFLOP, DECODE_TFLOP = 0.803, 2.51
REFERENCE = ROOT / "examples/demo/references/beach-1.png"


def limit(device, size):
    """What a large bfloat16 matrix product reaches, in TFLOP/s: the median of many."""
    a, b = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    wait = (lambda: None) if device == "cpu" else torch.cuda.synchronize
    seconds = []
    for _ in range(25):
        wait()
        started = time.perf_counter()
        a @ b
        wait()
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / statistics.median(seconds[5:]) / 1e12


class Bench:
    def __init__(self, options):
        self.options = options
        python = [sys.executable, str(ROOT / "scripts/bench/diffusers_side.py")]
        self.programs = {"Diorama": ([options.bench], {}),
                         "Diorama, libtorch's kernels": ([options.bench], {"libtorch_kernels": True}),
                         "diffusers, eager": (python, {}),
                         "diffusers, torch.compile": (python, {"compiled": True}),
                         "diffusers, tuned": (python, {"tuned": True})}
        self.model = options.model or model_folder.write(options.work / "sd-v1-5-size")

    def order(self, batch, **more):
        o = self.options
        return dict(op="make", method="txt2img", scheduler="ddim", steps=o.steps, strength=1.0, guidance=7.5, size=o.size,
                    prompts=["a red ball on a beach"] * batch, seeds=list(range(batch)), reference=None, subject=None,
                    decode=True, latents=False) | more

    def seconds(self, side, rounds, order):
        """What each of `rounds` takes, after one of a few steps that warms up."""
        side.ask(**order | {"steps": 4} | ({"edits": [2]} if "edits" in order else {}))
        return [side.ask(**order)["end"] for _ in range(rounds)]

    def load(self, side, batch, **extra):
        side.ask(op="load", model=str(self.model), device=self.options.device, dtype=self.options.dtype, batch=batch, **extra)

    def compile_first(self):
        """Fills the compiler's cache on disk, which takes minutes and can run beside other work."""
        command, extra = self.programs["diffusers, tuned"]
        side = Side("tuned", command, {})
        self.load(side, 1, **extra)
        for batch in self.options.batches:
            side.ask(**self.order(batch, steps=2))
        side.end()

    def pictures(self, report):
        """Pictures/s from noise, each program alone on the card: together they would not fit, and would share it."""
        work = (2 * UNET_TFLOP * self.options.steps + DECODE_TFLOP) * (self.options.size / 512) ** 2
        for program in self.options.programs or self.programs:
            command, extra = self.programs[program]
            side = Side(program, command, {})
            for batch in self.options.batches:
                if program.startswith("Diorama") or batch == self.options.batches[0]:
                    self.load(side, batch, **extra)
                rates = [batch / s for s in self.seconds(side, self.options.rounds, self.order(batch))]
                share = statistics.median(rates) * work / report["limit_tflops"]
                report["rows"].append({"batch": batch, "program": program, "pictures_per_second": rates, "share": share})
                print(f"batch {batch}, {program}: {statistics.median(rates):.3f} pictures/s ({min(rates):.3f} to "
                      f"{max(rates):.3f}), {share:.0%} of the limit", file=sys.stderr, flush=True)
                self.write(report)
            side.end()

    def masks(self, report):
        """What the edit steps of the method add to a run that is otherwise the same."""
        command, extra = self.programs["Diorama"]
        side = Side("Diorama", command, {})
        # Every third step: what many of them cost stands out from what the machine does meanwhile.
        edits = list(range(3, self.options.steps, 3))
        for batch in self.options.batches:
            self.load(side, batch, **extra)
            common = dict(reference=str(REFERENCE), subject="ball")
            ways = [self.order(batch, method="img2img", **common),
                    self.order(batch, method="abs-grad-sam", edits=edits, **common)]
            for way in ways:
                self.seconds(side, 0, way)
            turns = [[side.ask(**way)["end"] for way in ways] for _ in range(self.options.rounds)]
            plain, edited = (statistics.median(seconds) for seconds in zip(*turns))
            step = plain / self.options.steps
            report["masks"].append({"batch": batch, "edits": len(edits), "img2img": plain, "abs_grad_sam": edited})
            print(f"batch {batch}: img2img {plain:.2f} s, with {len(edits)} edits {edited:.2f} s; an edit step costs "
                  f"{(edited - plain) / len(edits) / step:.2f} steps more", file=sys.stderr, flush=True)
            self.write(report)
        side.end()

    def run(self, report):
        """`diorama run` with masks, overlays, heat maps and PNGs: the share of its time in which the device had no batch,
        or its thread prepared one."""
        work, batch = self.options.work / "run", self.options.batches[-1]
        work.mkdir(parents=True, exist_ok=True)
        manifest = work / "manifest.jsonl"
        rows = [{"custom_id": f"p{i:04}", "reference": str(REFERENCE), "subjects": ["ball"], "prompt": "a red ball on a beach"}
                for i in range(self.options.run_batches * batch)]
        manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
        command = [self.options.diorama, "run", str(manifest), "--model", str(self.model), "--out", str(work / "out"),
                   "--device", self.options.device, "--dtype", self.options.dtype, "--batch-size", str(batch), "--steps",
                   str(self.options.steps), "--json"]
        summary = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
        report["run"] = {key: summary[key] for key in ("done", "device_seconds", "wall_seconds", "pictures_per_second")}
        print(f"a run of {summary['done']}: {summary['pictures_per_second']:.3f} pictures/s, no batch on the device "
              f"{1 - summary['device_seconds'] / summary['wall_seconds']:.2%} of the time", file=sys.stderr, flush=True)
        self.write(report)

    def write(self, report):
        self.options.out.write_text(json.dumps(report, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bench", required=True, help="the program of crates/diffusion/benches/speed.rs")
    parser.add_argument("--diorama", help="the program itself, for the part `run`")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "docs/benchmarks-gpu.json")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "target/gpu", help="where the model is written")
    parser.add_argument("--model", type=pathlib.Path, help="default: random weights of Stable Diffusion v1.5's size")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=lambda text: [int(n) for n in text.split(",")], default=[1, 4, 16])
    parser.add_argument("--matrix", type=int, default=8192)
    parser.add_argument("--run-batches", type=int, default=6, help="batches of the part `run`")
    parser.add_argument("--programs", type=lambda text: text.split(";"), help="some of them, separated by semicolons")
    parser.add_argument("--parts", type=lambda text: text.split(","), default=["pictures", "masks", "run"], help="some of them")
    parser.add_argument("--tiny", action="store_true", help="the bundled model, small batches, few steps")
    parser.add_argument("--compile-first", action="store_true", help="only fills the compiler's cache")
    options = parser.parse_args()
    if options.tiny:
        options.model, options.size, options.steps, options.batches = ROOT / "models/demo", 64, 7, [1, 2]
        options.rounds, options.matrix, options.run_batches = 1, 256, 2
    bench = Bench(options)
    if options.compile_first:
        return bench.compile_first()
    on_cpu = options.device == "cpu"
    name = "CPU" if on_cpu else torch.cuda.get_device_name(options.device)
    flops = limit(options.device, options.matrix)
    if not on_cpu:
        torch.cuda.empty_cache()
    report = {"date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"), "device": name,
              "torch": torch.__version__, "dtype": options.dtype, "steps": options.steps, "limit_tflops": flops,
              "nominal_tflops": next((v for k, v in NOMINAL.items() if k in name), None), "rows": [], "masks": []}
    print(f"{name}: {flops:.0f} TFLOP/s in a large matrix product", file=sys.stderr)
    if "pictures" in options.parts:
        bench.pictures(report)
    if "masks" in options.parts:
        bench.masks(report)
    if "run" in options.parts and options.diorama:
        bench.run(report)
    return None


if __name__ == "__main__":
    main()
