"""Writes a network's folder for `diorama eval --networks` from the files that its authors publish, which are pickles:
they are read with `weights_only=True`, so that nothing in them runs, and their digests are checked.

    python convert.py inception     weights-inception-2015-12-05-6726825d.pth  NETWORKS/inception
    python convert.py lpips-alex    alexnet-owt-7be5be79.pth                   NETWORKS/lpips-alex
    python convert.py lpips-vgg     vgg16-397923af.pth                         NETWORKS/lpips-vgg
    python convert.py lpips-squeeze squeezenet1_1-b8a52dc0.pth                 NETWORKS/lpips-squeeze

Needs torch and safetensors; the lpips ones need the package lpips (0.1.4) for its heads. Where the files are from:
docs/evaluation.md. `--any` takes a file of another digest, such as one that you trained.
"""
import argparse
import hashlib
import importlib.util
import os
import sys

import torch
from safetensors.torch import save_file

# The first eight digits of SHA-256, as torch.hub and the file names have them.
DIGESTS = {"inception": "6726825d", "lpips-alex": "7be5be79", "lpips-vgg": "397923af", "lpips-squeeze": "b8a52dc0"}


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while piece := f.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def inception(state):
    return {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}


def lpips(trunk, state):
    """The convolutions of the trunk, and the heads of the package."""
    package = importlib.util.find_spec("lpips")
    if package is None:
        sys.exit("the heads are in the package lpips: pip install --no-deps lpips==0.1.4")
    heads = os.path.join(os.path.dirname(package.origin), "weights", "v0.1", f"{trunk}.pth")
    heads = torch.load(heads, map_location="cpu", weights_only=True)
    return {**{name: value for name, value in state.items() if name.startswith("features.")}, **heads}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=DIGESTS)
    parser.add_argument("file")
    parser.add_argument("folder")
    parser.add_argument("--any", action="store_true", help="take a file of another digest")
    args = parser.parse_args()
    digest = sha256(args.file)
    if not digest.startswith(DIGESTS[args.network]) and not args.any:
        sys.exit(f"{args.file} has the digest {digest}, which does not begin with {DIGESTS[args.network]}: it is damaged, or "
                 f"another file (--any takes it all the same)")
    state = torch.load(args.file, map_location="cpu", weights_only=True)
    name, _, trunk = args.network.partition("-")
    tensors = lpips(trunk, state) if name == "lpips" else inception(state)
    os.makedirs(args.folder, exist_ok=True)
    path = os.path.join(args.folder, "model.safetensors")
    save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    print(f"{path}: {len(tensors)} tensors")


if __name__ == "__main__":
    main()
