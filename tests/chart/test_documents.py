"""The chart's README is made of its values, and the documents' commands name what there is."""

import re
import subprocess
import sys

import yaml

from chart import CHART, ROOT, example, render

GUIDE = (ROOT / "docs" / "kubernetes.md").read_text()
README = (CHART / "README.md").read_text()


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def installed():
    """What the walk-through installs, out of the values that it prints."""
    (values,) = blocks(GUIDE, "yaml")
    return yaml.safe_load(values), render(yaml.safe_load(values), release="diorama", namespace="diorama")


def test_the_readme_is_made_of_the_values():
    subprocess.run([sys.executable, ROOT / "scripts" / "chart-readme", "--check"], check=True)


def test_every_object_that_a_command_names_is_one_of_the_release():
    _, objects = installed()
    kinds = {"svc": "Service", "deployment": "Deployment"}
    there = {(found["kind"], found["metadata"]["name"]) for found in objects}
    named = re.findall(r"-n diorama [a-z-]+ (svc|deployment)/([a-z-]+)", GUIDE)
    assert len(named) == 2 and {(kinds[kind], name) for kind, name in named} <= there


def test_every_secret_and_key_that_the_values_name_is_made_by_a_command():
    _, objects = installed()
    made = {}
    for name, keys in re.findall(r"create secret generic ([a-z-]+)((?:.|\\\n)*?)\n(?!    )", GUIDE):
        made[name] = set(re.findall(r"--from-(?:literal|file)=([a-z.-]+)", keys))

    def wanted(found):
        if isinstance(found, dict):
            if "secret" in found and isinstance(found["secret"], dict):
                secret = found["secret"]
                yield from ((secret.get("name", secret.get("secretName")), item["key"]) for item in secret["items"])
            if "secretKeyRef" in found:
                yield found["secretKeyRef"]["name"], found["secretKeyRef"]["key"]
            found = list(found.values())
        if isinstance(found, list):
            for inner in found:
                yield from wanted(inner)

    asked = set(wanted(objects))
    assert asked and all(key in made[name] for name, key in asked)


def test_every_command_of_diorama_and_every_file_is_there():
    commands = set(re.findall(r"^diorama ([a-z]+)", (ROOT / "docs" / "cli.md").read_text(), re.MULTILINE))
    commands |= {"watch", "pause", "resume", "cancel", "delete", "reconcile", "model"}
    text = "\n".join(blocks(GUIDE, "") + blocks(README, ""))
    assert set(re.findall(r"^(?:.*-- )?diorama ([a-z]+)", text, re.MULTILINE)) <= commands
    for document, home in ((GUIDE, ROOT / "docs"), (README, CHART)):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document):
            assert (home / target).exists(), target
    for command in re.findall(r"^helm (?:install|upgrade) diorama (\S+)", GUIDE + README, re.MULTILINE):
        assert (ROOT / command / "Chart.yaml").exists()


def test_every_value_that_the_documents_name_is_one():
    table = set(re.findall(r"^\| `([A-Za-z0-9.]+)` \|", README, re.MULTILINE))
    families = {path.split(".")[0] for path in table}
    named = {path for path in re.findall(r"`([a-zA-Z0-9]+(?:\.[a-zA-Z0-9]+)+)`", GUIDE) if path.split(".")[0] in families}
    named = {path for path in named if not path.startswith("workers.") and not path.endswith(".toml") and path != "values.yaml"}
    settings = {"coordinator.config.window"}
    assert named and named - settings <= table


def test_the_example_for_kind_is_the_walk_through_with_one_coordinator():
    values, _ = installed()
    assert values["workers"] == example("kind")["workers"]
