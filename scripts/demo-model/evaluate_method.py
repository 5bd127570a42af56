"""How well does masked latent replacement work on an exported folder? 64 cases: the combinations never
trained on (`--cases` takes fewer of them); the reference is a fresh scene without object, the prompt
names an object on that scene.

    python evaluate_method.py WORK FOLDER --probe          where does each score look, step by step?
    python evaluate_method.py WORK FOLDER --run JSON ...   one row of figures for each JSON of settings, such as
                                                           {"layers": "first"} or {"layers": "all", "probes": 16}
    python evaluate_method.py WORK FOLDER --paired         what each score and threshold changes, case by case
    python evaluate_method.py WORK FOLDER --masks          which figures tell masks that miss their object (uses diorama.json)
    python evaluate_method.py WORK FOLDER [--grid OUT.png] the table of the model card (uses diorama.json)

The algorithm is the project's: the gradient of the conditional prediction in the forward pass that step i has
just done; after the scheduler step, where i+1 is an edit index, latents outside the mask become the
reference noised to the new timestep with the task's one noise tensor.
"""
import argparse
import json
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from absgrad import LastLayer
from attention import cross_attention_names, watch
from judge import Verdict, load_judge
from networks import (ALPHA, COLOUR_POSITION, DEVICE, LATENT, NOUN_POSITION, add_noise, ddim_step, decode, load, noise_from, noise_of, save_grid, timesteps,
                      to_tensor, token_ids)
from scenes import HELD_OUT, prompt, sample


BAD = 0.25  # the IoU below which a dilated mask is not the object's


@dataclass(frozen=True)
class Settings:
    score: str = "abs-grad"  # abs-grad, relu-grad, attention, guidance-difference, none
    layers: str = "exact"    # the last of the highest resolution, exactly; or first, last, all: estimated by probes
    probes: int = 16
    threshold: float = 1.0
    dilation: int = 1
    edit_fractions: tuple = (0.2, 0.5, 0.85)
    guidance: float = 4.0
    steps: int = 25
    strength: float = 0.9
    blur: bool = True
    paper: bool = False      # DDPM without offset, from pure noise

    def edit_indices(self, length):
        return {round(f * length) for f in self.edit_fractions}


def blur(s):
    """Gaussian 3x3, sigma 6, reflected at the border; s [B, 4, h, w]."""
    g = torch.exp(-torch.tensor([1.0, 0.0, 1.0]) / 72)
    kernel = (g[:, None] * g / g.sum() ** 2).expand(4, 1, 3, 3)
    return F.conv2d(F.pad(s, (1,) * 4, mode="reflect"), kernel, groups=4)


def threshold(s, k):
    """Per latent channel: above its mean by k standard deviations."""
    return s > s.mean((2, 3), keepdim=True) + k * s.std((2, 3), keepdim=True)


def dilate(m, times):
    for _ in range(times):
        m = F.max_pool2d(m.float(), 3, 1, 1) > 0
    return m


def enlarge(m):
    """Latent grid to pixels."""
    return F.interpolate(m.float(), scale_factor=4) > 0.5


def score(kind, layer, u, c, token=NOUN_POSITION):
    """S [B, 4, h, w] from the forward pass just done, whose second half of rows is conditional; `token` for all rows or
    one each."""
    tokens = [token] * len(c) if isinstance(token, int) else token
    rows = zip(range(len(c), 2 * len(c)), tokens)
    if kind == "guidance-difference":
        return (c - u).abs()
    if kind == "attention":
        return torch.stack([layer.attention(r, t).sum(0).view(1, *c.shape[2:]).expand_as(c[0]) for r, t in rows])
    return torch.stack([layer.score(r, t, positive_part=kind == "relu-grad") for r, t in rows])


def signs(shape, generator):
    return torch.randint(0, 2, shape, generator=generator, device="cpu").to(DEVICE) * 2.0 - 1


def random_signs(forward, processors, token, probes, generator):
    """sqrt(sum of A^2 J^2) over heads and queries, added up over layers: the L2 form of the score, for layers without
    a closed form. J (A r) for random signs r is a central difference of the network's output; squared and averaged."""
    forward()
    total, size = 0, 2e-2
    for processor in processors:
        *shape, length = processor.probabilities.shape
        squares = 0
        for _ in range(probes):
            change = torch.zeros(*shape, length)
            change[..., token] = size * signs(shape, generator)
            ends = []
            for processor.factor in (1 + change, 1 - change):
                ends.append(forward())
            squares = squares + ((ends[0] - ends[1]) / (2 * size)).square()
        processor.factor = None
        total = total + (squares / probes).sqrt()
    return total


class Study:
    def __init__(self, work, folder, cases=64):
        apart = len(HELD_OUT) // cases
        asked, self.cases = [HELD_OUT[apart * k + k % apart] for k in range(cases)], cases
        self.unet, self.text_encoder, self.autoencoder, tokenizer = load(folder)
        self.judge, self.layer = load_judge(work), LastLayer(self.unet)
        self.processors = [*watch(self.unet, cross_attention_names(self.unet)[:-1]), self.layer.processor]
        self.asked = torch.tensor(asked)
        self.reference = to_tensor(torch.stack([torch.from_numpy(sample(70_000_000 + i, scene=b, with_object=False)[0])
                                                for i, (_, _, b) in enumerate(asked)]))
        encode = lambda texts: self.text_encoder(token_ids(tokenizer, texts)).last_hidden_state
        self.text, self.empty = encode([prompt(*a) for a in asked]), encode([""]).expand(cases, -1, -1)
        posterior = self.autoencoder.encode(self.reference).latent_dist
        self.generators = lambda: [torch.Generator().manual_seed(i) for i in range(cases)]
        draw = lambda g: noise_from(g, 2, *LATENT)  # diffusers' order: posterior sample, then noise
        first, self.noise = torch.stack([draw(g) for g in self.generators()], 1)
        self.z0 = (posterior.mean + posterior.std * first) * self.autoencoder.config.scaling_factor
        self.round_trip = decode(self.autoencoder, self.z0)

    @torch.no_grad()
    def run(self, s, observe=None):
        """Pictures, and for each edit the mask before and after dilation [cases, 4, 16, 16]."""
        offset = 1 if s.paper else 0
        ts = [t - offset for t in timesteps(s.steps)][s.steps - int(s.steps * s.strength):]
        edits = s.edit_indices(len(ts)) if s.score != "none" else set()
        generators = [torch.Generator().manual_seed(10_000 + i) for i in range(self.cases)]
        fresh = lambda: torch.stack([noise_from(g, *LATENT) for g in generators])
        z, masks = fresh() if s.paper else add_noise(self.z0, self.noise, ts[0]), []
        for i, t in enumerate(ts):
            u, c = self.unet(torch.cat([z, z]), t, torch.cat([self.empty, self.text])).sample.chunk(2)
            if observe:
                observe(i, t, u, c)
            z_before, guided = z, noise_of(u + s.guidance * (c - u), z, t)
            z = ddpm_step(z, guided, t, s.steps, fresh) if s.paper else ddim_step(z, guided, t, s.steps)
            if i + 1 in edits:
                found = self.score(s, i, t, z_before, u, c)
                raw = threshold(blur(found) if s.blur else found, s.threshold)
                mask = dilate(raw, s.dilation)
                z = torch.where(mask, z, add_noise(self.z0, self.noise, ts[i + 1]))
                masks.append((raw, mask))
        return decode(self.autoencoder, z), masks

    def score(self, s, i, t, z, u, c):
        """The score of step `i`'s forward pass over `z`."""
        if s.layers == "exact":
            return score(s.score, self.layer, u, c)
        processors = {"first": self.processors[:1], "last": self.processors[-1:], "all": self.processors}[s.layers]
        generator = torch.Generator().manual_seed(20_000 + i)
        return random_signs(lambda: self.unet(z, t, self.text).sample, processors, NOUN_POSITION, s.probes, generator)

    def backgrounds(self, x, seen):
        """PSNR of each picture against its reference, more than 2 pixels away from the drawn object."""
        outside = ~(F.max_pool2d(seen.mask[:, None].float(), 5, 1, 2) > 0)
        error = (((x - self.reference) / 2).square().mean(1, keepdim=True) * outside).sum((1, 2, 3)) / outside.sum((1, 2, 3))
        return -10 * error.log10()

    def background(self, x, seen):
        return self.backgrounds(x, seen).mean().item()

    def figures(self, s):
        x, masks = self.run(s)
        seen = Verdict(self.judge, x)
        rate = lambda right: right.float().mean().item()
        shape, colour = seen.shape == self.asked[:, 1], seen.colour == self.asked[:, 0]
        row = {"present": rate(seen.present), "shape": rate(shape), "colour": rate(colour), "both": rate(shape & colour),
               "scene": rate(seen.scene == self.asked[:, 2]), "background_db": self.background(x, seen)}
        if masks:
            object_, has = seen.mask[:, None], seen.present
            mean = lambda f: sum(f(raw, mask)[has].mean().item() for raw, mask in masks) / len(masks)
            union = lambda m: enlarge(m.any(1, keepdim=True))
            row |= {"iou_union": mean(lambda raw, _: iou(union(raw), object_)),
                    "iou_channels": mean(lambda raw, _: iou(enlarge(raw), object_)),
                    "iou_union_last": iou(union(masks[-1][0]), object_)[has].mean().item(),
                    "recall_union": mean(lambda _, m: recall(union(m), object_)),
                    "recall_channels": mean(lambda _, m: recall(enlarge(m), object_)),
                    "area_union": mean(lambda _, m: union(m).float().mean((1, 2, 3)))}
        return row, x, masks

    def paired(self, ours):
        """Background of the default settings less that of others, over the same cases: mean and interval. Outside
        what all of the pictures compared draw, so that no picture chooses where it is measured."""
        others = {"attention": replace(ours, score="attention"), "relu-grad": replace(ours, score="relu-grad"),
                  "guidance-difference": replace(ours, score="guidance-difference"),
                  "threshold 0.5": replace(ours, threshold=0.5), "threshold 1.5": replace(ours, threshold=1.5),
                  "img2img": replace(ours, score="none")}
        pictures = {name: self.run(s)[0] for name, s in {"ours": ours, **others}.items()}
        drawn = torch.stack([Verdict(self.judge, x).mask for x in pictures.values()]).any(0)
        verdict = Verdict(self.judge, pictures["ours"])
        verdict.mask = drawn
        kept = {name: self.backgrounds(x, verdict) for name, x in pictures.items()}
        print(f"ours: {kept['ours'].mean():.2f} dB, mean of {self.cases} cases; less others, with the 95 % interval of 2000 resamples")
        for name in others:
            difference = kept["ours"] - kept[name]
            pick = torch.randint(self.cases, (2000, self.cases), generator=torch.Generator().manual_seed(0))
            low, high = difference[pick].mean(1).quantile(torch.tensor([0.025, 0.975])).tolist()
            print(f"  less {name:20s} {difference.mean():+.2f} ({low:+.2f} to {high:+.2f}) dB", flush=True)

    def masks(self, ours):
        """How well figures that need no truth tell bad masks: of the union over channels after dilation, its coverage and
        its share of the border, over good and bad scores and thresholds. Bad is a mask whose IoU with the object finally
        drawn is below BAD. And how much the masks of two subjects have in common that are one object (its colour and its
        noun), or two things (its noun and its place)."""
        ways = [replace(ours, score=kind, threshold=k) for kind in ("abs-grad", "guidance-difference")
                for k in (-0.5, 0.25, 1.0, 2.5, 4.0)]
        rows, shared = [], {"one object": [], "two things": []}
        for s in ways:
            x, masks = self.run(s)
            seen = Verdict(self.judge, x)
            for _, mask in masks:
                union = mask.any(1, keepdim=True)
                overlap = iou(enlarge(union), seen.mask[:, None])
                covered, edge = union.float().mean((1, 2, 3)), border(union)
                rows += [(covered[i].item(), edge[i].item(), overlap[i].item()) for i in range(self.cases) if seen.present[i]]
        edits = ours.edit_indices(int(ours.steps * ours.strength))
        # Each word of these prompts is one token, behind the start token; the place's is the last.
        places = [len(prompt(*a).split()) for a in self.asked.tolist()]

        def common(i, t, u, c):
            if i + 1 in edits:
                colour, noun, place = (dilate(threshold(blur(score("abs-grad", self.layer, u, c, token)), ours.threshold),
                                              ours.dilation).any(1, keepdim=True) for token in (COLOUR_POSITION, NOUN_POSITION, places))
                shared["one object"].append(iou(colour, noun))
                shared["two things"].append(iou(noun, place))
        self.run(ours, common)
        covered, edge, overlap = torch.tensor(rows).T
        bad = overlap < BAD
        print(f"{len(bad)} masks of {self.cases} cases, {int(bad.sum())} of them bad (IoU below {BAD})")
        for name, figure, sign, limits in (("coverage", covered, "<", (0.01, 0.02, 0.03, 0.05, 0.08)),
                                           ("coverage", covered, ">", (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)),
                                           ("border", edge, ">", (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9))):
            for limit in limits:
                warned = figure < limit if sign == "<" else figure > limit
                right = (warned & bad).sum().item()
                print(f"  {name} {sign} {limit}: {int(warned.sum()):4d} warned, precision {right / max(1, int(warned.sum())):.3f}, "
                      f"recall {right / max(1, int(bad.sum())):.3f}", flush=True)
        warned = (covered < 0.03) | (covered > 0.8) | (edge > 0.6)
        right = (warned & bad).sum().item()
        print(f"  coverage < 0.03 or > 0.8 or border > 0.6: {int(warned.sum()):4d} warned, precision "
              f"{right / max(1, int(warned.sum())):.3f}, recall {right / max(1, int(bad.sum())):.3f}")
        for name, values in shared.items():
            values = torch.cat(values)
            at = " ".join(f"{q:.0%} {values.quantile(q).item():.2f}" for q in (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1))
            print(f"IoU of two subjects' masks that are {name}, {len(values)} pairs: {at}", flush=True)

    def probe(self, s):
        """On an undisturbed img2img run: IoU of every score's mask with the object finally drawn."""
        kinds, seen_scores = ("abs-grad", "attention", "guidance-difference"), []
        x, _ = self.run(replace(s, score="none"), lambda i, t, u, c: seen_scores.append(
            (i, t, {k: blur(score(k, self.layer, u, c)) for k in kinds})) if i % 2 == 0 else None)
        seen = Verdict(self.judge, x)
        object_, has = seen.mask[:, None], seen.present
        print(f"{int(has.sum())} of {self.cases} undisturbed pictures have an object; mean IoU of the undilated union mask, k = 0.5/1/1.5")
        for i, t, scores in seen_scores:
            cells = ["/".join(f"{iou(enlarge(threshold(scores[k], k_).any(1, keepdim=True)), object_)[has].mean():.2f}"
                              for k_ in (0.5, 1, 1.5)) for k in kinds]
            print(f"  step {i:2d} (t {t:3d})  " + "  ".join(f"{k} {c}" for k, c in zip(kinds, cells)), flush=True)


def iou(a, b):
    return ((a & b).sum((2, 3)) / (a | b).sum((2, 3)).clamp(min=1)).mean(1)


def border(m):
    """The share of a mask's outermost rows and columns that is set."""
    edge = torch.ones_like(m[0, 0])
    edge[1:-1, 1:-1] = False
    return m[:, 0, edge].float().mean(1)


def recall(a, b):
    return ((a & b).sum((2, 3)) / b.sum((2, 3)).clamp(min=1)).mean(1)


def ddpm_step(z, noise, t, steps, fresh):
    """Ancestral step, fixed-small variance."""
    previous = t - 1000 // steps
    a, b = ALPHA[t], ALPHA[previous] if previous >= 0 else torch.ones(())
    z0, current = (z - (1 - a).sqrt() * noise) / a.sqrt(), a / b
    mean = b.sqrt() * (1 - current) / (1 - a) * z0 + current.sqrt() * (1 - b) / (1 - a) * z
    return mean if previous < 0 else mean + ((1 - b) / (1 - a) * (1 - current)).clamp(min=1e-20).sqrt() * fresh()


def show(name, row):
    print(f"{name:24s} " + ", ".join(f"{k} {v:.2f}" if k.endswith("_db") else f"{k} {v:.3f}" for k, v in row.items()), flush=True)


def comparison_grid(study, plain, x, masks, path):
    """Rows of eight: reference, img2img, edited, edited with the last mask's outside darkened."""
    shade = x * (0.4 + 0.6 * enlarge(masks[-1][1].any(1, keepdim=True)).float()) - 0.6 * (1 - enlarge(masks[-1][1].any(1, keepdim=True)).float())
    rows = [torch.cat([part[i:i + 8] for part in (study.reference, plain, x, shade)]) for i in range(0, 32, 8)]
    save_grid(torch.cat(rows), 16, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work")
    parser.add_argument("folder")
    parser.add_argument("--probe", action="store_true")
    parser.add_argument("--paired", action="store_true")
    parser.add_argument("--masks", action="store_true")
    parser.add_argument("--run", nargs="+")
    parser.add_argument("--cases", type=int, default=64, choices=(8, 16, 32, 64))
    parser.add_argument("--grid")
    o = parser.parse_args()
    torch.set_num_threads(2)
    study = Study(o.work, o.folder, o.cases)
    if o.probe:
        return study.probe(Settings())
    if o.run:
        for text in o.run:
            show(text, study.figures(Settings(**json.loads(text)))[0])
        return None
    with open(f"{o.folder}/diorama.json") as f:
        best = json.load(f)
    ours = Settings(**{k: v for k, v in best.items() if k not in ("layers", "scheduler")})
    if o.paired:
        return study.paired(ours)
    if o.masks:
        return study.masks(ours)
    plain = study.figures(replace(ours, score="none"))
    edited = study.figures(ours)
    show("img2img", plain[0])
    show("img2img-reduced (0.6)", study.figures(replace(ours, score="none", strength=0.6))[0])
    show("abs-grad", edited[0])
    for kind in ("relu-grad", "attention", "guidance-difference"):
        show(kind, study.figures(replace(ours, score=kind))[0])
    paper = Settings(score="relu-grad", threshold=0.5, dilation=1, edit_fractions=(5 / 45, 18 / 45, 28 / 45), guidance=8.0, steps=50,
                     blur=False, paper=True)
    show("paper", study.figures(paper)[0])
    print(f"autoencoder's own round trip of the references: "
          f"{(-10 * ((study.round_trip - study.reference) / 2).square().mean((1, 2, 3)).log10()).mean():.2f} dB")
    if o.grid:
        comparison_grid(study, plain[1], edited[1], edited[2], o.grid)


if __name__ == "__main__":
    main()
