"""What limits the bundled model on a CPU.

    python kernel_shares.py FOLDER STEPS [ROWS]     prints JSON

- Where the CPU seconds go: libtorch's own profile of diffusers' UNet on one thread. Convolutions, matrix products and
  fused attention are the very same oneDNN, MKL and libtorch kernels in both programs: one that spends nothing on
  everything else is faster by 1 / (their share) and no more.
- The floating-point operations of a guided picture of STEPS steps, encoder and decoder included, attention's softmax and
  its two products not counted; and how many a second this machine reaches in a large float32 matrix product on all
  threads. Their quotient is more pictures a second than any program makes that does these operations.
"""
import json
import os
import statistics
import sys
import time

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

KINDS = {
    "convolutions": ("aten::mkldnn_convolution", "aten::_slow_conv2d_forward"),
    "matrix products": ("aten::addmm", "aten::mm", "aten::bmm", "aten::baddbmm"),
    "attention": ("aten::_scaled_dot_product_flash_attention_for_cpu",),
}
PASSES = 3
SIDE, PRODUCTS = 2048, 15


def load(kind, folder, part):
    return kind.from_pretrained(folder, subfolder=part, torch_dtype=torch.float32, low_cpu_mem_usage=False).eval()


def operations(work):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def largest_rate(threads):
    """Floating-point operations a second in a large matrix product, the median of many."""
    torch.set_num_threads(threads)
    a, b = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE)
    rates = []
    for _ in range(PRODUCTS):
        started = time.perf_counter()
        a @ b
        rates.append(2 * SIDE ** 3 / (time.perf_counter() - started))
    return statistics.median(rates)


def main(folder, steps, rows=32):
    threads = int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads()))
    torch.set_num_threads(1)
    unet, vae = load(UNet2DConditionModel, folder, "unet"), load(AutoencoderKL, folder, "vae")
    side, width = unet.config.sample_size, unet.config.cross_attention_dim
    row = operations(lambda: unet(torch.randn(1, 4, side, side), 500, torch.randn(1, 77, width)))
    scale = 2 ** (len(vae.config.block_out_channels) - 1)
    around = operations(lambda: vae.decode(vae.encode(torch.randn(1, 3, side * scale, side * scale)).latent_dist.mean))
    latents, text = torch.randn(rows, 4, side, side), torch.randn(rows, 77, width)
    with torch.no_grad():
        unet(latents, 500, text)
        with profile(activities=[ProfilerActivity.CPU]) as measured:
            for _ in range(PASSES):
                unet(latents, 500, text)
    seconds = {event.key: event.self_cpu_time_total / 1e6 for event in measured.key_averages()}
    total = sum(seconds.values())
    shares = {kind: sum(seconds.get(key, 0) for key in keys) / total for kind, keys in KINDS.items()}
    print(json.dumps({"rows": rows, "seconds_a_row": total / (PASSES * rows), "shares": shares,
                      "operations_a_picture": 2 * steps * row + around, "threads": threads,
                      "operations_a_second": largest_rate(threads)}))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
