"""Random weights that need not be stored: a function of a tensor's name and shape, exact in float32, so that
crates/evaluation/tests/parity/weights.rs makes the same ones."""
import math

import numpy as np
import torch

MASK = (1 << 64) - 1


def seed(name):
    """FNV-1a."""
    value = 0xCBF29CE484222325
    for byte in name.encode():
        value = ((value ^ byte) * 0x100000001B3) & MASK
    return value


def uniform(name, count):
    """`count` numbers k / 2^24 in [0, 1): splitmix64 of the name's seed."""
    with np.errstate(over="ignore"):
        z = np.uint64(seed(name)) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24)


def tensor(name, shape):
    count = math.prod(shape)
    u = uniform(name, count)
    if len(shape) < 2:
        if name.endswith("running_var"):
            values = u + np.float32(0.5)
        elif name.endswith("weight"):
            values = u / np.float32(2) + np.float32(0.75)
        else:
            values = (u * np.float32(2) - np.float32(1)) / np.float32(8)
    elif name.startswith("lin"):
        values = u / np.float32(64)
    else:
        # He et al. 2015, to the nearest power of two.
        scale = 2.0 ** round(0.5 * math.log2(6 / math.prod(shape[1:])))
        values = (u * np.float32(2) - np.float32(1)) * np.float32(scale)
    return torch.from_numpy(values.astype(np.float32)).reshape(shape)


def state(shapes):
    return {name: tensor(name, shape) for name, shape in shapes.items()}


def shapes(module, rename=lambda name: name, without=("num_batches_tracked", "position_ids")):
    return {rename(name): list(value.shape) for name, value in module.state_dict().items()
            if not name.endswith(without)}
