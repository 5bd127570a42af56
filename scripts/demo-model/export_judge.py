"""Writes the judge as a network of `diorama eval`: half precision, with the words of its classes, and measures what was
written on drawn pictures that it was not trained on.

    python export_judge.py WORK ../../models/eval/judge
"""
import json
import os
import sys

import torch
from safetensors.torch import save_file

from judge import accuracy, load_judge, stack
from networks import to_tensor
from scenes import COLOUR_NAMES, HELD_OUT, PLACE, SCENES, SHAPES, sample


def main(work, out):
    judge = load_judge(work)
    os.makedirs(out, exist_ok=True)
    state = {k: v.half().contiguous() for k, v in judge.state_dict().items() if not k.endswith("num_batches_tracked")}
    save_file(state, f"{out}/model.safetensors")
    words = {"model_type": "diorama_judge", "shapes": SHAPES, "colours": COLOUR_NAMES, "places": [PLACE[s] for s in SCENES]}
    with open(f"{out}/config.json", "w", encoding="utf-8") as f:
        f.write(json.dumps(words, indent=2) + "\n")
    judge.load_state_dict({k: v.float() for k, v in state.items()}, strict=False)
    pictures, masks, labels = stack([sample(70_000_000 + i, *HELD_OUT[i % 64]) for i in range(640)])
    print(f"640 held-out pictures: {accuracy(judge, to_tensor(pictures), masks > 0, labels)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
