"""Writes docs/benchmarks.md from docs/benchmarks.json (and benchmarks-gpu.json, where there is one)."""
import json
import pathlib
import statistics
import sys

UNET_OPERATIONS = 0.803e12    # a row through Stable Diffusion v1.5's UNet at 512x512
QUIET = 0.05    # above this share of the machine for other programs, figures are marked


def median(values):
    return statistics.median(values)


def spread(values):
    return f"{median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def gib(number):
    return f"{number / 2**30:.1f} GiB"


def verdict(value, target, at_least=True):
    met = value >= target if at_least else value <= target
    return "met" if met else "**missed**"


SPINNING = ("diffusers is measured twice: as it comes, and with `OMP_WAIT_POLICY=ACTIVE`. As it comes, OpenMP's threads sleep "
            "between kernels in some processes and spin in others, by how many threads loading the model has started; a "
            "process whose threads must spin takes both cores for itself even while it waits.")


def fastest(row):
    """Pictures a second of diffusers, the better of its two."""
    return max(median(row["sides"][side]) for side in ("diffusers", "diffusers, spinning"))


def steps(m):
    lines = [f"## Stable Diffusion v1.5's size, {m['size']}x{m['size']}, float32, CPU, guided", "",
             "Random weights, `txt2img`, DDIM; a step is everything between the beginnings of two network evaluations. "
             f"Median (range). {SPINNING}", "",
             "| batch | diffusers, s a step | diffusers, spinning | Diorama | ratio to the faster | CPU seconds a step, "
             "diffusers / Diorama | peak memory, diffusers / Diorama | target ≥ 1.0 |", "|---|---|---|---|---|---|---|---|"]
    for row in m["rows"]:
        a, c, b = (row["sides"][side] for side in ("diffusers", "diffusers, spinning", "diorama"))
        ratio = min(median(a["seconds"]), median(c["seconds"])) / median(b["seconds"])
        lines.append(f"| {row['batch']} | {spread(a['seconds'])} | {spread(c['seconds'])} | {spread(b['seconds'])} | "
                     f"**{ratio:.2f}x** | {median(a['cpu']):.1f} / {median(b['cpu']):.1f} | {gib(a['peak_steps'])} / "
                     f"{gib(b['peak_steps'])} | {verdict(ratio, 1.0)} |")
    load = {side: median([row["sides"][side]["load"] for row in m["rows"]]) for side in ("diffusers", "diorama")}
    first = m["rows"][0]["sides"]
    picture, mask = m["picture"], m["mask"]
    lines += ["", f"- Loading the model (4 GB, in the page cache): diffusers {load['diffusers']:.1f} s, Diorama "
              f"{load['diorama']:.1f} s: it reads all of it, hashes every weight and checks that it is finite, while diffusers "
              "maps the files and reads them when it first needs them. Peak memory while loading "
              f"{gib(first['diffusers']['peak_load'])} and {gib(first['diorama']['peak_load'])}.",
              f"- One picture of two steps with encoder and decoder: around the steps (text, encoder, decoder) diffusers "
              f"takes {picture['diffusers']['around_the_steps']:.1f} s, Diorama "
              f"{picture['diorama']['around_the_steps']:.1f} s; peak memory {gib(picture['diffusers']['peak'])} and "
              f"{gib(picture['diorama']['peak'])}. The final latents of the two differ by "
              f"{picture['relative_difference']:.1e} (relative, L2).",
              f"- The exact mask step for one token (closed form, blur, threshold, dilation, and keeping what it needs): a "
              f"forward pass of one row takes {spread(mask['forward'])} s, with the mask step {spread(mask['with_mask'])} s: "
              f"**{mask['share']:.2f}** of a forward pass (target ≤ 0.35: {verdict(mask['share'], 0.35, False)}). Peak memory "
              f"{gib(mask['peak'])}."]
    return lines


def of_the_limit(m, kernels):
    """How near the steps are to what the machine can do."""
    done = [2 * row["batch"] * UNET_OPERATIONS * (m["size"] / 512) ** 2 / median(row["sides"]["diorama"]["seconds"])
            for row in m["rows"]]
    shares = ", ".join(f"{rate / kernels['operations_a_second']:.0%} at batch {row['batch']}"
                       for rate, row in zip(done, m["rows"]))
    return (f"- A row through the network takes {UNET_OPERATIONS / 1e12:.2f}e12 floating-point operations: Diorama's steps do "
            f"them at {min(done) / 1e9:.0f} to {max(done) / 1e9:.0f}e9 a second, a large matrix product here at "
            f"{kernels['operations_a_second'] / 1e9:.0f}e9 ({shares}). That is all that is left to gain without fewer operations.")


def pictures(m):
    s = m["settings"]
    lines = ["## The bundled model, 64x64, float32, CPU", "",
             f"`img2img` with encoder and decoder, {s['scheduler']}, {s['steps']} steps, strength {s['strength']}, guidance "
             f"{s['guidance']}, another prompt for each picture. Pictures a second, median (range). {SPINNING}", "",
             "| batch | diffusers | diffusers, spinning | Diorama | ratio | ratio to the faster | latents differ by | target ≥ 2 |",
             "|---|---|---|---|---|---|---|---|"]
    for row in m["rows"]:
        a, c, b = (row["sides"][side] for side in ("diffusers", "diffusers, spinning", "diorama"))
        ratio = median(b) / fastest(row)
        lines.append(f"| {row['batch']} | {spread(a)} | {spread(c)} | {spread(b)} | {median(b) / median(a):.2f}x | "
                     f"**{ratio:.2f}x** | {row['relative_difference']:.0e} | {verdict(ratio, 2.0)} |")
    if "kernels" in m:
        lines += ["", *kernels(m["kernels"], m["rows"])]
    return lines


def kernels(m, rows):
    """The limits of what a program can gain: one that does the same operations, and one that runs the same kernels."""
    same = sum(m["shares"].values())
    most = m["operations_a_second"] / m["operations_a_picture"]
    limits = ", ".join(f"{most / fastest(row):.2f} at batch {row['batch']}" for row in rows)
    at_best = max(median(row["sides"]["diorama"]) for row in rows)
    first = min(rows, key=lambda row: row["batch"])
    shares = ", ".join(f"{kind} {share:.0%}" for kind, share in m["shares"].items())
    return [f"**The limit of any program** that makes these pictures in float32: one of them takes "
            f"{m['operations_a_picture'] / 1e9:.1f}e9 floating-point operations (convolutions and matrix products of the "
            f"networks, not counting attention), and a large matrix product runs at {m['operations_a_second'] / 1e9:.0f}e9 a "
            f"second here on {m['threads']} threads. Doing nothing else, at that rate, makes {most:.2f} pictures/s: times the "
            f"faster diffusers {limits}. Where that is below 2, nobody who does these operations meets the target.", "",
            f"Where the CPU seconds go, on one thread with {m['rows']} rows at once in diffusers' network: {shares}, everything "
            f"else {1 - same:.0%}. The first three are the same oneDNN, MKL and libtorch kernels in both programs. Once the "
            f"cores are busy, as they are at the largest batch, a program that spends nothing at all on the rest is {1 / same:.2f} "
            "times as fast and no more: what is above that comes from threads that wait less for each other. Of a single picture "
            f"that is all there is to gain: at Diorama's best rate, {at_best:.2f} pictures/s with cores that never wait, it would be "
            f"{at_best / fastest(first):.2f} times the faster diffusers at batch {first['batch']}."]


def machinery(m):
    shares = [1 - row["device_seconds"] / row["wall_seconds"] for row in m["rows"]]
    rates = [row["pictures_per_second"] for row in m["rows"]]
    around = [row["process_seconds"] - row["wall_seconds"] for row in m["rows"]]
    return ["## `diorama run`", "",
            f"{m['rows'][0]['done']} pictures of the bundled model (`abs-grad-sam`, its measured settings) in batches of "
            f"{m['batch']}, with masks, overlays, heat maps, records and markers; from `summary.json`.", "",
            f"- Share of the run's time (first attempt to last commit) in which the model's thread had no batch: "
            f"**{max(shares):.2%}**, the worst of {len(shares)} runs (target < 2 %: {verdict(max(shares), 0.02, False)}). "
            + ("Heat maps and overlays are drawn beside the next batch." if m.get("explained_beside")
               else "The batch's own time includes drawing its heat maps and overlays."),
            f"- {spread(rates)} pictures a second.",
            f"- Loading, validation, results and gallery take {spread(around)} s more."]


def start_up(m):
    a, b = m["diffusers"], m["diorama"]
    return ["## Start-up", "",
            "From the start of the process to the beginning of the first step, bundled model, one picture, files in the page "
            f"cache: diffusers {spread(a)} s, `diorama generate` {spread(b)} s: **{median(a) / median(b):.1f}x**."]


def gpu(path):
    if not path.exists():
        return ["## GPU", "", "Not measured: see `scripts/bench/gpu.sh`, which carries built programs to a machine with a GPU."]
    m = json.loads(path.read_text())
    lines = ["## GPU", "", f"{m['device']}, torch {m['torch']}, {m['date']}; `scripts/bench/gpu.sh bench`. Stable Diffusion "
             f"v1.5's size with random weights, 512x512, {m['dtype']}, {m['steps']} guided steps of `txt2img`, decoder included; "
             "each program alone on the card, in one call. The card's limit is what a large bfloat16 matrix product reaches on "
             f"it in the same call: {m['limit_tflops']:.0f} TFLOP/s"
             + (f" ({m['nominal_tflops']} by its data sheet)." if m["nominal_tflops"] else "."), "",
             "| batch | program | pictures/s | share of the limit |", "|---|---|---|---|"]
    for row in sorted(m["rows"], key=lambda row: row["batch"]):
        lines.append(f"| {row['batch']} | {row['program']} | {spread(row['pictures_per_second'])} | {row['share']:.0%} |")
    for row in m["masks"]:
        step = row["img2img"] / m["steps"]
        cost = (row["abs_grad_sam"] - row["img2img"]) / row["edits"] / step
        lines += [""] if row is m["masks"][0] else []
        lines.append(f"- Abs-Grad-SAM at batch {row['batch']}: {row['abs_grad_sam']:.2f} s with {row['edits']} edit steps, "
                     f"{row['img2img']:.2f} s without (`img2img`, the same {m['steps']} steps): an edit step costs {cost:.2f} "
                     "steps more.")
    return lines


# What docs/benchmarks.md holds a GPU to, at batch 1, 4 and 16: shares of the card's limit, and steps that an edit costs.
SHARES, EDIT = {1: 0.33, 4: 0.43, 16: 0.50}, 0.2


def predicted(path):
    """What predict.py computes for the code as it is, beside what it computes for the code that was measured above."""
    m = json.loads(path.read_text())
    lines = ["### Since then: computed, not measured", "",
             f"No GPU was at hand after the measurement above. Since then what depends on the timestep alone is computed once, "
             "and so is what both guidance rows share; pictures are decoded four at a time and turned into bytes on the device; "
             f"masks are found for whole batches. `scripts/bench/predict.py` counts every kernel of the networks at assumed "
             f"rates of an {m['card']} (its sums met the measured steps within 3 % at batch 4 and 16). **None of these figures "
             "is proved**; `scripts/bench/gpu.sh prove` will measure each.", "",
             "| batch | a step, ms | decoding a picture, ms | pictures/s | share of the limit | target | an edit step costs | target |",
             "|---|---|---|---|---|---|---|---|"]
    for row in m["rows"]:
        lines.append(
            f"| {row['batch']} | {1e3 * row['step_before']:.1f} → {1e3 * row['step']:.1f} | {1e3 * row['decode_before']:.1f} → "
            f"{1e3 * row['decode']:.1f} | {row['pictures_before']:.2f} → {row['pictures']:.2f} | {row['share']:.0%}, computed | "
            f"≥ {SHARES[row['batch']]:.0%}: {unproved(row['share'] >= SHARES[row['batch']])} | {row['edit']:.2f} steps, computed | "
            f"≤ {EDIT}: {unproved(row['edit'] <= EDIT)} |")
    return lines + ["", "- Against the best PyTorch (channels last, max-autotune, CUDA graphs, decoder in one batch; `gpu.sh bench "
                    '--programs "diffusers, tuned"`), target ≥ 1.1 times: unproved, neither side was measured.',
                    "- A real run with masks, heat maps and PNGs, the device idle or working for the host, target < 2 %: unproved. "
                    "Heat maps, overlays, records and PNGs are made beside the device; resizing references, drawing noise and "
                    "reading texts are still done by its thread."]


def unproved(reached):
    return "reached if it is as computed" if reached else "**not reached** even as computed"


def conditions(part):
    """Where and when a part was measured, and what else the machine did."""
    c, others = part["conditions"], part["others"]
    lines = [f"*{c['date']}, commit {c['commit']}; `{c['command']}`; {c['cpu']}, {c['cores']} cores, {gib(c['memory'])}; "
             f"{c['threads']} threads for both programs; rustc {c['rustc']}, profile `{c['profile']}`; Python {c['python']}, torch "
             f"{c['torch']}, diffusers {c['diffusers']}, transformers {c['transformers']}"
             + (f"; OMP_WAIT_POLICY {c['wait_policy']}" if c["wait_policy"] != "not set" else "")
             + (f"; other programs took {others:.0%} of the machine" if others is not None else "")
             + (f"; {c['note']}" if c["note"] else "") + "*"]
    if others is not None and others > QUIET:
        lines += ["", "**The machine was not quiet**: times are longer than they are on an idle machine. The ratios compare "
                  "programs that were disturbed in the same way."]
    return lines


def write(folder):
    m = json.loads((folder / "benchmarks.json").read_text())
    lines = ["# Benchmarks", "",
             "Written by `make bench` (`scripts/bench/run.py`); do not edit. Both programs run on the same libtorch, are loaded "
             "side by side and measured in turns, so that whatever the machine does meets both. Raw figures: "
             "[benchmarks.json](benchmarks.json)."]
    for part, tell in (("steps", steps), ("pictures", pictures), ("machinery", machinery), ("start_up", start_up)):
        if part in m:
            lines += ["", *tell(m[part])]
            if part == "steps" and "kernels" in m.get("pictures", {}):
                lines.append(of_the_limit(m["steps"], m["pictures"]["kernels"]))
            lines += ["", *conditions(m[part])]
    lines += ["", *gpu(folder / "benchmarks-gpu.json")]
    if (folder / "benchmarks-gpu-predicted.json").exists():
        lines += ["", *predicted(folder / "benchmarks-gpu-predicted.json")]
    lines.append("")
    (folder / "benchmarks.md").write_text("\n".join(lines))


if __name__ == "__main__":
    write(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "docs"))
