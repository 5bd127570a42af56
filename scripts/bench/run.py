#!/usr/bin/env python3
"""Measures Diorama beside diffusers, turn by turn in one run with the same threads, and writes docs/benchmarks.json and
docs/benchmarks.md. Run it by `make bench`, on a machine that does nothing else.
"""
import argparse
import datetime
import json
import os
import pathlib
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import time

import report
from sides import CORES, Side, machine_seconds

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORK = ROOT / "target/bench"
DEMO = ROOT / "models/demo"
REFERENCE = ROOT / "examples/demo/references/beach-1.png"
COLOURS, SHAPES = ("red", "green", "blue", "yellow", "white", "black"), ("circle", "square", "triangle")


def build(profile):
    """Builds both programs; gives the paths of the bench and of `diorama`."""
    flags = ["--release"] if profile == "release" else []
    built = subprocess.run(["cargo", "build", "--locked", "-p", "diorama-diffusion", "--bench", "speed", *flags,
                            "--message-format=json"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    messages = [json.loads(line) for line in built.splitlines()]
    (bench,) = [m["executable"] for m in messages if m.get("target", {}).get("kind") == ["bench"] and m.get("executable")]
    subprocess.run(["cargo", "build", "--locked", "-p", "diorama", *flags], cwd=ROOT, check=True)
    return bench, ROOT / "target" / ("release" if flags else "debug") / "diorama"


class Bench:
    def __init__(self, options, bench, diorama):
        self.options, self.diorama = options, diorama
        self.environment = {"OMP_NUM_THREADS": str(options.threads), "MKL_NUM_THREADS": str(options.threads)}
        if options.wait_policy:
            self.environment["OMP_WAIT_POLICY"] = options.wait_policy
        self.bench = [bench]
        self.python = [sys.executable, "-B", str(ROOT / "scripts/bench/diffusers_side.py")]
        self.others = []

    def sides(self):
        """Diorama, and diffusers twice: as it comes, and with OpenMP's threads told to spin. As it comes, libgomp lets its
        threads sleep as soon as the process has had more of them than there are cores, which loading a model may or may
        not bring about; then small kernels take up to twice as long."""
        spinning = {**self.environment, "OMP_WAIT_POLICY": "ACTIVE"}
        return [Side("diorama", self.bench, self.environment), Side("diffusers", self.python, self.environment),
                Side("diffusers, spinning", self.python, spinning, spins=True)]

    def ask(self, side, **order):
        answer = side.ask(**order)
        self.others.append(answer["others"])
        print(f"  {side.name}: {answer['wall']:.2f} s, cpu {answer['cpu']:.2f} s, others {answer['others']:.0%}",
              file=sys.stderr)
        return answer

    def steps(self, folder):
        """Seconds a guided step at the model's size, and what lies around the steps."""
        size, count = self.options.size, self.options.steps
        common = dict(scheduler="ddim", steps=count + 1, strength=1.0, guidance=7.5, size=size, reference=None,
                      subject=None, method="txt2img", decode=False, latents=False)
        result = {"size": size, "rows": []}
        sides = self.sides()
        for batch in (1, 2):
            row = {"batch": batch, "sides": {}}
            for side in sides:
                side.forget_peak()
                loaded = self.ask(side, op="load", model=str(folder), device="cpu", dtype="f32", batch=batch)
                row["sides"][side.name] = {"load": loaded["seconds"], "peak_load": side.peak_memory(), "seconds": [],
                                           "cpu": []}
            order = dict(common, op="make", prompts=["a red ball on a beach"] * batch, seeds=list(range(batch)))
            for side in sides:      # not counted: memory and code are cold
                self.ask(side, **dict(order, steps=2))
                side.forget_peak()
            for _ in range(self.options.rounds):
                for side in sides:
                    made = self.ask(side, **order)
                    begins = made["begins"]
                    of_side = row["sides"][side.name]
                    of_side["seconds"] += [b - a for a, b in zip(begins, begins[1:])]
                    of_side["cpu"].append(made["cpu"] / (len(begins) - 1))
            for side in sides:
                row["sides"][side.name]["peak_steps"] = side.peak_memory()
            result["rows"].append(row)
            if batch == 1:
                result["picture"] = self.whole_picture(sides, row)
                result["mask"] = self.mask(sides[0])
        for side in sides:
            side.end()
        return result

    def whole_picture(self, sides, row):
        """One image-to-image picture of two steps, with encoder and decoder; the latents of both must agree."""
        order = dict(op="make", method="img2img", scheduler="ddim", steps=2, strength=1.0, guidance=7.5,
                     size=self.options.size, prompts=["a red ball on a beach"], seeds=[7], reference=str(REFERENCE),
                     subject=None, decode=True, latents=True)
        result, latents = {}, {}
        for side in sides:
            side.forget_peak()
            made = self.ask(side, **order)
            steps = 2 * statistics.median(row["sides"][side.name]["seconds"])
            latents[side.name] = made["latents"]
            result[side.name] = {"seconds": made["end"], "around_the_steps": made["end"] - steps,
                                 "peak": side.peak_memory()}
        result["relative_difference"] = relative_difference(latents["diorama"], latents["diffusers"])
        return result

    def mask(self, side):
        """What the exact mask step of one token adds to a step, as a share of one row's forward pass. Without guidance
        a step is that one forward pass; every second step is an edit."""
        steps = 7
        order = dict(op="make", method="abs-grad-sam", scheduler="ddim", steps=steps, strength=1.0, guidance=1.0,
                     size=self.options.size, prompts=["a red ball on a beach"], seeds=[7], reference=str(REFERENCE),
                     subject="ball", edits=[2, 4, 6], decode=False, latents=False)
        side.forget_peak()
        forwards, edits = [], []
        for _ in range(self.options.mask_rounds):
            begins = self.ask(side, **order)["begins"]
            seconds = [b - a for a, b in zip(begins, begins[1:])]
            # An edit before step i + 1 is part of step i; the first step is cold.
            edits += seconds[1::2]
            forwards += seconds[2::2]
        forward = statistics.median(forwards)
        return {"forward": forwards, "with_mask": edits, "peak": side.peak_memory(),
                "share": (statistics.median(edits) - forward) / forward}

    def pictures(self):
        """Pictures a second of the bundled model, image-to-image, whole pictures."""
        measured = json.loads((DEMO / "diorama.json").read_text()) if (DEMO / "diorama.json").exists() else {}
        settings = dict(scheduler=measured.get("scheduler", "ddim"), steps=measured.get("steps", 50),
                        strength=measured.get("strength", 0.9), guidance=measured.get("guidance", 8.0))
        result = {"settings": settings, "rows": []}
        sides = self.sides()
        for batch in self.options.batches:
            row = {"batch": batch, "sides": {side.name: [] for side in sides}}
            for side in sides:
                self.ask(side, op="load", model=str(DEMO), device="cpu", dtype="f32", batch=batch)
            for turn in range(self.options.picture_rounds + 1):
                for side in sides:
                    made = self.ask(side, op="make", method="img2img", size=64, prompts=prompts(turn, batch),
                                    seeds=[turn * batch + i for i in range(batch)], reference=str(REFERENCE),
                                    subject=None, decode=True, latents=turn == 0, **settings)
                    if turn == 0:      # not counted: cold. It shows that both make the same picture.
                        row.setdefault("latents", {})[side.name] = made["latents"]
                    else:
                        row["sides"][side.name].append(batch / made["end"])
            latents = row.pop("latents")
            row["relative_difference"] = relative_difference(latents["diorama"], latents["diffusers"])
            result["rows"].append(row)
        for side in sides:
            side.end()
        kernels = [sys.executable, "-B", str(ROOT / "scripts/bench/kernel_shares.py"), str(DEMO),
                   str(int(settings["steps"] * settings["strength"]))]
        printed = subprocess.run(kernels, env={**os.environ, **self.environment}, stdout=subprocess.PIPE, text=True,
                                 check=True).stdout
        result["kernels"] = json.loads(printed.splitlines()[-1])
        return result

    def machinery(self):
        """`diorama run` over many pictures of the bundled model: the share of its time without a model running."""
        batch, rows = 8, []
        manifest, out = WORK / "manifest.jsonl", WORK / "run"
        colours_and_shapes = [(c, s) for c in COLOURS for s in SHAPES]
        shutil.copy(REFERENCE, manifest.parent)
        with manifest.open("w") as file:
            for i in range(self.options.run_pictures):
                colour, shape = colours_and_shapes[i % len(colours_and_shapes)]
                file.write(json.dumps({"custom_id": f"p{i:04}", "reference": REFERENCE.name, "subjects": [shape],
                                       "prompt": f"a {colour} {shape} on a beach"}) + "\n")
        for _ in range(self.options.run_rounds):
            shutil.rmtree(out, ignore_errors=True)
            command = [str(self.diorama), "run", str(manifest), "--model", str(DEMO), "--out", str(out), "--device",
                       "cpu", "--batch-size", str(batch), "--json"]
            before = machine_seconds(), children_seconds(), time.perf_counter()
            ended = subprocess.run(command, env={**os.environ, **self.environment}, stdout=subprocess.PIPE, text=True)
            wall = time.perf_counter() - before[2]
            busy = machine_seconds() - before[0] - (children_seconds() - before[1])
            self.others.append(max(0.0, busy / (wall * CORES)))
            if ended.returncode != 0:
                raise SystemExit(f"diorama run ended with {ended.returncode}")
            summary = json.loads(ended.stdout)
            rows.append({key: summary[key] for key in ("done", "device_seconds", "wall_seconds", "pictures_per_second")}
                        | {"process_seconds": wall})
        shutil.rmtree(out, ignore_errors=True)
        return {"batch": batch, "explained_beside": True, "rows": rows}

    def start_up(self):
        """From the start of the process to the beginning of the first step."""
        result = {"diorama": [], "diffusers": []}
        for _ in range(self.options.start_rounds):
            result["diorama"].append(self.start_diorama())
            side = Side("diffusers", self.python, self.environment)
            side.ask(op="load", model=str(DEMO), device="cpu", dtype="f32", batch=1)
            made = side.ask(op="make", method="img2img", scheduler="ddim", steps=2, strength=1.0, guidance=4.0, size=64,
                            prompts=["a red circle on a beach"], seeds=[1], reference=str(REFERENCE), decode=True,
                            latents=False)
            result["diffusers"].append(time.perf_counter() - side.started - made["end"] + made["begins"][0])
            side.end()
        return result

    def start_diorama(self):
        out = WORK / "start"
        command = [str(self.diorama), "generate", "--reference", str(REFERENCE), "--prompt", "a red circle on a beach",
                   "--method", "img2img", "--steps", "2", "--strength", "1", "--model", str(DEMO), "--device", "cpu",
                   "--out", str(out)]
        environment = {**os.environ, **self.environment, "DIORAMA_LOG": "diorama_diffusion=debug"}
        started = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        first = None
        for line in process.stderr:
            if first is None and "denoising" in line:
                first = time.perf_counter() - started
        if process.wait() != 0 or first is None:
            raise SystemExit("diorama generate did not get to its first step")
        shutil.rmtree(out, ignore_errors=True)
        return first


def children_seconds():
    """CPU seconds of the programs that ran and ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def prompts(turn, batch):
    """Another prompt for each picture, so that no side profits from texts that it kept."""
    number = [turn * batch + i for i in range(batch)]
    return [f"a {COLOURS[n % 6]} {SHAPES[n // 6 % 3]} number {n} on a beach" for n in number]


def relative_difference(a, b):
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) ** 0.5 / sum(y * y for y in b) ** 0.5


def conditions(options):
    import diffusers
    import torch
    import transformers
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "unknown")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout
    rustc = subprocess.run(["rustc", "--version"], cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout
    # Where the documents go is no condition.
    arguments = " ".join(sys.argv[1:]).replace(f"--out {options.out}", "").strip()
    memory = int(open("/proc/meminfo").readline().split()[1]) * 1024
    return {"date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"), "cpu": cpu,
            "cores": CORES, "memory": memory, "threads": options.threads, "wait_policy": options.wait_policy or "not set",
            "note": options.note, "profile": options.profile, "commit": commit.strip(), "kernel": platform.release(), "rustc": rustc.split()[1],
            "python": platform.python_version(), "torch": torch.__version__, "diffusers": diffusers.__version__,
            "transformers": transformers.__version__, "command": " ".join(["make bench"] if not sys.argv[1:] else
                                                                         [f'make bench BENCH="{arguments}"'])}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=CORES)
    parser.add_argument("--wait-policy", choices=["ACTIVE", "PASSIVE"], help="OMP_WAIT_POLICY of Diorama and of diffusers as it comes")
    parser.add_argument("--profile", choices=["release", "dev"], default="release")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=2, help="measured steps a turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mask-rounds", type=int, default=2)
    parser.add_argument("--batches", type=lambda text: [int(n) for n in text.split(",")], default=[1, 4, 16])
    parser.add_argument("--picture-rounds", type=int, default=5)
    parser.add_argument("--run-pictures", type=int, default=256)
    parser.add_argument("--run-rounds", type=int, default=2)
    parser.add_argument("--start-rounds", type=int, default=3)
    parser.add_argument("--note", help="what else to know of the machine; goes into the report")
    parser.add_argument("--only", choices=["steps", "pictures", "machinery", "start_up"], action="append")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "docs", help="where benchmarks.md and .json go")
    options = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    path = options.out / "benchmarks.json"
    # A part that is not measured again keeps its figures and their conditions.
    measured = json.loads(path.read_text()) if path.exists() else {}
    bench = Bench(options, *build(options.profile))
    for part in ("start_up", "pictures", "machinery", "steps"):
        if options.only and part not in options.only:
            continue
        print(part, file=sys.stderr)
        bench.others.clear()
        if part == "steps":
            import model_folder
            measured[part] = bench.steps(model_folder.write(WORK / "sd-v1-5-size"))
        else:
            measured[part] = getattr(bench, part)()
        # Beside the programs that were measured, whatever they were: none of it is ours to subtract.
        measured[part]["others"] = statistics.fmean(bench.others) if bench.others else None
        measured[part]["conditions"] = conditions(options)
    options.out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(measured, indent=1) + "\n")
    report.write(options.out)


if __name__ == "__main__":
    main()
