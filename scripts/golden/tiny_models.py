"""Seven tiny models with random weights, as Stable Diffusion folders in diffusers layout, that differ in what such
folders may differ in: UNet shape, attention options, prediction, text encoder, VAE, tokenizer, file layout, precision.

`SPECS` says what each is about; `build` writes `model/` from it. Weights are drawn so that every part matters:
activations stay near unit size, norms have uneven scales, pictures fill the 8 bits. And so that whole runs are well
conditioned: the noise that a UNet predicts is smaller than a real one's, because with unit size and guidance 8 a random
network amplifies float32 rounding until no two programs agree (float32 against float64: now 3e-6 after a run).
"""
import dataclasses
import json
import os
import shutil

import safetensors.torch as st
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

import tiny_tokenizer

BETAS = dict(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
DOWN, CROSS_DOWN = "DownBlock2D", "CrossAttnDownBlock2D"
UP, CROSS_UP = "UpBlock2D", "CrossAttnUpBlock2D"


@dataclasses.dataclass
class Spec:
    """One configuration."""
    about: str
    unet: dict
    vae: dict
    text: dict
    scheduler: dict
    latent: tuple                     # (h, w) of the latents used in the golden data
    seed: int
    dtype: torch.dtype = torch.float32
    variant: str | None = None
    shards: bool = False              # weights in several files with an index
    old_vae_names: bool = False       # query/key/value/proj_attn, as folders of 2022 have it
    text_prefix: bool = True          # `text_model.` before the text encoder's tensors
    position_ids: bool = False        # the buffer that older transformers stored
    brief_unet_config: bool = False   # only the keys that a folder of 2022 has
    tokenizer: dict = dataclasses.field(default_factory=dict)


SPECS = {
    "sd1": Spec(
        "Stable Diffusion 1.x: four levels, heads as one number, PNDM in the scheduler's file, float32 in single files, "
        "stored position ids, VAE with old attention names, a brief unet/config.json",
        unet=dict(block_out_channels=(8, 12, 16, 16), down_block_types=(CROSS_DOWN,) * 3 + (DOWN,),
                  up_block_types=(UP,) + (CROSS_UP,) * 3, layers_per_block=1, attention_head_dim=2, norm_num_groups=4,
                  cross_attention_dim=16),
        vae=dict(block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4, scaling_factor=0.18215),
        text=dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
                  hidden_act="quick_gelu", projection_dim=768),
        scheduler=dict(_class_name="PNDMScheduler", **BETAS, clip_sample=False, set_alpha_to_one=False,
                       skip_prk_steps=True, steps_offset=1, trained_betas=None),
        latent=(8, 8), seed=101, old_vae_names=True, position_ids=True, brief_unet_config=True),
    "sd2-v": Spec(
        "Stable Diffusion 2.x: v-prediction, a list of heads, linear projections, gelu text encoder, '!' as padding, "
        "float16 files of variant fp16, DDIM with offset 1, latents that are not square",
        unet=dict(block_out_channels=(16, 24), down_block_types=(CROSS_DOWN, DOWN), up_block_types=(UP, CROSS_UP),
                  layers_per_block=2, attention_head_dim=[2, 4], use_linear_projection=True, norm_num_groups=8,
                  cross_attention_dim=24),
        vae=dict(block_out_channels=(8, 16), layers_per_block=2, norm_num_groups=4, scaling_factor=0.18215),
        text=dict(hidden_size=24, intermediate_size=48, num_hidden_layers=3, num_attention_heads=3, hidden_act="gelu",
                  projection_dim=512),
        scheduler=dict(_class_name="DDIMScheduler", **BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1,
                       prediction_type="v_prediction", trained_betas=None),
        latent=(8, 12), seed=102, dtype=torch.float16, variant="fp16", tokenizer=dict(pad_token="!")),
    "demo": Spec(
        "The bundled model's shape: three levels with the plain block innermost, two layers a block, DDPM, float16 in the plain files; "
        "latents of 6x10, which the levels do not divide",
        unet=dict(block_out_channels=(8, 16, 16), down_block_types=(CROSS_DOWN, CROSS_DOWN, DOWN),
                  up_block_types=(UP, CROSS_UP, CROSS_UP), layers_per_block=2, attention_head_dim=4, norm_num_groups=2,
                  cross_attention_dim=16),
        vae=dict(block_out_channels=(8, 8, 16), layers_per_block=1, norm_num_groups=8, scaling_factor=0.5),
        text=dict(hidden_size=16, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
                  hidden_act="quick_gelu", projection_dim=16),
        scheduler=dict(_class_name="DDPMScheduler", **BETAS, clip_sample=False, variance_type="fixed_small",
                       prediction_type="epsilon"),
        latent=(6, 10), seed=103, dtype=torch.float16),
    "deep": Spec(
        "Two transformer layers a block, bfloat16 in shards with an index, a VAE without middle attention and without "
        "quantisation convolutions, Euler with trailing spacing, tokenizer.json",
        unet=dict(block_out_channels=(16, 16), down_block_types=(CROSS_DOWN, CROSS_DOWN),
                  up_block_types=(CROSS_UP, CROSS_UP), layers_per_block=1, attention_head_dim=2,
                  transformer_layers_per_block=2, norm_num_groups=4, cross_attention_dim=16),
        vae=dict(block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=2, scaling_factor=0.13025,
                 mid_block_add_attention=False, use_quant_conv=False, use_post_quant_conv=False),
        text=dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, hidden_act="gelu",
                  projection_dim=16),
        scheduler=dict(_class_name="EulerDiscreteScheduler", **BETAS, timestep_spacing="trailing", steps_offset=0,
                       clip_sample=False, prediction_type="epsilon", interpolation_type="linear", use_karras_sigmas=False),
        latent=(8, 8), seed=104, dtype=torch.bfloat16, shards=True, tokenizer=dict(single_file=True)),
    "listed": Spec(
        "transformer_layers_per_block as a list with linear projections, text encoder without the text_model prefix, "
        "DPM-Solver++ with v-prediction, other norm settings, float32 shards",
        unet=dict(block_out_channels=(8, 16), down_block_types=(CROSS_DOWN, CROSS_DOWN),
                  up_block_types=(CROSS_UP, CROSS_UP), layers_per_block=1, attention_head_dim=4,
                  transformer_layers_per_block=[1, 2], use_linear_projection=True, norm_num_groups=4, norm_eps=1e-6,
                  cross_attention_dim=16),
        vae=dict(block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=2, scaling_factor=0.9),
        text=dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4, hidden_act="gelu",
                  projection_dim=16, layer_norm_eps=1e-6),
        scheduler=dict(_class_name="DPMSolverMultistepScheduler", **BETAS, algorithm_type="dpmsolver++",
                       solver_order=2, solver_type="midpoint", lower_order_final=True, timestep_spacing="leading",
                       steps_offset=1, prediction_type="v_prediction", final_sigmas_type="zero", thresholding=False,
                       clip_sample=True, clip_sample_range=4.0),
        latent=(12, 8), seed=105, shards=True, text_prefix=False),
    "flat": Spec(
        "One level only, one head a block as a list, groups of one channel, DDIM without offset that ends at alpha 1, "
        "bfloat16 single files",
        unet=dict(block_out_channels=(16,), down_block_types=(CROSS_DOWN,), up_block_types=(CROSS_UP,),
                  layers_per_block=2, attention_head_dim=[1], norm_num_groups=16, cross_attention_dim=8),
        vae=dict(block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=8, scaling_factor=0.3),
        text=dict(hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1,
                  hidden_act="quick_gelu", projection_dim=8),
        scheduler=dict(_class_name="DDIMScheduler", **BETAS, clip_sample=False, set_alpha_to_one=True, steps_offset=0,
                       prediction_type="epsilon"),
        latent=(4, 12), seed=106, dtype=torch.bfloat16),
    "plain-end": Spec(
        "The last block has no attention, so the last cross-attention layer has no closed form; smallest of all",
        unet=dict(block_out_channels=(4, 6), down_block_types=(CROSS_DOWN, CROSS_DOWN), up_block_types=(CROSS_UP, UP),
                  layers_per_block=1, attention_head_dim=2, norm_num_groups=2, cross_attention_dim=8),
        vae=dict(block_out_channels=(4, 4), layers_per_block=1, norm_num_groups=2, scaling_factor=0.4),
        text=dict(hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
                  hidden_act="quick_gelu", projection_dim=8),
        scheduler=dict(_class_name="DDIMScheduler", **BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1,
                       prediction_type="epsilon"),
        latent=(4, 8), seed=107, dtype=torch.bfloat16),
}

# The keys of the first Stable Diffusion 1.x folders; what is absent has diffusers' defaults.
BRIEF_UNET_KEYS = ("_class_name", "_diffusers_version", "act_fn", "attention_head_dim", "block_out_channels",
                   "center_input_sample", "cross_attention_dim", "down_block_types", "downsample_padding",
                   "flip_sin_to_cos", "freq_shift", "in_channels", "layers_per_block", "mid_block_scale_factor",
                   "norm_eps", "norm_num_groups", "out_channels", "sample_size", "up_block_types")
OLD_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


@torch.no_grad()
def randomise(module, generator):
    """Redraws every parameter: matrices keep activations near unit size (so attention is neither flat nor one-hot) and
    norms are uneven."""
    for name, p in module.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        if "norm" in name:
            p.copy_(0.2 * noise + (1.0 if name.endswith("weight") else 0.0))
        elif p.dim() == 1:
            p.copy_(0.1 * noise)
        elif "embedding.weight" in name:
            p.copy_(0.7 * noise)
        else:
            p.copy_(noise / p[0].numel() ** 0.5)


def fit_output(convolution, run, target):
    """Scales the last convolution so that what `run` gives has the standard deviation `target`."""
    with torch.no_grad():
        scale = target / run().std().item()
        convolution.weight.mul_(scale)
        convolution.bias.mul_(scale)


def make_modules(spec, vocabulary):
    g = torch.Generator().manual_seed(spec.seed)
    size = max(spec.latent)
    unet = UNet2DConditionModel(sample_size=size, in_channels=4, out_channels=4, **spec.unet).eval()
    blocks = len(spec.vae["block_out_channels"])
    vae = AutoencoderKL(sample_size=size << (blocks - 1), latent_channels=4,
                        down_block_types=("DownEncoderBlock2D",) * blocks,
                        up_block_types=("UpDecoderBlock2D",) * blocks, **spec.vae).eval()
    text = CLIPTextModel(CLIPTextConfig(vocab_size=vocabulary, max_position_embeddings=77, bos_token_id=vocabulary - 2,
                                        eos_token_id=vocabulary - 1, pad_token_id=vocabulary - 1, **spec.text)).eval()
    for module in (unet, vae, text):
        randomise(module, g)
    latents = torch.randn(2, 4, *spec.latent, generator=g)
    hidden = torch.randn(2, 77, spec.unet["cross_attention_dim"], generator=g)
    pixels = torch.rand(1, 3, *(n << (blocks - 1) for n in spec.latent), generator=g) * 2 - 1
    fit_output(unet.conv_out, lambda: unet(latents, 500, hidden).sample, 0.4)
    fit_output(vae.decoder.conv_out, lambda: vae.decode(latents / vae.config.scaling_factor).sample, 0.45)
    last = vae.quant_conv if spec.vae.get("use_quant_conv", True) else vae.encoder.conv_out
    fit_output(last, lambda: vae.encode(pixels).latent_dist.mean, 1.0 / vae.config.scaling_factor)
    with torch.no_grad():                 # a posterior narrow beside its mean, as a trained VAE has it
        last.weight[4:].mul_(0.02)
        last.bias[4:].sub_(4.0)
    return unet, vae, text


def write_component(module, folder, spec):
    """Writes a component as its library does, in the spec's precision and file layout."""
    keep = {n: p.detach().clone() for n, p in module.state_dict().items()}
    total = sum(p.numel() * p.element_size() for p in keep.values())
    options = dict(max_shard_size=max(total // 3, 1)) if spec.shards else {}
    # Twice as small in 16 bits, so the shard limit is in the stored precision.
    module.to(spec.dtype)
    if spec.shards and spec.dtype != torch.float32:
        options["max_shard_size"] //= 2
    module.save_pretrained(folder, variant=spec.variant, **options)
    module.to(torch.float32)


def edit_tensors(folder, change):
    """Rewrites the tensors of a component's single file."""
    (name,) = [n for n in os.listdir(folder) if n.endswith(".safetensors")]
    tensors = change(st.load_file(f"{folder}/{name}"))
    st.save_file(tensors, f"{folder}/{name}", metadata={"format": "pt"})


def rename_index(folder, rename):
    """Renames tensors in every shard and in the index."""
    for name in os.listdir(folder):
        path = f"{folder}/{name}"
        if name.endswith(".safetensors"):
            st.save_file({rename(k): v for k, v in st.load_file(path).items()}, path, metadata={"format": "pt"})
        elif ".index." in name:
            index = json.load(open(path))
            index["weight_map"] = {rename(k): v for k, v in index["weight_map"].items()}
            json.dump(index, open(path, "w"), indent=2)


def build(name, folder):
    """Writes `folder` (diffusers layout) for the spec of this name."""
    spec = SPECS[name]
    shutil.rmtree(folder, ignore_errors=True)
    vocabulary = tiny_tokenizer.write(f"{folder}/tokenizer", **spec.tokenizer)
    unet, vae, text = make_modules(spec, vocabulary)
    write_component(unet, f"{folder}/unet", spec)
    write_component(vae, f"{folder}/vae", spec)
    write_component(text, f"{folder}/text_encoder", spec)

    bare = lambda k: k.removeprefix("text_model.")
    rename_index(f"{folder}/text_encoder", lambda k: ("text_model." if spec.text_prefix else "") + bare(k))
    if spec.position_ids:
        edit_tensors(f"{folder}/text_encoder", lambda t: {
            **t, "text_model.embeddings.position_ids": torch.arange(77, dtype=torch.int64)[None]})
    if spec.old_vae_names:
        def old(key):
            for new, before in OLD_ATTENTION.items():
                key = key.replace(f"attentions.0.{new}.", f"attentions.0.{before}.")
            return key
        edit_tensors(f"{folder}/vae", lambda t: {old(k): v for k, v in t.items()})
    if spec.brief_unet_config:
        config = json.load(open(f"{folder}/unet/config.json"))
        json.dump({k: config[k] for k in BRIEF_UNET_KEYS}, open(f"{folder}/unet/config.json", "w"), indent=2)

    os.makedirs(f"{folder}/scheduler", exist_ok=True)
    with open(f"{folder}/scheduler/scheduler_config.json", "w") as f:
        json.dump({"_diffusers_version": "0.42.1", **spec.scheduler}, f, indent=2)
    with open(f"{folder}/model_index.json", "w") as f:
        json.dump({"_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.42.1",
                   "feature_extractor": [None, None], "requires_safety_checker": False, "safety_checker": [None, None],
                   "scheduler": ["diffusers", spec.scheduler["_class_name"]],
                   "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
                   "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}, f, indent=2)


def load(name, folder):
    """The pipeline as diffusers loads it from the files, in float32."""
    from diffusers import StableDiffusionPipeline
    pipe = StableDiffusionPipeline.from_pretrained(folder, variant=SPECS[name].variant, torch_dtype=torch.float32,
                                                   local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    for module in (pipe.unet, pipe.vae, pipe.text_encoder):
        assert {p.dtype for p in module.parameters()} == {torch.float32}
        module.eval().requires_grad_(False)
    return pipe
