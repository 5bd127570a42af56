"""How far two runs of one manifest are apart, picture by picture: python compare_runs.py FOLDER FOLDER"""
import json
import pathlib
import statistics
import sys

import numpy as np
from PIL import Image


def psnr(a, b):
    error = np.square(a.astype(np.float64) - b).mean()
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)


def overlap(a, b):
    """Intersection over union of two masks; of two empty ones 1."""
    a, b = a[..., 0] > 0, b[..., 0] > 0
    return np.sum(a & b) / union if (union := np.sum(a | b)) else 1.0


def main(one, other):
    read = lambda path: np.asarray(Image.open(path).convert("RGB"))
    ratios, masks, overlaps = [], [], []
    for line in (one / "results.jsonl").read_text().splitlines():
        name = json.loads(line)["custom_id"]
        ratios.append(psnr(*(read(folder / f"images/{name}.png") for folder in (one, other))))
        pair = [read(folder / f"masks/{name}.png") for folder in (one, other)]
        masks.append(np.mean(pair[0] != pair[1]))
        overlaps.append(overlap(*pair))
    print(f"{len(ratios)} pictures: PSNR median {statistics.median(ratios):.1f} dB, least {min(ratios):.1f} dB; "
          f"masks differ in {statistics.mean(masks):.2%} of the pixels, at most {max(masks):.2%}; "
          f"their IoU is {statistics.mean(overlaps):.4f}, least {min(overlaps):.4f}")
    if not ratios or min(ratios) < 20:
        raise SystemExit("the two runs do not show the same pictures")


if __name__ == "__main__":
    main(*map(pathlib.Path, sys.argv[1:]))
