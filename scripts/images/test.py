#!/usr/bin/env python3
"""Tests of built images: `make images-test`. Each is unpacked, looked through, and run with as little as it can do with.

scripts/images/test says which, in TARGETS, and how they are called.
"""

import os
import pathlib
import re
import shutil
import stat
import tempfile
import unittest

from container import Image, call, outcome
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

# Compressed, in bytes, as a registry serves it. For `cuda`, what NVIDIA's libraries leave.
BUDGETS = {"client": 40e6, "cpu": 160e6, "cuda": 3.2e9}
EXAMPLE = pathlib.Path("examples/demo")


class Client:
    """What holds of every image."""

    target = "client"

    @classmethod
    def setUpClass(cls):
        cls.image = Image(os.environ["ENGINE"], os.environ[f"IMAGE_{cls.target}"], cls.target)
        cls.program = cls.image.files / "usr/local/bin/diorama"

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.scratch = pathlib.Path(folder.name)

    def run_inside(self, *arguments):
        """What the program prints, in a container, where it must succeed."""
        ended = self.image.run(self.scratch, *arguments)
        self.assertEqual(ended.returncode, 0, ended.stdout + ended.stderr)
        return ended.stdout

    def test_it_says_its_version_and_its_settings(self):
        self.assertEqual(self.run_inside("--version").strip(), f"diorama {os.environ['VERSION']}")
        self.assertIn("steps", self.run_inside("config"))

    def test_a_run_ends_with_pictures_of_its_user(self):
        shutil.copytree(EXAMPLE, self.scratch / "demo")
        self.run_inside("run", "demo/manifest.jsonl", "--engine", "synthetic", "--out", "out")
        pictures = list((self.scratch / "out/images").iterdir())
        rows = (EXAMPLE / "manifest.jsonl").read_text().splitlines()
        self.assertEqual(len(pictures), len(rows))
        self.assertEqual({picture.stat().st_uid for picture in pictures}, {65532})

    def test_it_writes_nowhere_but_in_scratch(self):
        shutil.copytree(EXAMPLE, self.scratch / "demo")
        ended = self.image.run(self.scratch, "run", "demo/manifest.jsonl", "--engine", "synthetic", "--out", "/elsewhere")
        self.assertNotEqual(ended.returncode, 0)
        self.assertRegex(ended.stderr, "(?i)read-only|permission denied")

    def test_nothing_is_in_it_but_what_the_program_needs(self):
        files = [path for path in self.image.files.rglob("*") if not path.is_symlink()]
        self.assertEqual([path for path in files if path.stat().st_mode & (stat.S_ISUID | stat.S_ISGID)], [])
        # Where the engine mounts things, it leaves empty folders.
        writable = [path for path in files if path.is_dir() and path.stat().st_mode & stat.S_IWOTH]
        self.assertEqual([str(path.relative_to(self.image.files)) for path in writable], ["scratch"])
        programs = [path for path in files if path.is_file() and path.stat().st_mode & 0o111 and ".so" not in path.name]
        self.assertEqual(programs, [self.program])

    def test_no_path_of_the_builder_is_in_the_program(self):
        found = re.findall(rb"[ -~]*(?:/usr/local/cargo|/usr/local/rustup|/root/|/src/\.libtorch|/target/)[ -~]*",
                           self.program.read_bytes())
        self.assertEqual(found[:3], [], f"{len(found)} of them")
        self.assertIn("[$ORIGIN/../lib/diorama]", call("readelf", "-d", self.program))

    def test_it_trusts_debians_certificates_and_none_of_the_builder(self):
        def certificates(text):
            return set(re.findall("-----BEGIN.+?-----END", text.replace("\r", ""), re.DOTALL))

        trusted = certificates((self.image.files / "etc/ssl/certs/ca-certificates.crt").read_text())
        self.assertGreater(len(trusted), 100)
        for added in pathlib.Path("/usr/local/share/ca-certificates").rglob("*.crt"):
            self.assertFalse(trusted & certificates(added.read_text()), added)

    def test_its_bill_of_materials_is_valid_and_names_what_is_there(self):
        text = (self.image.files / "usr/share/doc/diorama/sbom.cdx.json").read_text()
        self.assertIsNone(JsonStrictValidator(SchemaVersion.V1_6).validate_str(text))
        for package in ["pkg:cargo/tokio@", "pkg:deb/debian/ca-certificates@", *self.named()]:
            self.assertIn(f'"purl": "{package}', text)

    def named(self):
        return ["pkg:deb/debian/libc6@"]

    def test_it_fits_its_budget(self):
        if not self.image.layout:
            self.skipTest("docker and podman do not say how large an image is when compressed")
        layers = [layer["size"] for layer in self.image.manifest["layers"]]
        print(f"{self.target}: {sum(layers) / 1e6:.1f} MB compressed, layers of {[round(size / 1e6, 1) for size in layers]}")
        self.assertLess(sum(layers), BUDGETS[self.target])


class Cpu(Client):
    target = "cpu"

    def named(self):
        return ["pkg:deb/debian/libstdc++6@", "pkg:pypi/torch@2.11.0", "pkg:pypi/nvidia-cuda-runtime@"]

    def test_a_picture_has_the_bytes_that_it_has_outside(self):
        reference = self.scratch / "beach.png"
        shutil.copy(EXAMPLE / "references/beach-1.png", reference)
        shutil.copytree("models/demo", self.scratch / "model")
        prompt = ["--prompt", "a red circle on a beach", "--subjects", "circle"]
        self.run_inside("generate", "--model", "model", "--reference", "beach.png", *prompt, "--out", "inside")
        outside = self.scratch / "outside"
        ended = outcome(self.program, "generate", "--model", "models/demo", "--reference", reference, *prompt, "--out", outside)
        self.assertEqual(ended.returncode, 0, ended.stderr)
        for picture in ["image.png", "mask.png", "overlay.png", "heatmap-circle.png"]:
            self.assertEqual((self.scratch / "inside" / picture).read_bytes(), (outside / picture).read_bytes(), picture)


class Cuda(Client):
    target = "cuda"

    def named(self):
        return ["pkg:deb/debian/libstdc++6@", "pkg:pypi/torch@2.11.0", "pkg:pypi/nvidia-cudnn-cu13@"]


def load_tests(loader, _tests, _pattern):
    """The classes of the targets that are asked for."""
    kinds = {"client": Client, "cpu": Cpu, "cuda": Cuda}
    suite = unittest.TestSuite()
    for target in os.environ["TARGETS"].split():
        kind = type(kinds[target].__name__, (kinds[target], unittest.TestCase), {})
        suite.addTests(loader.loadTestsFromTestCase(kind))
    return suite


if __name__ == "__main__":
    unittest.main(verbosity=2)
