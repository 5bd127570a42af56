"""Golden data of whole runs: diffusers' own StableDiffusionPipeline and StableDiffusionImg2ImgPipeline."""
import numpy as np
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline

import schedulers

PROMPT, OTHER, NEGATIVE = "a seagull standing on a beach", "A tiger walking in the forest!", "clouds, traffic"


def runs(spec):
    """Every scheduler in both pipelines, both strengths, with and without negative prompt and guidance."""
    out = []
    for i, scheduler in enumerate(schedulers.CLASSES):
        out.append(dict(name=f"txt2img.{scheduler}", method="txt2img", scheduler=scheduler, steps=6, guidance=8.0,
                        negative_prompt=NEGATIVE if i % 2 else "", prompt=OTHER if i % 2 else PROMPT,
                        seed=1000 * spec.seed + i, strength=1.0, picture=i == 0))
        for strength in (0.9, 0.6):
            out.append(dict(name=f"img2img.{scheduler}.{strength}", method="img2img", scheduler=scheduler, steps=10,
                            guidance=8.0, negative_prompt="" if i % 2 else NEGATIVE, prompt=PROMPT if i % 2 else OTHER,
                            seed=1000 * spec.seed + 10 + i, strength=strength, picture=strength == 0.9))
    out.append(dict(name="img2img.unguided", method="img2img", scheduler="ddpm", steps=7, guidance=1.0,
                    negative_prompt="", prompt=PROMPT, seed=51828, strength=0.9, picture=False))
    out.append(dict(name="img2img.as-is", method="img2img", scheduler="ddim", steps=7, guidance=5.0, negative_prompt="",
                    prompt=OTHER, seed=77, strength=0.9, picture=False, scheduler_config="as-is"))
    return [{"scheduler_config": "pipeline", **run} for run in out]


@torch.no_grad()
def golden(pipe, spec, reference):
    """(tensors, facts) of every run at the size of the spec's latents."""
    height, width = (n * pipe.vae_scale_factor for n in spec.latent)
    resized = pipe.image_processor.resize(reference, height, width)
    out, facts = {"reference.resized": torch.from_numpy(np.array(resized))}, []
    for run in runs(spec):
        kind = StableDiffusionPipeline if run["method"] == "txt2img" else StableDiffusionImg2ImgPipeline
        # Given to the constructors, which set steps_offset to 1 and clip_sample to false, whatever the file says.
        scheduler = schedulers.make(run["scheduler"], spec.scheduler)
        runner = kind(**{**pipe.components, "scheduler": scheduler}, requires_safety_checker=False)
        if run["scheduler_config"] == "as-is":
            runner.scheduler = schedulers.make(run["scheduler"], spec.scheduler)
        runner.set_progress_bar_config(disable=True)
        options = dict(height=height, width=width) if run["method"] == "txt2img" else \
            dict(image=resized, strength=run["strength"])
        latents = runner(prompt=run["prompt"], negative_prompt=run["negative_prompt"], num_inference_steps=run["steps"],
                         guidance_scale=run["guidance"], generator=torch.Generator("cpu").manual_seed(run["seed"]),
                         output_type="latent", **options).images
        assert latents.isfinite().all(), run
        out[f"{run['name']}.latents"] = latents[0].clone()
        if run["picture"]:
            decoded = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
            (picture,) = pipe.image_processor.postprocess(decoded, output_type="pil", do_denormalize=[True])
            out[f"{run['name']}.picture"] = torch.from_numpy(np.array(picture))
        facts.append(run)
    return out, dict(runs=facts, width=width, height=height)
