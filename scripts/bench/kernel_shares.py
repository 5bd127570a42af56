"""Where the CPU seconds of the bundled model's network go: libtorch's own profile of diffusers' UNet on one thread.

    python kernel_shares.py FOLDER [ROWS]      prints JSON: seconds a row, and the share of each kind of kernel

Convolutions, matrix products and fused attention are the very same oneDNN, MKL and libtorch kernels in both programs:
a program that spends nothing on everything else is faster by 1 / (their share) and no more.
"""
import json
import sys

import torch
from diffusers import UNet2DConditionModel
from torch.profiler import ProfilerActivity, profile

KINDS = {
    "convolutions": ("aten::mkldnn_convolution", "aten::_slow_conv2d_forward"),
    "matrix products": ("aten::addmm", "aten::mm", "aten::bmm", "aten::baddbmm"),
    "attention": ("aten::_scaled_dot_product_flash_attention_for_cpu",),
}
PASSES = 3


def main(folder, rows=32):
    torch.set_num_threads(1)
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet", torch_dtype=torch.float32,
                                                low_cpu_mem_usage=False).eval()
    side, width = unet.config.sample_size, unet.config.cross_attention_dim
    latents, text = torch.randn(rows, 4, side, side), torch.randn(rows, 77, width)
    with torch.no_grad():
        unet(latents, 500, text)
        with profile(activities=[ProfilerActivity.CPU]) as measured:
            for _ in range(PASSES):
                unet(latents, 500, text)
    seconds = {event.key: event.self_cpu_time_total / 1e6 for event in measured.key_averages()}
    total = sum(seconds.values())
    shares = {kind: sum(seconds.get(key, 0) for key in keys) / total for kind, keys in KINDS.items()}
    print(json.dumps({"rows": rows, "seconds_a_row": total / (PASSES * rows), "shares": shares}))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
