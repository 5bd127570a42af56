#!/usr/bin/env python3
"""Inside docker/Dockerfile: collects the shared libraries that a program needs, and no others.

Follows what each file names as NEEDED, from the program and from the libraries that are loaded later by name (--later),
and fails where one is missing. Libraries of the system go to OUT/system, with the loader, where the loader looks for
them; those of the wheels of --wheels, which the program finds by its RPATH, to OUT/alone/NAME where they are to have a
layer to themselves, else to OUT/rest. OUT/origins says where each came from.
"""

import argparse
import pathlib
import re
import shutil
import subprocess


def told(program, what, pattern):
    output = subprocess.run(["readelf", "--wide", what, program], check=True, capture_output=True, text=True).stdout
    return re.findall(pattern, output)


def find(name, folders):
    for folder in folders:
        if (folder / name).exists():
            return folder / name
    raise SystemExit(f"docker/libraries.py: {name} is in none of {', '.join(map(str, folders))}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--wheels", type=pathlib.Path, help="the venv that they are installed in")
    parser.add_argument("--later", action="append", default=[], help="a name that something loads by itself")
    parser.add_argument("--host", action="append", default=[], help="a name that comes from the host, as its driver's")
    parser.add_argument("--alone", action="append", default=[], help="a name that gets a layer to itself")
    arguments = parser.parse_args()

    [loader] = told(arguments.program, "-l", r"interpreter: (\S+?)\]")
    machine = {"ld-linux-x86-64.so.2": "x86_64", "ld-linux-aarch64.so.1": "aarch64"}[pathlib.Path(loader).name]
    # Debian's own, or where it puts those of another architecture.
    system = [pathlib.Path(f"/usr/lib/{machine}-linux-gnu"), pathlib.Path(f"/usr/{machine}-linux-gnu/lib")]
    homes = {folder: arguments.out / "system" / f"usr/lib/{machine}-linux-gnu" for folder in system}

    site = arguments.wheels.glob("lib/python3*/site-packages") if arguments.wheels else []
    wheels = [folder for root in site for folder in [root / "torch/lib", *sorted(root.glob("nvidia/*/lib"))]]

    found = {}
    waiting = [arguments.program, *(find(name, wheels) for name in arguments.later)]
    while waiting:
        library = waiting.pop()
        if library.name in found:
            continue
        found[library.name] = library
        needed = [name for name in told(library, "-d", r"NEEDED.*\[(\S+)\]") if name not in arguments.host]
        waiting += [find(name, wheels + system) for name in needed]
    del found[arguments.program.name]
    unknown = set(arguments.alone) - set(found)
    if unknown:
        raise SystemExit(f"docker/libraries.py: nothing needs {', '.join(sorted(unknown))}")

    for name, library in found.items():
        if name == pathlib.Path(loader).name:
            home = arguments.out / "system" / str(pathlib.Path(loader).parent).lstrip("/")
        else:
            home = homes.get(library.parent, arguments.out / ("alone" if name in arguments.alone else "rest"))
        home.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(library, home / name)
        (home / name).chmod(0o755)
    origins = sorted(str(library.resolve()) for library in found.values())
    (arguments.out / "origins").write_text("".join(f"{origin}\n" for origin in origins))


main()
