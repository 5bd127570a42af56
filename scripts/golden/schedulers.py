"""Golden data of the schedulers: timesteps, noising and whole trajectories, as diffusers' own classes give them.

Each case starts as a scheduler_config.json, so the tests read it as they read a model's. Model outputs are fixed
tensors that do not depend on the sample: a trajectory then tests the scheduler and nothing else.
"""
import itertools
import json

import safetensors.torch as st
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler
from diffusers.utils import torch_utils

CLASSES = {"ddpm": DDPMScheduler, "ddim": DDIMScheduler, "euler": EulerDiscreteScheduler,
           "dpmpp-2m": DPMSolverMultistepScheduler}
SHAPE = (1, 4, 2, 3)
MOST_STEPS = 25


def make(name, config):
    """The scheduler of this name from a model's scheduler_config.json, whatever class that file names."""
    return CLASSES[name].from_config({k: v for k, v in config.items() if k != "_diffusers_version"})


class GivenNoise:
    """Stands in for diffusers' source of variance noise: gives the case's noises in order and counts them."""

    def __init__(self, noises):
        self.noises, self.used = noises, 0

    def __call__(self, *args, **kwargs):
        self.used += 1
        return self.noises[self.used - 1]

    def __enter__(self):
        import diffusers.schedulers.scheduling_ddim as ddim
        import diffusers.schedulers.scheduling_ddpm as ddpm
        import diffusers.schedulers.scheduling_dpmsolver_multistep as dpm
        import diffusers.schedulers.scheduling_euler_discrete as euler
        self.modules = (ddim, ddpm, dpm, euler)
        for module in self.modules:
            module.randn_tensor = self
        return self

    def __exit__(self, *_):
        for module in self.modules:
            module.randn_tensor = torch_utils.randn_tensor


def cases():
    """(label, scheduler, config, steps, begin): each option of each scheduler, alone and with its neighbours."""
    base = dict(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    out = []

    def add(label, name, steps, begin=0, **config):
        out.append((f"{name}: {label}", name, {**base, **config}, steps, begin))

    for name in CLASSES:
        for spacing, offset, prediction in itertools.product(("leading", "trailing", "linspace"), (0, 1),
                                                             ("epsilon", "v_prediction")):
            add(f"{spacing} {offset} {prediction}", name, 7, timestep_spacing=spacing, steps_offset=offset,
                prediction_type=prediction, clip_sample=False)
        for schedule, start, end in (("linear", 0.0001, 0.02), ("squaredcos_cap_v2", 0.0001, 0.02)):
            add(schedule, name, 6, beta_schedule=schedule, beta_start=start, beta_end=end, clip_sample=False)
        add("from step 3", name, 10, 3, steps_offset=1, clip_sample=False)
        add("from step 2, trailing, v", name, 12, 2, timestep_spacing="trailing", prediction_type="v_prediction",
            clip_sample=False)
        add("25 steps", name, MOST_STEPS, clip_sample=False, steps_offset=1)
        add("1 step", name, 1, clip_sample=False, steps_offset=1)
        add("2 steps", name, 2, clip_sample=False)
        # diffusers clips by default; Diorama only where the file says so, as its pipelines want it.
        add("only the betas", name, 5, **({"clip_sample": True} if name in ("ddpm", "ddim") else {}))
        add("rescaled betas, trailing, v", name, 6, rescale_betas_zero_snr=True, timestep_spacing="trailing",
            prediction_type="v_prediction", clip_sample=False)
        add("trained betas", name, 4, trained_betas=[0.001 + 0.00002 * i for i in range(100)], num_train_timesteps=100,
            clip_sample=False)
    for name in ("ddpm", "ddim"):
        add("clips at 1", name, 6, clip_sample=True)
        add("clips at 0.5, v", name, 6, clip_sample=True, clip_sample_range=0.5, prediction_type="v_prediction")
        add("clips at 1", name, 6, clip_sample=True)
    for one in (True, False):
        add(f"set_alpha_to_one {one}", "ddim", 6, set_alpha_to_one=one, clip_sample=False, steps_offset=1)
    for name, final in itertools.product(("euler", "dpmpp-2m"), ("zero", "sigma_min")):
        add(f"ends at {final}", name, 6, final_sigmas_type=final)
    add("pndm's file", "ddim", 6, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1, clip_sample=False)
    add("many steps are not lower order", "dpmpp-2m", 16, steps_offset=1)
    add("lower_order_final false", "dpmpp-2m", 16, lower_order_final=False, final_sigmas_type="sigma_min")
    add("heun solver", "dpmpp-2m", 8, solver_type="heun")
    add("order 1", "dpmpp-2m", 6, solver_order=1)
    return out


def run(name, config, steps, begin, data):
    """What one case gives: its JSON part and its tensors."""
    scheduler = make(name, config)
    scheduler.set_timesteps(steps)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    timesteps = scheduler.timesteps[begin:]
    noised = scheduler.add_noise(data["sample"], data["noise"], timesteps[:1])
    sample, trajectory, scaled = noised, [], []
    noised_again = []
    with GivenNoise(data["variance_noises"]) as noises:
        for i, t in enumerate(timesteps):
            scaled.append(scheduler.scale_model_input(sample, t))
            sample = scheduler.step(data["outputs"][i], t, sample).prev_sample
            trajectory.append(sample)
            if i + 1 < len(timesteps):          # the reference noised to the level of the next step, as edits need it
                noised_again.append(scheduler.add_noise(data["sample"], data["noise"], timesteps[i + 1:i + 2]))
    facts = dict(timesteps=[float(t) for t in timesteps], init_noise_sigma=float(scheduler.init_noise_sigma),
                 variance_noises=noises.used)
    tensors = dict(noised=torch.cat([noised, *noised_again]), scaled=torch.cat(scaled), trajectory=torch.cat(trajectory))
    for key, value in tensors.items():
        assert value.isfinite().all(), (name, config, key)
    return facts, tensors


def write(folder):
    g = torch.Generator().manual_seed(11)
    draw = lambda *shape: torch.randn(*shape, generator=g)
    data = dict(sample=draw(*SHAPE), noise=draw(*SHAPE), outputs=draw(MOST_STEPS, *SHAPE),
                variance_noises=draw(MOST_STEPS, *SHAPE))
    tensors, listed, refused = dict(data), [], []
    for i, (label, name, config, steps, begin) in enumerate(cases()):
        try:
            facts, values = run(name, config, steps, begin, data)
        except Exception as error:              # options that the class itself refuses
            refused.append((label, repr(error)[:100]))
            continue
        tensors.update({f"{i}.{k}": v.contiguous() for k, v in values.items()})
        listed.append(dict(case=i, label=label, scheduler=name, config=config, steps=steps, begin=begin, **facts))
    print(f"schedulers: {len(listed)} cases; diffusers itself refuses {refused}")
    st.save_file(tensors, f"{folder}/schedulers.safetensors")
    with open(f"{folder}/schedulers.json", "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(case) for case in listed) + "\n]\n")
