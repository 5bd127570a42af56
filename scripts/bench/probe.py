"""Parts of a step, of the decoder and of the mask on a GPU, each beside what predict.py computes for it, and beside the
ways that were not taken; scripts/bench/gpu.sh runs it in about a minute. `--device cpu --tiny` tries the script itself.
"""
import argparse
import json
import pathlib
import statistics
import time

import torch
import torch.nn.functional as F

from predict import BYTES, HEADS, RATES, Kernels


class Probe:
    def __init__(self, options):
        self.device, self.tiny, self.rows = options.device, options.tiny, []
        self.dtype = torch.float32 if self.device == "cpu" else torch.bfloat16
        self.batch = 1 if self.tiny else 16
        self.side, self.channels = (8, 64) if self.tiny else (64, 320)

    def random(self, *shape, dtype=None):
        return torch.randn(*shape, device=self.device).to(dtype or self.dtype)

    def milliseconds(self, work):
        """The median of ten, after three that warm up."""
        times = []
        for _ in range(2 if self.tiny else 13):
            self.wait()
            started = time.perf_counter()
            work()
            self.wait()
            times.append(1e3 * (time.perf_counter() - started))
        return statistics.median(times[-10:])

    def wait(self):
        if self.device != "cpu":
            torch.cuda.synchronize()

    def part(self, name, work, predicted=None):
        """`predicted` in seconds."""
        measured = self.milliseconds(work)
        self.rows.append({"part": name, "milliseconds": measured, "predicted": predicted and 1e3 * predicted})
        print(f"{name:60} {measured:9.3f} ms" + (f", predicted {1e3 * predicted:.3f}" if predicted else ""), flush=True)

    def kernels(self, add):
        counted = Kernels(2 * self.batch)
        add(counted)
        return sum(seconds for _, seconds in counted.parts.values())

    def network(self):
        rows, c, side, positions = 2 * self.batch, self.channels, self.side, self.side**2
        maps, weights, bias = self.random(rows, c, side, side), self.random(c, c, 3, 3), self.random(c)
        convolution = self.kernels(lambda k: k.convolution(c, c, side))
        self.part("convolution 3x3, plane by plane", lambda: F.conv2d(maps, weights, bias, padding=1), convolution)
        last = dict(memory_format=torch.channels_last)
        maps_last, weights_last = maps.to(**last), weights.to(**last)
        self.part("  channels last", lambda: F.conv2d(maps_last, weights_last, bias, padding=1))
        self.part("group norm", lambda: F.group_norm(maps, 32, bias, bias),
                  self.kernels(lambda k: k.group_norm(c, side, silu=False)))
        self.part("  channels last", lambda: F.group_norm(maps_last, 32, bias, bias))
        tokens, square, wide = self.random(rows, positions, c), self.random(c, c), self.random(8 * c, c)
        self.part("matrix product C x C", lambda: F.linear(tokens, square),
                  self.kernels(lambda k: k.matrix(rows * positions, c, c)))
        heads = [self.random(rows, HEADS, positions, c // HEADS) for _ in range(3)]
        self.part("self-attention", lambda: F.scaled_dot_product_attention(*heads),
                  self.kernels(lambda k: k.attention("a", positions, positions, c // HEADS)))
        gated = F.linear(tokens, wide)

        def geglu():
            value, gate = gated.chunk(2, -1)
            return value * F.gelu(gate)
        self.part("GEGLU", geglu, 20 * rows * positions * c * BYTES / RATES["memory"])

    def mask(self):
        positions, c, inner = self.side**2, self.channels, 4 * self.channels
        spread, moments = self.random(4 * positions, 64), self.random(64, HEADS * positions)

        def sums(numbers):
            at_once = max(16, numbers // (HEADS * positions))
            return [(piece @ moments).norm(1, -1, dtype=torch.float32) for piece in spread.split(at_once)]
        predicted = 2 * 4 * positions * HEADS * positions * BYTES / RATES["memory"]
        self.part("mask: dense sums of a picture, pieces of 64 Mi numbers", lambda: sums(64 << 20), predicted)
        self.part("  pieces of 8 Mi numbers, which the L2 cache holds", lambda: sums(8 << 20))
        exact = dict(dtype=torch.float32)
        pairs, folded = self.random(positions, inner, **exact), self.random(inner, c, **exact)
        scales = self.random(HEADS, inner, **exact)
        self.part("mask: a product a head, float32", lambda: [(pairs * scale) @ folded for scale in scales])
        both, all_heads = self.random(positions, 2 * inner), self.random(2 * inner, HEADS * c)
        self.part("  all heads in one product", lambda: both @ all_heads,
                  2 * positions * 2 * inner * HEADS * c / (RATES["matrix"] * RATES["gemm"]))

    def transfers(self):
        pixels = 64 if self.tiny else 512
        pictures = self.random(self.batch, 3, pixels, pixels)

        def floats():
            return (pictures.cpu().float().mul(0.5).add(0.5).clamp(0, 1) * 255).round().to(torch.uint8)

        def there():
            return (pictures.float().mul(0.5).add(0.5).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
        self.part("pictures to the CPU, bytes there", floats)
        self.part("  bytes on the device, pageable", lambda: there().cpu())
        if self.device != "cpu":
            kept = torch.empty(self.batch, pixels, pixels, 3, dtype=torch.uint8).pin_memory()
            self.part("  bytes on the device, pinned", lambda: kept.copy_(there()), self.batch * 1e-4)
        noise = torch.randn(50, self.batch, 4, self.side, self.side)
        self.part("variance noise of 50 steps, a step at a time", lambda: [step.to(self.device) for step in noise])
        self.part("  all of it at once", lambda: noise.to(self.device))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args()
    probe = Probe(options)
    with torch.inference_mode():
        probe.network()
        probe.mask()
        probe.transfers()
    if options.out:
        name = "CPU" if options.device == "cpu" else torch.cuda.get_device_name(options.device)
        options.out.write_text(json.dumps({"device": name, "batch": probe.batch, "rows": probe.rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
