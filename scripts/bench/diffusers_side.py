"""The other side of `make bench`: diffusers, asked in the words of crates/diffusion/benches/speed.rs, which describes
them. A line of JSON in, a line of JSON out.
"""
import json
import sys
import time

import torch
from diffusers import (DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler,
                       StableDiffusionImg2ImgPipeline, StableDiffusionPipeline)
from diffusers.utils import logging
from PIL import Image

SCHEDULERS = {"ddim": DDIMScheduler, "ddpm": DDPMScheduler, "euler": EulerDiscreteScheduler,
              "dpmpp-2m": DPMSolverMultistepScheduler}
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
logging.set_verbosity_error()
logging.disable_progress_bar()


class LastStep(Exception):
    """Nothing after the beginning of the last step is wanted."""


def tune(pipe):
    """Channels last, one product for queries, keys and values, and network and decoder compiled with kernels chosen by
    stopwatch and captured as CUDA graphs; the decoder takes all pictures of a batch at once. After
    pytorch.org/blog/accelerating-generative-ai-3, less what changes pictures."""
    import torch._inductor.config as inductor
    inductor.conv_1x1_as_mm = True
    inductor.coordinate_descent_tuning = True
    inductor.epilogue_fusion = False
    inductor.coordinate_descent_check_all_directions = True
    pipe.fuse_qkv_projections()
    how = dict(mode="max-autotune", dynamic=False)
    pipe.unet.to(memory_format=torch.channels_last)
    pipe.vae.to(memory_format=torch.channels_last)
    pipe.unet = torch.compile(pipe.unet, fullgraph=True, **how)
    pipe.vae.decode = torch.compile(pipe.vae.decode, fullgraph=True, **how)


class Side:
    def load(self, model, device, dtype, batch, compiled=False, tuned=False):
        """`compiled`: the network by `torch.compile` as it comes. `tuned`: everything that PyTorch's own advice for
        diffusion models says, and bytes equal to eager's are not asked for."""
        del batch     # diffusers takes any
        self.pipes = None
        started = time.perf_counter()
        text_to_image = StableDiffusionPipeline.from_pretrained(
            model, torch_dtype=DTYPES[dtype], safety_checker=None, local_files_only=True).to(device)
        # A hook would break the compiled graph; then only the end is known.
        self.hooked = None if compiled or tuned else text_to_image.unet
        if tuned:
            tune(text_to_image)
        elif compiled:
            # One graph for each batch size: one for all would be slower.
            text_to_image.unet = torch.compile(text_to_image.unet, dynamic=False)
        image_to_image = StableDiffusionImg2ImgPipeline(**text_to_image.components, requires_safety_checker=False)
        self.pipes = {"txt2img": text_to_image, "img2img": image_to_image}
        for pipe in self.pipes.values():
            pipe.set_progress_bar_config(disable=True)
        return {"seconds": time.perf_counter() - started}

    def make(self, method, scheduler, steps, strength, guidance, size, prompts, seeds, reference, decode, latents,
             subject=None, edits=()):
        started = time.perf_counter()
        pipe = self.pipes[method]
        pipe.scheduler = SCHEDULERS[scheduler].from_config(pipe.scheduler.config)
        options = dict(width=size, height=size)
        last = steps
        if method == "img2img":
            picture = Image.open(reference).convert("RGB").resize((size, size), Image.LANCZOS)
            options = dict(image=[picture] * len(prompts), strength=strength)
            last = min(int(steps * strength), steps)
        begins, kept = [], {}

        def note(*_):
            begins.append(time.perf_counter() - started)
            if not decode and len(begins) == last:
                raise LastStep

        def keep(pipe, step, timestep, tensors):
            kept["latents"] = tensors["latents"]
            return tensors

        hook = self.hooked.register_forward_pre_hook(note) if self.hooked else None
        try:
            pipe(prompt=prompts, num_inference_steps=steps, guidance_scale=guidance, callback_on_step_end=keep,
                 generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds], **options)
        except LastStep:
            pass
        finally:
            if hook:
                hook.remove()
        made = {"begins": begins, "end": time.perf_counter() - started}
        if latents:
            made["latents"] = kept["latents"][0].float().cpu().flatten().tolist()
        return made


side = Side()
with torch.inference_mode():
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(getattr(side, order.pop("op"))(**order)), flush=True)
