"""An image as its tests see it: its files in a folder, its program in a container that may do as little as it can.

Runs of buildah's images are runc's, without a daemon; those of docker and podman are their own.
"""

import json
import os
import pathlib
import shutil
import subprocess

IMAGES = pathlib.Path(".images").resolve()


class Image:
    """One built image, unpacked into .images/test/TARGET."""

    def __init__(self, engine, image, target):
        self.engine, self.image, self.layout = engine, image, None
        self.bundle = IMAGES / "test" / target
        self.files = self.bundle / "rootfs"
        shutil.rmtree(self.bundle, ignore_errors=True)
        self.bundle.parent.mkdir(parents=True, exist_ok=True)
        if engine == "buildah":
            self.layout = IMAGES / "oci"
            tag = image.rsplit(":", 1)[1]
            call("buildah", "push", "--quiet", image, f"oci:{self.layout}:{tag}")
            call("umoci", "unpack", "--image", f"{self.layout}:{tag}", self.bundle)
            self.manifest = self.blob(self.entry(tag)["digest"])
        else:
            self.files.mkdir(parents=True)
            container = call(engine, "create", image).strip()
            with subprocess.Popen([engine, "export", container], stdout=subprocess.PIPE) as export:
                call("tar", "--extract", "--directory", self.files, stdin=export.stdout)
            call(engine, "rm", container)

    def entry(self, tag):
        """What the layout's index says of a tag."""
        index = json.loads((self.layout / "index.json").read_text())
        [entry] = [one for one in index["manifests"] if one["annotations"]["org.opencontainers.image.ref.name"] == tag]
        return entry

    def blob(self, digest):
        return json.loads((self.layout / "blobs" / digest.replace(":", "/")).read_text())

    def run(self, scratch, *arguments):
        """Runs the program: the image's user, a root that cannot be written, no capability, no network, /scratch."""
        scratch.chmod(0o1777)
        if self.engine != "buildah":
            return outcome(self.engine, "run", "--rm", "--read-only", "--cap-drop=ALL", "--network=none",
                           "--security-opt=no-new-privileges", f"--volume={scratch}:/scratch", self.image, *arguments)
        config = json.loads((self.bundle / "config.json").read_text())
        process = config["process"]
        config["root"]["readonly"] = True
        process["args"] = ["/usr/local/bin/diorama", *map(str, arguments)]
        process.update(terminal=False, noNewPrivileges=True, capabilities={})
        assert {"type": "network"} in config["linux"]["namespaces"], "a network of its own, which is none"
        config["mounts"] = [mount for mount in config["mounts"] if mount["destination"] != "/scratch"]
        config["mounts"].append({"destination": "/scratch", "type": "bind", "source": str(scratch), "options": ["bind", "rw"]})
        (self.bundle / "config.json").write_text(json.dumps(config))
        return outcome("runc", "run", "--bundle", self.bundle, f"diorama-{os.getpid()}")


def outcome(*command):
    """Runs a command to its end, whatever that is."""
    return subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


def call(*command, stdin=subprocess.DEVNULL):
    """Runs a command that must succeed, and returns what it printed."""
    command = [str(word) for word in command]
    return subprocess.run(command, stdin=stdin, stdout=subprocess.PIPE, text=True, check=True).stdout
