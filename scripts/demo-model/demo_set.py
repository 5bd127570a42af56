"""Writes examples/demo: reference pictures (scenes without an object) and the manifest of `make demo`.

    python demo_set.py ../../examples/demo

Seeds lie far from those of training, and every prompt asks for a combination of colour, shape and scene that the
bundled model never saw in training. The pictures are committed, so nobody needs Python for the demo.
"""
import json
import sys
from pathlib import Path

from PIL import Image

from scenes import COLOUR_NAMES, HELD_OUT, PLACE, SCENES, SHAPES, prompt, sample

FIRST_SEED = 9_000_000_000
REFERENCES = 12
PROMPTS_A_REFERENCE = 2


def main(out):
    (out / "references").mkdir(parents=True, exist_ok=True)
    rows, colours = [], [0] * len(COLOUR_NAMES)
    for n in range(REFERENCES):
        scene = n % len(SCENES)
        name = f"{SCENES[scene]}-{n // len(SCENES) + 1}"
        picture, _, _ = sample(FIRST_SEED + n, scene=scene, with_object=False)
        Image.fromarray(picture).save(out / "references" / f"{name}.png", optimize=True)
        for k in range(PROMPTS_A_REFERENCE):
            # Of the held-out combinations of this scene: each shape in turn, its colour the one used least so far.
            shape = (n + n // len(SCENES) * 2 + k) % len(SHAPES)
            fitting = [c for c, s, b in HELD_OUT if (s, b) == (shape, scene)]
            colour = min(fitting, key=lambda c: (colours[c], c))
            colours[colour] += 1
            rows.append({
                "custom_id": f"{name}-{COLOUR_NAMES[colour]}-{SHAPES[shape]}",
                "reference": f"references/{name}.png",
                "prompt": prompt(colour, shape, scene),
                "subjects": [SHAPES[shape]],
            })
    (out / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    assert set(PLACE) == set(SCENES)
    main(Path(sys.argv[1]))
