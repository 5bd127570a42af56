"""Holds a coordinator's answers to its OpenAPI document, with schemathesis: a real fleet with a run that has pictures and
failures, and for each operation examples, bounds and what is made up. Fails for a 5xx and for any answer that the document
does not foretell.

    EXAMPLES    made-up requests an operation (default 40)
    SEED        which ones (default 1)
    BIN         where the programs are (default target/debug)
    URL         a coordinator that runs already, instead of one of its own
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "bench" / "fleet"))
from parts import Fleet  # noqa: E402

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,negative_data_rejection"


def submitted(fleet):
    """A run of two shards, with failures."""
    rows = pathlib.Path(fleet.path) / "rows.jsonl"
    rows.write_text("".join(json.dumps({"custom_id": f"t{n}", "prompt": "a duck", "method": "txt2img"}) + "\n" for n in range(12)))
    options = ["--shard-size", "6", "--max-rounds", "0", "--watch", "--json"]
    done = subprocess.run([str(fleet.bin / "diorama"), "submit", str(rows), *options], env=fleet.environment, capture_output=True, text=True)
    if done.returncode not in (0, 3):
        raise SystemExit(f"the run could not be made: {done.stderr}")


def hold(url):
    command = [pathlib.Path(sys.executable).with_name("schemathesis"), "run", f"{url}/openapi.json", "--url", url]
    command += ["--checks", CHECKS, "--phases", "examples,coverage,fuzzing", "--continue-on-failure", "--request-timeout", "15"]
    command += ["--max-examples", os.environ.get("EXAMPLES") or "40", "--seed", os.environ.get("SEED") or "1", "--no-color"]
    # Streams that never end; a log-in, which answers with a redirect of a browser.
    command += ["--exclude-path", "/v1/events", "--exclude-path", "/v1/runs/{run}/events"]
    command += ["--suppress-health-check", "all", "--warnings", "off"]
    # In a folder of its own: it keeps what it found beside where it runs.
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run(command, cwd=folder).returncode


def main():
    if url := os.environ.get("URL"):
        sys.exit(hold(url))
    with Fleet(os.environ.get("BIN") or ROOT / "target" / "debug") as fleet:
        fleet.serve()
        fleet.start("worker", "worker", "--engine", "synthetic", "--synthetic-fail-rate", "0.2", "--heartbeat", "1")
        submitted(fleet)
        sys.exit(hold(fleet.api))


main()
