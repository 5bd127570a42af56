"""Writes crates/evaluation/tests/golden: what the Python originals of the measures make of random weights and small
pictures. Needs no published weights.

    python -m venv VENV && VENV/bin/pip install -r scripts/evaluation/requirements.txt
    OMP_NUM_THREADS=1 VENV/bin/python scripts/evaluation/golden.py
"""
import json
import os
import sys
import tempfile

import imagehash
import lpips
import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from cleanfid.resize import make_resizer
from PIL import Image
from safetensors.torch import save_file
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure
from torchmetrics.image.fid import FrechetInceptionDistance
from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTModel

import weights

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "..", "..", "crates", "evaluation", "tests", "golden")
sys.path.insert(0, os.path.join(HERE, "..", "demo-model"))

tensors, facts = {}, {}


def picture(seed, width, height):
    """Smooth and sharp parts, uint8 [h, w, 3]."""
    random = np.random.RandomState(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = [127 + 90 * np.sin(x / (3.0 + c) + y / (5.0 + seed) + c) for c in range(3)]
    pixels = np.stack(waves, -1)
    pixels[height // 4:height // 2, width // 5:width // 2] = random.randint(0, 256, 3)
    return (pixels + random.randint(-8, 9, pixels.shape)).clip(0, 255).astype(np.uint8)


def keep(name, value):
    tensors[name] = torch.as_tensor(value).contiguous()
    return value


def planes(pixels):
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


def pictures():
    for seed, (width, height) in enumerate([(64, 64), (64, 64), (48, 40), (40, 40)]):
        keep(f"picture.{seed}", picture(seed, width, height))
    facts["phash"] = [str(imagehash.phash(Image.fromarray(tensors[f"picture.{n}"].numpy()))) for n in range(4)]


def background():
    a, b = (planes(tensors[f"picture.{n}"].numpy()).double() / 255 for n in (0, 1))
    mask = torch.zeros(64, 64, dtype=torch.float64)
    mask[16:40, 8:36] = 1
    keep("region", (mask * 255).to(torch.uint8))
    outside = 1 - mask
    # Of windows inside the picture; the package's own figure reflects it at its borders.
    _, ssim_map = structural_similarity_index_measure(a, b, data_range=1.0, return_full_image=True)
    facts["background"] = {
        "ssim_whole": ssim_map[..., 5:-5, 5:-5].mean().item(),
        "psnr_whole": peak_signal_noise_ratio(a, b, data_range=1.0).item(),
        "pie_ssim": structural_similarity_index_measure(a * outside, b * outside, data_range=1.0).item(),
        "pie_psnr": peak_signal_noise_ratio(a * outside, b * outside, data_range=1.0).item(),
        "pie_mse": F.mse_loss(a * outside, b * outside).item(),
    }


def inception():
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/weights.pth"
        # The shapes are those of the class, which cannot be made without weights: make it once from zeros.
        load = torch.load
        torch.load = lambda *a, **k: {}
        FeatureExtractorInceptionV3.load_state_dict = lambda self, state: None
        empty = FeatureExtractorInceptionV3("empty", ["2048"], feature_extractor_weights_path=path)
        del FeatureExtractorInceptionV3.load_state_dict
        torch.load = load
        shapes = weights.shapes(empty)
        facts["inception"] = {"tensors": shapes}
        state = weights.state(shapes)
        counts = {name: torch.tensor(0) for name in empty.state_dict() if name.endswith("num_batches_tracked")}
        torch.save({**state, **counts}, path)
        network = FeatureExtractorInceptionV3("golden", ["64", "2048"], feature_extractor_weights_path=path)
        for n in (0, 2):
            first, last = network(planes(tensors[f"picture.{n}"].numpy()))
            keep(f"inception.{n}.64", first[0])
            keep(f"inception.{n}.2048", last[0])
        clean = make_resizer("PIL", False, "bicubic", (299, 299))(tensors["picture.2"].numpy())
        keep("inception.clean.2048", run(network, torch.from_numpy(clean).permute(2, 0, 1)[None].float())[0])
        facts["pair_distance"] = pair_distance(path)


def run(network, x):
    """From 299 x 299 in [0, 255] to the 2048 features."""
    x = (x - 128) / 128
    names = ("Conv2d_1a_3x3 Conv2d_2a_3x3 Conv2d_2b_3x3 MaxPool_1 Conv2d_3b_1x1 Conv2d_4a_3x3 MaxPool_2 Mixed_5b Mixed_5c "
             "Mixed_5d Mixed_6a Mixed_6b Mixed_6c Mixed_6d Mixed_6e Mixed_7a Mixed_7b Mixed_7c AvgPool")
    for name in names.split():
        x = getattr(network, name)(x)
    return torch.flatten(x, 1)


def pair_distance(path):
    """The paper's: torchmetrics' FID of 64 features on a doubled pair, 256 x 256, blue first."""
    metric = FrechetInceptionDistance(feature=64, feature_extractor_weights_path=path, antialias=False)
    metric.set_dtype(torch.float64)
    for n, real in ((0, True), (1, False)):
        x = F.interpolate(planes(tensors[f"picture.{n}"].numpy()).float(), (256, 256), mode="bilinear")
        x = x.round().clamp(0, 255).to(torch.uint8).flip(1)
        metric.update(torch.cat([x, x]), real=real)
    return metric.compute().item()


def clip(name, activation):
    config = CLIPConfig(
        projection_dim=24,
        text_config=dict(vocab_size=99, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                         max_position_embeddings=12, hidden_act=activation, projection_dim=24, bos_token_id=97,
                         eos_token_id=98, pad_token_id=98),
        vision_config=dict(hidden_size=40, intermediate_size=56, num_hidden_layers=3, num_attention_heads=5, image_size=32,
                           patch_size=8, hidden_act=activation, projection_dim=24))
    model = CLIPModel(config).eval()
    shapes = weights.shapes(model)
    model.load_state_dict(weights.state({k: v for k, v in shapes.items()}), strict=False)
    pixels = tensors["picture.2"].numpy()
    prepared = prepare(pixels, 32)
    keep(f"{name}.prepared", prepared[0])
    squeezed = np.stack([np.asarray(Image.fromarray(pixels[..., c].astype(np.float32) / 255, mode="F")
                                    .resize((32, 32), Image.BICUBIC)) for c in range(3)])
    keep(f"{name}.squeezed", normalised(torch.from_numpy(squeezed)))
    ids = [97, 5, 17, 80, 3, 98] + [98] * 6
    with torch.no_grad():
        out = model(input_ids=torch.tensor([ids]), attention_mask=None, pixel_values=prepared)
    keep(f"{name}.picture", out.image_embeds)
    keep(f"{name}.text", out.text_embeds)
    text, vision = model.config.text_config.to_dict(), model.config.vision_config.to_dict()
    facts[name] = {"tensors": shapes, "ids": ids, "end": 5, "config": {
        "model_type": "clip", "projection_dim": 24,
        "text_config": {k: text[k] for k in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                                             "num_attention_heads", "max_position_embeddings", "hidden_act")},
        "vision_config": {k: vision[k] for k in ("hidden_size", "intermediate_size", "num_hidden_layers",
                                                 "num_attention_heads", "image_size", "patch_size", "hidden_act")}}}


def prepare(pixels, side):
    """OpenAI's preprocessing with Pillow."""
    height, width = pixels.shape[:2]
    size = (side, int(side * height / width)) if width <= height else (int(side * width / height), side)
    resized = Image.fromarray(pixels).resize(size, Image.BICUBIC)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    square = np.asarray(resized.crop((left, top, left + side, top + side)))
    return normalised(torch.from_numpy(square).permute(2, 0, 1).float() / 255)[None]


def normalised(x):
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    return (x - mean) / torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]


def perceptual(net, make):
    trunk = make(weights=None).features
    metric = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False).eval()
    heads = {k: list(v.shape) for k, v in metric.state_dict().items() if k.startswith("lin") and not k.startswith("lins")}
    shapes = {**weights.shapes(trunk, lambda name: f"features.{name}"), **heads}
    used = {f"features.{name.split('.', 1)[1]}" for name in metric.net.state_dict()}
    shapes = {name: shape for name, shape in shapes.items() if not name.startswith("features.") or name in used}
    state = weights.state(shapes)
    metric.load_state_dict({k: v for k, v in state.items() if k.startswith("lin")}, strict=False)
    metric.net.load_state_dict({name: state[f"features.{name.split('.', 1)[1]}"] for name in metric.net.state_dict()})
    a, b = (planes(tensors[f"picture.{n}"].numpy()).float() / 127.5 - 1 for n in (0, 1))
    with torch.no_grad():
        facts[f"lpips-{net}"] = {"tensors": shapes, "distance": metric(a, b).item()}


def dino():
    config = ViTConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, image_size=32,
                       patch_size=8, layer_norm_eps=1e-12, qkv_bias=True)
    shapes = dino_shapes(config)
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        save_file(weights.state(shapes), f"{folder}/model.safetensors", metadata={"format": "pt"})
        model, report = ViTModel.from_pretrained(folder, add_pooling_layer=False, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"], report
    kept = {}
    model.layers[-1].attention.k_proj.register_forward_hook(lambda module, i, out: kept.update(keys=out))
    similarities = []
    for n in (3, 0):
        x = planes(tensors[f"picture.{n}"].numpy()).float() / 255
        x = torchvision.transforms.Resize(32, max_size=480, antialias=True)(x)
        x = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))(x)
        with torch.no_grad():
            model(x)
        keys = kept["keys"][0]
        norm = keys.norm(dim=1, keepdim=True)
        similarities.append(keys @ keys.T / torch.clamp(norm @ norm.T, min=1e-8))
    keep("dino.similarity", similarities[0])
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size",
             "hidden_act", "layer_norm_eps", "qkv_bias", "model_type")
    known = config.to_dict()
    facts["dino"] = {"tensors": shapes, "distance": F.mse_loss(similarities[0], similarities[1]).item(),
                     "config": {name: known[name] for name in names}}


def dino_shapes(config):
    """The names of published folders."""
    width, inner = config.hidden_size, config.intermediate_size
    shapes = {"embeddings.cls_token": [1, 1, width], "embeddings.position_embeddings": [1, 17, width],
              "embeddings.patch_embeddings.projection.weight": [width, 3, 8, 8],
              "embeddings.patch_embeddings.projection.bias": [width],
              "layernorm.weight": [width], "layernorm.bias": [width]}
    linear = {"attention.attention.query": (width, width), "attention.attention.key": (width, width),
              "attention.attention.value": (width, width), "attention.output.dense": (width, width),
              "intermediate.dense": (inner, width), "output.dense": (width, inner)}
    for layer in range(config.num_hidden_layers):
        prefix = f"encoder.layer.{layer}"
        for name, shape in linear.items():
            shapes[f"{prefix}.{name}.weight"], shapes[f"{prefix}.{name}.bias"] = list(shape), [shape[0]]
        for name in ("layernorm_before", "layernorm_after"):
            shapes[f"{prefix}.{name}.weight"], shapes[f"{prefix}.{name}.bias"] = [width], [width]
    return shapes


def judge():
    import judge as module
    network = module.Judge().eval()
    shapes = weights.shapes(network)
    network.load_state_dict(weights.state(shapes), strict=False)
    verdict = module.Verdict(network, planes(tensors["picture.0"].numpy()).float() / 127.5 - 1)
    keep("judge.mask", verdict.mask[0].to(torch.uint8) * 255)
    facts["judge"] = {"tensors": shapes, "shape": verdict.shape.item(), "colour": verdict.colour.item(),
                      "scene": verdict.scene.item()}


def sets():
    random = np.random.RandomState(5)
    x, y = random.randn(40, 12), random.randn(50, 12) @ (np.eye(12) + 0.3 * random.randn(12, 12)) + 0.4
    keep("set.x", x)
    keep("set.y", y)
    statistics = [fid_features_to_statistics(torch.from_numpy(features)) for features in (x, y)]
    fid = fid_statistics_to_metric(*statistics, False)
    kid = kid_features_to_metric(torch.from_numpy(x), torch.from_numpy(y[:40]), kid_subsets=1, kid_subset_size=40,
                                 verbose=False)
    facts["sets"] = {"fid": float(next(iter(fid.values()))), "kid": float(next(iter(kid.values()))), "cmmd": cmmd(x, y)}


def cmmd(x, y):
    """distance.py of google-research/cmmd, pair by pair."""
    kernel = lambda a, b: np.mean([[np.exp(-((p - q) ** 2).sum() / 200) for q in b] for p in a])
    return 1000 * (kernel(x, x) + kernel(y, y) - 2 * kernel(x, y))


def main():
    torch.manual_seed(0)
    pictures()
    background()
    inception()
    clip("clip", "quick_gelu")
    clip("clip-gelu", "gelu")
    perceptual("alex", torchvision.models.alexnet)
    perceptual("vgg", torchvision.models.vgg16)
    perceptual("squeeze", torchvision.models.squeezenet1_1)
    dino()
    judge()
    sets()
    os.makedirs(ROOT, exist_ok=True)
    save_file(tensors, f"{ROOT}/golden.safetensors")
    with open(f"{ROOT}/golden.json", "w", encoding="utf-8") as f:
        json.dump(facts, f, separators=(",", ":"))
    print({name: os.path.getsize(f"{ROOT}/{name}") for name in os.listdir(ROOT)})


if __name__ == "__main__":
    main()
