#!/usr/bin/env python3
"""Inside docker/Dockerfile: says what is in an image, and under which licences.

From cargo (the crates that are compiled in: it takes cargo's flags of features), dpkg (the packages that the collected
libraries come from) and the wheels in the venv of libtorch, it writes into OUT/about, as it is to lie in the image:

    usr/share/doc/diorama/sbom.cdx.json   CycloneDX 1.6, without time or serial number, so that builds are equal
    usr/share/doc/diorama/crates.txt      the licence texts of the crates, each text once, with the crates that it covers
    usr/share/doc/PACKAGE/                what each Debian package and wheel says of its licence
    var/lib/dpkg/status.d/PACKAGE         the packages, where scanners of images look for them
"""

import argparse
import collections
import email.parser
import json
import pathlib
import re
import shutil
import subprocess

LICENCE = re.compile(r"(?i)(licen[cs]e|copying|copyright|notice|unlicense)")
DOC = "usr/share/doc"


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def component(kind, name, version, purl, **more):
    return {"type": kind, "bom-ref": purl, "name": name, "version": version, "purl": purl, **more}


def crates(features, triple, out):
    """The crates that are compiled into the program, and the texts of their licences."""
    tree = run("cargo", "tree", "--locked", "-p", "diorama", *features, "--target", triple,
               "--edges", "normal", "--prefix", "none", "--no-dedupe", "--format", "{p}|{l}")
    folders = {
        (package["name"], package["version"]): pathlib.Path(package["manifest_path"]).parent
        for package in json.loads(run("cargo", "metadata", "--locked", "--filter-platform", triple, "--format-version", "1"))["packages"]
    }
    found, covered = [], collections.defaultdict(list)
    for line in sorted(set(tree.splitlines())):
        name, version, licence = re.fullmatch(r"(\S+) v(\S+)(?: \([^|]*\))?\|(.*)", line).groups()
        # Before SPDX, a slash was how crates said OR.
        licence = licence.replace("/", " OR ")
        purl = f"pkg:cargo/{name}@{version}"
        found.append(component("library", name, version, purl, licenses=[{"expression": licence}]))
        folder = folders[name, version]
        # A crate's own files, and those of the C library that it may carry.
        texts = [file for pattern in ("*", "*/*") for file in sorted(folder.glob(pattern))
                 if LICENCE.match(file.name) and file.is_file()]
        for file in texts:
            covered[file.read_text(errors="replace").strip()].append(f"{name} {version}")
        if not texts and "registry" in folder.parts:
            covered[f"No text in the crate, which declares: {licence}"].append(f"{name} {version}")
    rule = "=" * 100
    (out / DOC / "diorama/crates.txt").write_text("".join(
        f"{rule}\n{', '.join(dict.fromkeys(names))}\n{rule}\n{text}\n\n" for text, names in covered.items()))
    return found


def debian(origins, out):
    """The Debian packages of the files, and of the certificates."""
    owners = {"ca-certificates"}
    for origin in origins:
        # dpkg knows some files of /usr by the names that they had before /lib became a link to /usr/lib.
        owners.add(run("dpkg-query", "--search", f"*{origin.removeprefix('/usr')}").split(":")[0])
    found = []
    (out / "var/lib/dpkg/status.d").mkdir(parents=True)
    for package in sorted(owners):
        version, architecture = run("dpkg-query", "--show", "--showformat=${Version} ${Architecture}", package).split()
        (out / "var/lib/dpkg/status.d" / package).write_text(run("dpkg-query", "--status", package))
        folder = out / DOC / package
        folder.mkdir()
        shutil.copyfile(f"/usr/share/doc/{package}/copyright", folder / "copyright")
        purl = f"pkg:deb/debian/{package}@{version}?arch={architecture}&distro=debian-12"
        found.append(component("library", package, version, purl))
    return found


def wheels(origins, site, out):
    """The wheels of the files, known by what each wheel records of its files."""
    found = []
    for record in sorted(site.glob("*.dist-info/RECORD")):
        files = {str((site / line.rsplit(",", 2)[0]).resolve()) for line in record.read_text().splitlines()}
        if not files.intersection(origins):
            continue
        about = email.parser.Parser().parsestr((record.parent / "METADATA").read_text())
        folder = out / DOC / about["Name"]
        folder.mkdir()
        for text in sorted(record.parent.rglob("*")):
            if LICENCE.match(text.name) and text.is_file():
                shutil.copy(text, folder)
        purl = f"pkg:pypi/{about['Name'].lower()}@{about['Version']}"
        found.append(component("library", about["Name"], about["Version"], purl))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path, help="where docker/compile and docker/libraries.py wrote")
    parser.add_argument("--wheels", type=pathlib.Path, help="the venv that they are installed in")
    arguments, features = parser.parse_known_args()

    origins = (arguments.out / "origins").read_text().split()
    about = arguments.out / "about"
    (about / DOC / "diorama").mkdir(parents=True)
    shutil.copy("LICENSE", about / DOC / "diorama")

    parts = crates(features, (arguments.out / "triple").read_text().strip(), about)
    [program] = [part for part in parts if part["name"] == "diorama"]
    parts.remove(program)
    rust = run("rustc", "--version").split()[1]
    parts.append(component("library", "rust-std", rust, f"pkg:generic/rust-std@{rust}",
                           licenses=[{"expression": "MIT OR Apache-2.0"}]))
    if arguments.wheels:
        [site] = arguments.wheels.resolve().glob("lib/python3*/site-packages")
        parts += wheels([origin for origin in origins if origin.startswith(f"{site}/")], site, about)
        origins = [origin for origin in origins if not origin.startswith(f"{site}/")]
    parts += debian(origins, about)
    bom = {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1,
           "metadata": {"component": {**program, "type": "application"}}, "components": parts}
    (about / DOC / "diorama/sbom.cdx.json").write_text(json.dumps(bom, indent=1) + "\n")


main()
