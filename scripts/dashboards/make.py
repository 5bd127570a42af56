"""Writes helm/diorama/dashboards/*.json; with --check it writes nothing, and fails where one of them is stale."""
import argparse
import json
import pathlib
import sys

from fleet import fleet
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from run import run
from worker import worker

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "helm/diorama/dashboards"
DASHBOARDS = {"fleet": fleet, "run": run, "worker": worker}


def encode(dashboard):
    return json.dumps(dashboard, cls=JSONEncoder, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def differences(sent, read, path="dashboard"):
    """Where Grafana's schema loses or changes something of what we send: a key that it does not know. What it adds are its
    defaults."""
    if isinstance(sent, dict) and isinstance(read, dict):
        for key, value in sent.items():
            yield from differences(value, read.get(key), f"{path}.{key}")
    elif isinstance(sent, list) and isinstance(read, list) and len(sent) == len(read):
        for index, (one, other) in enumerate(zip(sent, read)):
            yield from differences(one, other, f"{path}[{index}]")
    elif sent != read:
        yield path


def numbered(dashboard):
    """Each panel with a number of its own, by which links name it."""
    for number, panel in enumerate(dashboard.panels, start=1):
        panel.id_val = number
    return dashboard


def text_of(build):
    text = encode(numbered(build().build()))
    sent = json.loads(text)
    unknown = list(differences(sent, json.loads(encode(Dashboard.from_json(sent)))))
    if unknown:
        raise SystemExit(f"Grafana's schema does not know: {', '.join(unknown)}")
    return text


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--check", action="store_true", help="only say which files are stale")
    check = arguments.parse_args().check
    register_default_plugins()
    wanted = {FOLDER / f"{name}.json": text_of(build) for name, build in DASHBOARDS.items()}
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    stale += [path for path in FOLDER.glob("*.json") if path not in wanted]
    if check and stale:
        names = ", ".join(str(path.relative_to(FOLDER.parents[2])) for path in stale)
        sys.exit(f"stale: {names}; run make dashboards")
    for path, text in wanted.items():
        if not check:
            FOLDER.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


if __name__ == "__main__":
    main()
