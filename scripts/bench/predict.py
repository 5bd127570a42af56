#!/usr/bin/env python3
"""What a GPU should take for Stable Diffusion v1.5's size at 512x512 in bfloat16, computed from every kernel that the
networks launch: its operations and its bytes, at assumed rates. No GPU is needed, and nothing here is a measurement.

  python3 scripts/bench/predict.py           writes docs/benchmarks-gpu-predicted.json, which `report.py` takes up
  python3 scripts/bench/predict.py --kernels prints where the milliseconds of a step go
"""
import argparse
import json
import math
import pathlib

OUT = pathlib.Path(__file__).resolve().parents[2] / "docs/benchmarks-gpu-predicted.json"
BYTES = 2
TEXT, HEADS, LATENTS = 77, 8, 64
# Of an H100 SXM. `matrix` was measured (docs/benchmarks.md); the others are assumed, such that the sums meet the steps
# that were measured at batch 4 and 16 within 3 %: floating-point operations, bytes, seconds.
RATES = dict(matrix=772e12, float32=50e12, convolution=0.80, gemm=0.85, attention=400e12, memory=2.7e12, broadcast=2.0e12,
             layout=2.0e12, strided=0.9e12, host=25e9, small=3e-6, processors=132, clock=1.7e9, norm_cycles=800)
STEPS, BATCHES = 50, (1, 4, 16)
# Seconds that a step took at least at batch 1, where the host's launches are the limit: 12.7 ms for 1,058 of them.
LAUNCH = 12.7e-3 / 1058


class Kernels:
    """Launches of some rows through a network, as libtorch makes them: `parts` has launches and seconds."""

    def __init__(self, rows):
        self.rows, self.parts = rows, {}

    def add(self, part, seconds, launches=1):
        before = self.parts.get(part, (0, 0.0))
        self.parts[part] = (before[0] + launches, before[1] + seconds)

    def move(self, part, numbers, rate="memory"):
        self.add(part, numbers * BYTES / RATES[rate])

    def busy(self, m, n):
        """The share of the multiprocessors that tiles of the best size keep busy."""
        shares = []
        for height, width, worth in ((128, 256, 1.0), (256, 128, 1.0), (128, 128, .92), (128, 64, .75), (64, 64, .6)):
            tiles = math.ceil(m / height) * math.ceil(n / width)
            waves = math.ceil(tiles / RATES["processors"])
            shares.append(worth * m * n / (waves * RATES["processors"] * height * width))
        return max(shares)

    def convolution(self, inputs, outputs, side, kernel=3, stride=1):
        to = side // stride
        m, before, after = self.rows * to * to, self.rows * inputs * side**2, self.rows * outputs * to**2
        weights = inputs * outputs * kernel**2
        rate = RATES["matrix"] * RATES["convolution"] * self.busy(m, outputs)
        self.add("convolutions", max(2 * m * weights / rate, (before + after + weights) * BYTES / RATES["memory"]))
        self.move("layout copies of convolutions", 2 * before, "layout")
        self.move("layout copies of convolutions", 2 * after + 2 * weights, "layout")
        self.move("bias and time", 2 * after, "broadcast")

    def matrix(self, m, n, k):
        rate = RATES["matrix"] * RATES["gemm"] * self.busy(m, n)
        self.add("matrix products", max(2 * m * n * k / rate, (m * k + k * n + m * n) * BYTES / RATES["memory"]))

    def group_norm(self, channels, side, silu=True):
        numbers = self.rows * channels * side**2
        turns = math.ceil(numbers / (self.rows * 32) / 512)
        full = max(1, self.rows * 32 / (4 * RATES["processors"]))
        self.add("group norm", turns * RATES["norm_cycles"] / RATES["clock"] * full + RATES["small"], 2)
        self.move("group norm", 2 * numbers, "broadcast")
        if silu:
            self.move("SiLU", 2 * numbers)

    def residual_block(self, inputs, outputs, side, time=True):
        self.group_norm(inputs, side)
        self.convolution(inputs, outputs, side)
        numbers = self.rows * outputs * side**2
        if time:
            self.move("bias and time", 2 * numbers, "broadcast")
        self.group_norm(outputs, side)
        self.convolution(outputs, outputs, side)
        if inputs != outputs:
            self.convolution(inputs, outputs, side, 1)
        self.move("residuals and layer norm", 3 * numbers)

    def attention(self, part, positions, keys, width):
        padded = next(size for size in (64, 96, 128, 192) if width <= size)
        operations = 4 * self.rows * HEADS * positions * math.ceil(keys / 128) * 128 * padded
        self.add(part, max(operations / RATES["attention"], 4e-6))

    def self_attention(self, channels, side):
        """A transformer up to its first cross-attention."""
        positions = side**2
        rows, numbers = self.rows * positions, self.rows * positions * channels
        self.group_norm(channels, side, silu=False)
        self.move("transposes", 2 * numbers, "strided")
        self.matrix(rows, channels, channels)
        self.move("residuals and layer norm", 2 * numbers)
        for _ in range(3):
            self.matrix(rows, channels, channels)
        self.attention("self-attention", positions, positions, channels // HEADS)
        self.matrix(rows, channels, channels)
        self.move("residuals and layer norm", 3 * numbers)
        self.move("residuals and layer norm", 2 * numbers)
        self.matrix(rows, channels, channels)

    def transformer(self, channels, side):
        self.self_attention(channels, side)
        rows, numbers = self.rows * side**2, self.rows * side**2 * channels
        self.attention("cross-attention", side**2, TEXT, channels // HEADS)
        self.matrix(rows, channels, channels)
        self.move("residuals and layer norm", 3 * numbers)
        self.move("residuals and layer norm", 2 * numbers)
        self.matrix(rows, 8 * channels, channels)
        self.move("GEGLU", 8 * numbers)
        self.move("GEGLU", 12 * numbers)
        self.matrix(rows, channels, 4 * channels)
        self.move("residuals and layer norm", 3 * numbers)
        self.matrix(rows, channels, channels)
        self.move("transposes", 3 * numbers, "strided")

    def seconds(self):
        """The longer of the two: what the kernels take, and what launching them takes."""
        launches = sum(launches for launches, _ in self.parts.values())
        return max(sum(seconds for _, seconds in self.parts.values()), launches * LAUNCH)


def step(batch, time_once, shared_trunk):
    """A guided step: two rows a picture, of which the first convolution, block and self-attention may be one."""
    k, widths, attends = Kernels(2 * batch), (320, 640, 1280, 1280), (True, True, True, False)
    small = 45 + (0 if time_once else 57)
    k.add("small: guidance, scheduler, checks" if time_once else "small, with time projections", small * RATES["small"], small)
    side, channels, skips = LATENTS, 320, [320]
    k.convolution(4, 320, side)
    for level, width in enumerate(widths):
        for _ in range(2):
            k.residual_block(channels, width, side)
            channels = width
            if attends[level]:
                k.transformer(channels, side)
            skips.append(channels)
        if level < 3:
            k.convolution(channels, channels, side, 3, 2)
            side //= 2
            skips.append(channels)
    k.residual_block(channels, channels, side)
    k.transformer(channels, side)
    k.residual_block(channels, channels, side)
    for level, width in reversed(list(enumerate(widths))):
        for _ in range(3):
            joined = channels + skips.pop()
            k.move("joining and upsampling", 2 * k.rows * joined * side**2)
            k.residual_block(joined, width, side)
            channels = width
            if attends[level]:
                k.transformer(channels, side)
        if level:
            k.move("joining and upsampling", 5 * k.rows * channels * side**2, "broadcast")
            side *= 2
            k.convolution(channels, channels, side)
    k.group_norm(channels, side)
    k.convolution(channels, 4, side)
    if shared_trunk:
        once = Kernels(batch)
        once.convolution(4, 320, LATENTS)
        once.residual_block(320, 320, LATENTS)
        once.self_attention(320, LATENTS)
        for part, (_, seconds) in once.parts.items():
            k.add(part, -seconds, 0)
        # Queries, the residual, the feature map and a skip are copied for the second row.
        k.add("joining and upsampling", 4 * 3 * batch * 320 * LATENTS**2 * BYTES / RATES["memory"], 4)
    return k


def decoder(pictures):
    k, side, channels = Kernels(pictures), LATENTS, 512
    k.convolution(4, 4, side, 1)
    k.convolution(4, 512, side)
    k.residual_block(512, 512, side, False)
    k.group_norm(512, side, silu=False)
    for _ in range(4):
        k.matrix(pictures * side**2, 512, 512)
    scores = pictures * side**4
    k.add("self-attention", 4 * scores * 512 / (RATES["matrix"] / 2) + 5 * scores * BYTES / RATES["memory"], 3)
    k.residual_block(512, 512, side, False)
    for level, width in enumerate((512, 512, 256, 128)):
        for _ in range(3):
            k.residual_block(channels, width, side, False)
            channels = width
        if level < 3:
            k.move("joining and upsampling", 5 * pictures * channels * side**2, "broadcast")
            side *= 2
            k.convolution(channels, channels, side)
    k.group_norm(128, side)
    k.convolution(128, 3, side)
    return k


def edit(pictures):
    """Seconds that the exact mask of one token of each picture takes as it is batched now. C = C0 = 320, M = 1280."""
    positions, channels, inner, outputs, groups = LATENTS**2, 320, 1280, 4, 32
    elements, probes = outputs * positions, HEADS * positions
    # |P Yᵀ| is written in bfloat16 and read once; its product is short (64), so bytes are all that counts.
    dense = 2 * elements * probes * BYTES / RATES["memory"]
    heads = 2 * positions * 2 * inner * HEADS * channels / (RATES["matrix"] * RATES["gemm"])
    activations = (2 * positions * channels * 2 * inner + 2 * positions * inner * channels) / RATES["float32"]
    # Reads and writes in float32: 14 of [N, M], 12 of [H, N, C0]; the neighbours 6 of [9, H, N, O], 4 of [9, H, N, 2G].
    moved = 14 * positions * inner + 12 * HEADS * positions * channels
    moved += 9 * HEADS * positions * (6 * outputs + 4 * 2 * groups)
    a_picture = dense + heads + activations + 4 * moved / RATES["memory"]
    launches = math.ceil(pictures / 4) * 120 + pictures * 20
    return max(pictures * a_picture, launches * LAUNCH)


def around(pictures, together, on_device):
    """From final latents to bytes on the CPU."""
    decoded = math.ceil(pictures / together) * decoder(together).seconds()
    # Before: float32 pixels to pageable memory, turned to bytes there (6.3 ms of CPU were measured).
    return decoded + pictures * (1e-4 if on_device else 7e-3)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernels", action="store_true", help="prints the parts of a step")
    options = parser.parse_args()
    rows = []
    for batch in BATCHES:
        before, now = step(batch, False, False), step(batch, True, True)
        if options.kernels:
            print(f"batch {batch}: {1e3 * before.seconds():.1f} ms before, {1e3 * now.seconds():.1f} ms now")
            for part in sorted(now.parts, key=lambda part: -now.parts[part][1]):
                launches, seconds = now.parts[part]
                print(f"  {part:40} {launches:5} launches {1e3 * seconds:7.2f} ms")
        runs = [STEPS * before.seconds() + around(batch, 1, False),
                STEPS * now.seconds() + around(batch, min(batch, 4), True)]
        ideal = batch * (2 * 0.803e12 * STEPS + 2.51e12) / RATES["matrix"]
        rows.append({"batch": batch, "step_before": before.seconds(), "step": now.seconds(),
                     "decode_before": around(batch, 1, False) / batch, "decode": around(batch, min(batch, 4), True) / batch,
                     "edit": edit(batch) / now.seconds(), "pictures_before": batch / runs[0], "pictures": batch / runs[1],
                     "share": ideal / runs[1]})
    if not options.kernels:
        OUT.write_text(json.dumps({"card": "H100 SXM", "steps": STEPS, "rates": RATES, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
