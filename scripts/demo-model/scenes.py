"""Procedural pictures "a {colour} {shape} {place}" with exact object masks.

Everything is a pure function of an integer seed, so a picture can be made again
anywhere. Pictures are 64x64 RGB. Edges are anti-aliased and textures are smooth:
per-pixel white noise would only cap what an autoencoder can reach.

    python scenes.py make N SEED OUT.npz     pictures, masks and labels
    python scenes.py sheet OUT.png           a contact sheet to look at
"""
import sys
from concurrent.futures import ProcessPoolExecutor

import numpy as np

SIZE = 64
COLOURS = {
    "red": (216, 36, 36), "orange": (250, 138, 16), "yellow": (250, 224, 44), "green": (24, 158, 58),
    "blue": (34, 72, 224), "purple": (132, 36, 176), "pink": (250, 128, 186), "white": (248, 248, 248),
}
SHAPES = ["circle", "square", "triangle", "cross"]
SCENES = ["beach", "desert", "forest", "meadow", "mountain", "city", "space", "sunset"]
PLACE = {
    "beach": "on a beach", "desert": "in a desert", "forest": "in a forest", "meadow": "in a meadow",
    "mountain": "on a mountain", "city": "in a city", "space": "in space", "sunset": "at sunset",
}
SCENE_ALONE = {s: "a " + s for s in SCENES} | {"space": "space"}
COLOUR_NAMES = list(COLOURS)
NO_COLOUR, NO_SHAPE = len(COLOURS), len(SHAPES)

Y, X = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)


# --- which combinations are trained on -------------------------------------------------------

def held_out(colour, shape, scene):
    """True for 64 of the 256 combinations, never trained on: for each colour and scene exactly
    one of the four shapes, so that every pair of attributes is still seen in training."""
    return (colour + shape + scene) % 4 == 0


HELD_OUT = [(c, s, b) for c in range(8) for s in range(4) for b in range(8) if held_out(c, s, b)]


# --- prompts ---------------------------------------------------------------------------------

def prompt(colour, shape, scene):
    """Indices to words. Without a shape: the scene alone. Without a scene: the object alone."""
    if shape is None:
        return SCENE_ALONE[SCENES[scene]]
    thing = f"a {COLOUR_NAMES[colour]} {SHAPES[shape]}"
    return thing if scene is None else f"{thing} {PLACE[SCENES[scene]]}"


# --- backgrounds -----------------------------------------------------------------------------

def mix(a, b, t):
    """Blend two colours (or pictures) by a field t in [0, 1]."""
    t = np.clip(t, 0, 1)[..., None]
    return np.asarray(a, np.float32) * (1 - t) + np.asarray(b, np.float32) * t


def below(y):
    """Coverage of the region below the curve y (one value a column), anti-aliased."""
    return np.clip(Y - y + 0.5, 0, 1)


def clouds(r, cells):
    """Smooth noise with about unit variance: a coarse random grid, smoothly interpolated."""
    grid = r.normal(size=(cells + 1, cells + 1)).astype(np.float32)
    p = np.linspace(0, cells - 1e-4, SIZE, dtype=np.float32)
    i = p.astype(int)
    f = p - i
    f = f * f * (3 - 2 * f)
    rows = grid[i] * (1 - f)[:, None] + grid[i + 1] * f[:, None]
    return rows[:, i] * (1 - f) + rows[:, i + 1] * f


def curve(r, base, swing, waves=3):
    """A rolling line: base height in [0, 1], swing in pixels."""
    x = X[0] / SIZE
    y = np.full(SIZE, base * SIZE, np.float32)
    for k in range(1, waves + 1):
        y = y + swing / k * np.sin(2 * np.pi * k * x * r.uniform(0.6, 1.2) + r.uniform(0, 6.28))
    return y


def tint(r, rgb):
    """A colour, a little different every time."""
    return np.clip(np.asarray(rgb, np.float32) + r.normal(0, 7, 3), 0, 255)


def sun(im, x, y, radius, rgb, glow):
    d = np.hypot(X - x, Y - y)
    im = mix(im, rgb, glow * np.exp(-np.maximum(d - radius, 0) / (2.2 * radius)))
    return mix(im, rgb, np.clip(radius - d + 0.5, 0, 1))


def beach(r):
    horizon, shore = r.uniform(0.30, 0.42), r.uniform(0.56, 0.70)
    im = mix(tint(r, (96, 172, 226)), tint(r, (208, 234, 244)), Y / (SIZE * horizon))
    sea = mix(tint(r, (24, 116, 168)), tint(r, (92, 196, 200)), (Y / SIZE - horizon) / (shore - horizon))
    im = mix(im, sea, below(np.full(SIZE, horizon * SIZE)))
    line = curve(r, shore, 3.0, 2)
    sand = mix(tint(r, (238, 214, 160)), tint(r, (214, 178, 116)), (Y - line) / (SIZE * 0.4))
    im = mix(im, (250, 250, 246), below(line - 2.5) * 0.85)
    return mix(im, sand, below(line))


def desert(r):
    im = mix(tint(r, (120, 184, 222)), tint(r, (252, 226, 178)), Y / (SIZE * 0.5))
    im = sun(im, r.uniform(8, 56), r.uniform(6, 14), 4.5, (255, 246, 214), 0.6)
    for base, rgb in ((0.42, (228, 170, 104)), (0.57, (206, 140, 78)), (0.74, (178, 108, 60))):
        line = curve(r, base, 4.5, 2)
        im = mix(im, mix(tint(r, np.array(rgb) * 1.08), tint(r, np.array(rgb) * 0.86), (Y - line) / 20), below(line))
    return im


def forest(r):
    im = mix(tint(r, (168, 206, 150)), tint(r, (62, 110, 66)), Y / (SIZE * 0.8))
    for depth, rgb in ((0, (92, 126, 84)), (1, (58, 66, 46))):
        for _ in range(4):
            x, w = r.uniform(0, SIZE), r.uniform(1.6, 2.4) + 1.4 * depth
            im = mix(im, tint(r, rgb), np.clip(w - np.abs(X - x) + 0.5, 0, 1))
    crown = curve(r, r.uniform(0.12, 0.2), 4.0)
    im = mix(im, mix(tint(r, (30, 78, 42)), tint(r, (44, 104, 52)), Y / 16), np.clip(crown - Y + 0.5, 0, 1))
    floor = curve(r, r.uniform(0.76, 0.84), 2.0)
    return mix(im, mix(tint(r, (74, 92, 40)), tint(r, (46, 60, 30)), (Y - floor) / 14), below(floor))


def meadow(r):
    im = mix(tint(r, (92, 160, 232)), tint(r, (214, 236, 250)), Y / (SIZE * 0.45))
    im = mix(im, (255, 255, 255), np.clip(clouds(r, 5) - 0.35, 0, 1) * 0.8)
    for base, rgb in ((0.42, (150, 198, 104)), (0.54, (118, 180, 74)), (0.72, (84, 150, 54))):
        line = curve(r, base, 3.5, 2)
        im = mix(im, mix(tint(r, np.array(rgb) * 1.06), tint(r, np.array(rgb) * 0.88), (Y - line) / 18), below(line))
    return im


def mountain(r):
    im = mix(tint(r, (120, 150, 200)), tint(r, (232, 226, 232)), Y / (SIZE * 0.7))
    for base, rgb, slope in ((0.16, (128, 138, 170), 0.85), (0.36, (88, 98, 130), 0.75)):
        line = np.full(SIZE, 2.0 * SIZE, np.float32)
        for centre in (r.uniform(0, 24), r.uniform(24, 44), r.uniform(40, 64)):
            line = np.minimum(line, (base + r.uniform(0, 0.16)) * SIZE + slope * np.abs(X[0] - centre))
        rock = mix(tint(r, rgb), tint(r, np.array(rgb) * 0.8), (Y - line) / 26)
        snow = np.clip(6.5 - (Y - line) + np.sin(X * 0.9) * 1.2, 0, 1)
        im = mix(im, mix(rock, (244, 246, 252), snow), below(line))
    floor = curve(r, 0.88, 2.0, 2)
    return mix(im, tint(r, (72, 92, 92)), below(floor))


def city(r):
    im = mix(tint(r, (120, 128, 176)), tint(r, (250, 204, 176)), Y / (SIZE * 0.7))
    for low, high, rgb, lit in ((0.18, 0.42, (146, 140, 168), 0.0), (0.36, 0.62, (76, 78, 104), 1.0)):
        x = -r.uniform(0, 6)
        while x < SIZE:
            w, top = r.uniform(9, 14), r.uniform(low, high) * SIZE
            body = np.clip(np.minimum(X - x, x + w - X) + 0.5, 0, 1) * np.clip(Y - top + 0.5, 0, 1)
            im = mix(im, tint(r, rgb), body)
            panes = (np.sin((X - x) * 2 * np.pi / 4.5) > 0.1) & (np.sin((Y - top) * 2 * np.pi / 6) > 0.2)
            inside = (X > x + 1.5) & (X < x + w - 1.5) & (Y > top + 2) & (Y < SIZE * 0.86)
            im = mix(im, (240, 206, 140), 0.42 * lit * (panes & inside))
            x += w
    return mix(im, mix(tint(r, (62, 62, 74)), tint(r, (92, 90, 100)), (Y / SIZE - 0.88) / 0.12), below(np.full(SIZE, 0.88 * SIZE)))


def space(r):
    im = mix(tint(r, (14, 14, 40)), tint(r, (26, 20, 62)), Y / SIZE)
    im = mix(im, tint(r, (96, 44, 130)), np.clip(clouds(r, 3), 0, 1) * 0.6)
    im = mix(im, tint(r, (30, 96, 140)), np.clip(clouds(r, 3), 0, 1) * 0.5)
    for _ in range(9):
        d2 = (X - r.uniform(2, SIZE - 2)) ** 2 + (Y - r.uniform(2, SIZE - 2)) ** 2
        im = mix(im, (255, 250, 235), np.exp(-d2 / 1.6) * r.uniform(0.6, 1.0))
    return im


def sunset(r):
    horizon = r.uniform(0.58, 0.68)
    t = Y / (SIZE * horizon)
    im = mix(mix(tint(r, (74, 52, 124)), tint(r, (226, 96, 104)), t * 1.8), tint(r, (254, 190, 104)), t * 1.8 - 0.8)
    x = r.uniform(14, 50)
    im = sun(im, x, horizon * SIZE - 2, r.uniform(7, 9), (255, 232, 150), 0.5)
    sea = mix(tint(r, (150, 74, 110)), tint(r, (44, 34, 84)), (Y / SIZE - horizon) / (1 - horizon))
    ripple = np.exp(-((X - x) / (5 + 0.25 * (Y - horizon * SIZE))) ** 2) * (0.5 + 0.3 * np.sin(Y * 1.4))
    return mix(im, mix(sea, (254, 200, 120), ripple), below(np.full(SIZE, horizon * SIZE)))


PAINTERS = {"beach": beach, "desert": desert, "forest": forest, "meadow": meadow,
            "mountain": mountain, "city": city, "space": space, "sunset": sunset}


# --- objects ---------------------------------------------------------------------------------

def polygon(px, py, corners):
    """Signed distance to a polygon (negative inside)."""
    d2, sign = np.full(px.shape, 1e9, np.float32), np.ones(px.shape, np.float32)
    for (ax, ay), (bx, by) in zip(corners, corners[-1:] + corners[:-1]):
        ex, ey, wx, wy = bx - ax, by - ay, px - ax, py - ay
        t = np.clip((wx * ex + wy * ey) / (ex * ex + ey * ey), 0, 1)
        d2 = np.minimum(d2, (wx - ex * t) ** 2 + (wy - ey * t) ** 2)
        above, under, left = py >= ay, py < by, ex * wy > ey * wx
        sign = np.where((above & under & left) | (~above & ~under & ~left), -sign, sign)
    return sign * np.sqrt(d2)


def distance(shape, px, py):
    """Signed distance, in units in which each shape spans about [-1, 1]."""
    box = lambda w, h: np.maximum(np.abs(px) - w, np.abs(py) - h)
    if shape == "circle":
        return np.hypot(px, py) - 0.92
    if shape == "square":
        return box(0.82, 0.82)
    if shape == "triangle":
        return polygon(px, py, [(0, -1.05), (1.02, 0.82), (-1.02, 0.82)])
    return np.minimum(box(0.34, 1.05), box(1.05, 0.34))  # cross


def draw(r, im, colour, shape):
    """Paint one object with a soft shadow, light from the upper left and a darker rim.
    Returns the picture and the object's coverage [64, 64]."""
    radius = r.uniform(15, 18)
    margin = radius * 1.05
    cx, cy = r.uniform(margin, SIZE - margin, 2)
    a = r.uniform(-0.06, 0.06)
    dx, dy = (X - cx) / radius, (Y - cy) / radius
    px, py = dx * np.cos(a) + dy * np.sin(a), dy * np.cos(a) - dx * np.sin(a)
    d = distance(shape, px, py) * radius
    cover = np.clip(0.5 - d, 0, 1)
    shadow = np.clip(1 - (distance(shape, px - 0.10, py - 0.16) * radius + 1) / 4, 0, 1)
    im = im * (1 - 0.32 * (shadow * (1 - cover)))[..., None]
    base = np.clip(np.asarray(COLOURS[colour], np.float32) + r.normal(0, 5, 3), 0, 255)
    light = (1.04 - 0.13 * (0.6 * dx + 0.8 * dy)) * (1 - 0.28 * np.clip(1 + d / 2.2, 0, 1))
    return mix(im, np.clip(base * light[..., None], 0, 255), cover), cover


# --- samples ---------------------------------------------------------------------------------

def sample(seed, colour=None, shape=None, scene=None, with_object=True):
    """One picture uint8 [64, 64, 3], its object mask uint8 [64, 64] and its labels (colour, shape,
    scene). Attributes that are not given are drawn, among the combinations that are trained on."""
    r = np.random.default_rng(seed)
    while True:
        c, s, b = r.integers(8), r.integers(4), r.integers(8)
        if not held_out(c, s, b):
            break
    c, s, b = (v if given is None else given for v, given in ((c, colour), (s, shape), (b, scene)))
    im, cover = PAINTERS[SCENES[b]](r), np.zeros((SIZE, SIZE), np.float32)
    if with_object:
        im, cover = draw(r, im, COLOUR_NAMES[c], SHAPES[s])
    labels = (c, s, b) if with_object else (NO_COLOUR, NO_SHAPE, b)
    return np.clip(im + 0.5, 0, 255).astype(np.uint8), (cover > 0.5).astype(np.uint8), labels


def training_sample(seed, scene_only=0.14):
    with_object = np.random.default_rng((1 << 40) + seed).random() >= scene_only
    return sample(seed, with_object=with_object)


def make(count, seed, out):
    with ProcessPoolExecutor() as pool:
        pictures, masks, labels = zip(*pool.map(training_sample, range(seed, seed + count), chunksize=256))
    np.savez(out, pictures=np.stack(pictures), masks=np.stack(masks), labels=np.array(labels, np.int64))


def sheet(out):
    from PIL import Image
    rows = [np.concatenate([sample(10_000_000 + 100 * b + k, scene=b, colour=(k - 2 + b) % 8, shape=(k + b) % 4, with_object=k > 1)[0]
                            for k in range(10)], 1) for b in range(8)]
    im = np.concatenate(rows)
    Image.fromarray(im).resize((im.shape[1] * 2, im.shape[0] * 2), 0).save(out)


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
    else:
        sheet(sys.argv[2])
