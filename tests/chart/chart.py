"""The chart as the tests see it: its files, and what Helm makes of values."""

import copy
import functools
import json
import pathlib
import re

import helm_python as helm
import yaml

ROOT = pathlib.Path(__file__).parents[2]
CHART = ROOT / "helm" / "diorama"
EXAMPLES = sorted((CHART / "ci").glob("*.yaml"))
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())


def example(name):
    return yaml.safe_load((CHART / "ci" / f"{name}.yaml").read_text())


@functools.cache
def loaded(folder):
    return helm.Chart.load(str(folder))


def manifests(values, release="demo", namespace="prod", chart=CHART):
    """The texts that Helm makes; what it refuses is a helm.HelmError."""
    loaded(chart).validate_schema(values)
    files = loaded(chart).render(values, name=release, namespace=namespace)
    return [text for path, text in files.items() if not path.endswith("NOTES.txt")]


def render(values, **release):
    """Every object of a release, in order."""
    texts = manifests(values, **release)
    return [found for text in texts for found in yaml.load_all(text, Loader=yaml.CSafeLoader) if found]


def refuses(values):
    """Whether the schema does."""
    try:
        loaded(CHART).validate_schema(values)
    except helm.HelmError:
        return True
    return False


def pod_templates(objects):
    """The name and the pod of everything that makes pods."""
    for found in objects:
        name = f"{found['kind']}/{found['metadata']['name']}"
        if found["kind"] == "Pod":
            yield name, found
        elif found["kind"] == "Deployment":
            yield name, found["spec"]["template"]
        elif found["kind"] == "ScaledJob":
            yield name, found["spec"]["jobTargetRef"]["template"]


def containers(pod):
    return pod["spec"].get("initContainers", []) + pod["spec"]["containers"]


def with_changed(values, path, change):
    """A copy of `values` in which `change` has been done to the map that holds the last step of `path`."""
    copied = copy.deepcopy(values)
    at = copied
    for step in path[:-1]:
        at = at.setdefault(step, {}) if isinstance(at, dict) else at[step]
    change(at, path[-1])
    return copied


def program_keys(*files):
    """The keys that config/*.toml declare, commented-out ones too."""
    texts = ((ROOT / "config" / file).read_text() for file in files)
    return {key for text in texts for key in re.findall(r"^(?:# )?([a-z0-9_]+) = ", text, re.MULTILINE)}
