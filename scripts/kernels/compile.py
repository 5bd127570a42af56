"""Compiles crates/diffusion/src/kernels/cuda to PTX, into kernels.ptx beside it; with --check it writes nothing, and fails
where that file is not what the sources give.

Needs no GPU and no CUDA toolkit, only NVRTC from PyPI (requirements.txt). Building Diorama needs none of this: the PTX is
part of the repository.

PTX of an older CUDA loads on every later driver; that of a newer one on no older driver. So the oldest NVRTC is taken
whose CUDA torch 2.11 comes with. The architecture is the first that rounds to bfloat16 by itself (Ampere)."""
import argparse
import ctypes
import hashlib
import importlib.util
import pathlib
import sys

CUDA = pathlib.Path(__file__).resolve().parents[2] / "crates/diffusion/src/kernels/cuda"
PTX = CUDA / "kernels.ptx"
OPTIONS = [b"--gpu-architecture=compute_80", b"--std=c++17"]


def sources():
    """The main source first, then what it includes, by name."""
    return sorted([*CUDA.glob("*.cu"), *CUDA.glob("*.cuh")], key=lambda path: (path.suffix, path.name))


def digest():
    """SHA-256 over each file's name and text, a zero byte behind either: as `kernels::ptx` computes it."""
    whole = hashlib.sha256()
    for path in sources():
        whole.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return whole.hexdigest()


def nvrtc():
    package = importlib.util.find_spec("nvidia.cuda_nvrtc")
    if package is None:
        sys.exit("NVRTC is missing: pip install -r scripts/kernels/requirements.txt")
    folder = pathlib.Path(package.submodule_search_locations[0]) / "lib"
    # NVRTC opens its builtins by name, and finds what is already open.
    for builtins in folder.glob("libnvrtc-builtins.so.*"):
        ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(folder / "libnvrtc.so.12"))


def compiled(library):
    """The PTX of kernels.cu."""
    def call(name, *arguments):
        code = getattr(library, name)(*arguments)
        if code:
            log = text("nvrtcGetProgramLogSize", "nvrtcGetProgramLog") if program else ""
            sys.exit(f"{name} fails with {code}\n{log}")

    def text(size_of, read):
        size = ctypes.c_size_t()
        getattr(library, size_of)(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        getattr(library, read)(program, buffer)
        return buffer.value.decode()

    main, *headers = sources()
    program = ctypes.c_void_p()
    strings = lambda items: (ctypes.c_char_p * len(items))(*items)
    call("nvrtcCreateProgram", ctypes.byref(program), main.read_bytes(), main.name.encode(), len(headers),
         strings([header.read_bytes() for header in headers]), strings([header.name.encode() for header in headers]))
    call("nvrtcCompileProgram", program, len(OPTIONS), strings(OPTIONS))
    return text("nvrtcGetPTXSize", "nvrtcGetPTX")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare only")
    check = parser.parse_args().check
    # The digest lets a build without NVRTC see that sources and PTX belong together.
    made = f"// sources {digest()}\n{compiled(nvrtc())}"
    if not check:
        PTX.write_text(made)
    elif not PTX.is_file() or PTX.read_text() != made:
        sys.exit(f"{PTX.name} is not what the kernels' sources give: run `make kernels` and commit it")


if __name__ == "__main__":
    main()
