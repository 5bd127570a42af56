"""How well does an exported folder draw what the prompt says? The judge looks at 256 pictures: the 64
combinations never trained on, four seeds each, from pure noise.

    python evaluate.py WORK FOLDER [--guidance 4] [--steps 25] [--cases 256] [--grid OUT.png]
"""
import argparse
import time

import torch

from judge import Verdict, load_judge
from networks import LATENT, decode, load, noise_from, sample, save_grid, token_ids
from scenes import HELD_OUT, SCENES, SHAPES, prompt


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work")
    parser.add_argument("folder")
    parser.add_argument("--guidance", type=float, default=4)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--cases", type=int, default=256)
    parser.add_argument("--grid")
    o = parser.parse_args()
    torch.set_num_threads(2)
    unet, text_encoder, autoencoder, tokenizer = load(o.folder)
    judge = load_judge(o.work)
    asked = [HELD_OUT[i % 64] for i in range(o.cases)]
    encode = lambda texts: text_encoder(token_ids(tokenizer, texts)).last_hidden_state
    began, pictures = time.time(), []
    with torch.no_grad():
        empty = encode([""])
        for start in range(0, o.cases, 64):
            part = range(start, min(start + 64, o.cases))
            z = torch.stack([noise_from(torch.Generator().manual_seed(i), *LATENT) for i in part])
            text = encode([prompt(*asked[i]) for i in part])
            pictures.append(decode(autoencoder, sample(unet, text, empty, z, o.steps, o.guidance)))
    x, asked = torch.cat(pictures), torch.tensor(asked)
    seen = Verdict(judge, x)
    shape, colour, scene = seen.shape == asked[:, 1], seen.colour == asked[:, 0], seen.scene == asked[:, 2]
    print(f"{o.folder}, guidance {o.guidance}, DDIM {o.steps}, {o.cases} pictures: shape {shape.float().mean():.3f}, "
          f"colour {colour.float().mean():.3f}, scene {scene.float().mean():.3f}, all three "
          f"{(shape & colour & scene).float().mean():.3f} ({time.time() - began:.0f} s)")
    share = lambda right, names, column: ", ".join(f"{n} {right[asked[:, column] == i].float().mean():.2f}" for i, n in enumerate(names))
    print("  shape by shape:", share(shape, SHAPES, 1))
    print("  shape by scene:", share(shape, SCENES, 2))
    if o.grid:
        save_grid(x[:64], 16, o.grid)


if __name__ == "__main__":
    main()
