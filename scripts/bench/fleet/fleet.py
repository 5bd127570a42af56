#!/usr/bin/env python3
"""Measures a whole fleet on this machine: private RabbitMQ, Redis and S3, coordinator, synthetic workers. Writes
docs/benchmarks-fleet.json and docs/benchmarks-fleet.md. Run it by `make bench-fleet`, on a machine that does nothing else.
"""
import argparse
import datetime
import json
import os
import pathlib
import platform
import subprocess
import sys
import time

import report
from parts import ROOT, Fleet, manifest, memory

HERE = pathlib.Path(__file__).resolve().parent
FLEET_SPEC = ["--format", "webdataset", "--shard-size", 64]


def say(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


def build():
    flags = ["--locked", "--release"]
    subprocess.run(["cargo", "build", *flags, "-p", "diorama"], cwd=ROOT, check=True)
    subprocess.run(["cargo", "build", *flags, "-p", "diorama-tests", "--bin", "diorama-services", "--bin", "diorama-s3"],
                   cwd=ROOT, check=True)
    return ROOT / "target/release"


def throughput(options):
    """Tasks through the whole path: submitted first, so that work is queued; then by so many workers."""
    rounds = []
    for _ in range(options.rounds):
        with Fleet(options.bin) as fleet:
            fleet.serve()
            rows = manifest(fleet.path / "rows.jsonl", options.tasks)
            started = time.monotonic()
            submitted = fleet.client("submit", rows, *FLEET_SPEC)
            for number in range(options.workers):
                fleet.synthetic(f"worker-{number}")
            before = fleet.cpu()
            run = submitted["json"]["run"]
            working = time.monotonic()
            fleet.until("every task is done", lambda: fleet.status(run).get("done") == options.tasks, 3600)
            done = time.monotonic()
            after = fleet.cpu()
            fleet.ended(run)
            row = {"submit": submitted["seconds"], "work": done - working, "end": time.monotonic() - done,
                   "all": time.monotonic() - started,
                   "cpu": {name: after[name] - before.get(name, 0) for name in after},
                   "verified": fleet.client("verify", run)["json"]["problem_count"] == 0}
            say(f"{options.tasks} tasks in {row['work']:.1f} s: {options.tasks / row['work']:.0f}/s; {row['cpu']}")
            rounds.append(row)
    return {"tasks": options.tasks, "workers": options.workers, "shard": 64, "rounds": rounds}


def others(options):
    """Celery and Dramatiq on the same broker and Redis, as many processes as there are cores."""
    result = {"tasks": options.other_tasks}
    processes = os.cpu_count()
    for which in ("celery", "dramatiq"):
        with Fleet(options.bin) as fleet:
            environment = dict(fleet.environment, OTHER_QUEUE=which, PYTHONDONTWRITEBYTECODE="1")
            command = {"celery": ["celery", "-A", "other_queues", "worker", "-c", str(processes), "-l", "ERROR", "--without-gossip",
                                  "--without-mingle", "--without-heartbeat"],
                       "dramatiq": ["dramatiq", "other_queues:broker", "-p", str(processes), "-t", "8"]}[which]
            log = open(fleet.path / "other.log", "ab")
            worker = subprocess.Popen([sys.executable, "-m", *command], cwd=HERE, env=environment, stdout=log, stderr=log)
            try:
                warm = [sys.executable, "other_queues.py", "50"]
                subprocess.run(warm, cwd=HERE, env=environment, check=True, stdout=subprocess.DEVNULL, timeout=120)
                fresh = "import os,redis; redis.Redis.from_url(os.environ['DIORAMA_REDIS_URL']).flushall()"
                subprocess.run([sys.executable, "-c", fresh], env=environment, check=True)
                answer = subprocess.run([sys.executable, "other_queues.py", str(options.other_tasks)], cwd=HERE,
                                        env=environment, check=True, stdout=subprocess.PIPE, text=True, timeout=600)
            finally:
                worker.terminate()
                worker.wait()
            result[which] = json.loads(answer.stdout)
            say(f"{which}: {options.other_tasks / result[which]['all']:.0f} tasks/s")
    return result


def submission(options):
    """Rows a second and memory of client and coordinator, from manifests of growing size."""
    result = []
    for rows in options.submit_rows:
        with Fleet(options.bin) as fleet:
            fleet.serve()
            path = manifest(fleet.path / "rows.jsonl", rows)
            idle = memory(fleet.parts["coordinator"].pid)
            submitted = fleet.client("submit", path, *FLEET_SPEC)
            row = {"rows": rows, "seconds": submitted["seconds"], "client": submitted["peak"], "idle": idle,
                   "coordinator": memory(fleet.parts["coordinator"].pid), "bytes": path.stat().st_size}
            say(f"{rows} rows in {row['seconds']:.1f} s, coordinator {row['coordinator'] >> 20} MiB, client {row['client'] >> 20} MiB")
            result.append(row)
    return result


def latency(options):
    """From `pause` and `cancel` until no worker holds a shard, in a run of many tasks; and until a cancelled run has ended."""
    with Fleet(options.bin) as fleet:
        fleet.serve()
        rows = manifest(fleet.path / "rows.jsonl", options.latency_tasks)
        run = fleet.client("submit", rows, *FLEET_SPEC)["json"]["run"]
        for number in range(options.workers):
            fleet.synthetic(f"worker-{number}", latency=200, batch=4)
        result = {"tasks": options.latency_tasks, "pause": [], "cancel": None}
        let_go = lambda: fleet.status(run)["shards_running"] == 0
        busy = lambda: fleet.status(run)["shards_running"] >= options.workers
        for _ in range(3):
            fleet.until("the workers work", busy)
            started = time.monotonic()
            fleet.client("pause", run)
            fleet.until("the workers let go", let_go, pause=0.01)
            result["pause"].append(time.monotonic() - started)
            fleet.client("resume", run)
        fleet.until("the workers work", busy)
        started = time.monotonic()
        fleet.client("cancel", run)
        fleet.until("the workers let go", let_go, pause=0.01)
        result["cancel"] = time.monotonic() - started
        fleet.ended(run)
        result["cancel_ended"] = time.monotonic() - started
        say(f"pause {result['pause']}, cancel {result['cancel']:.2f} s, ended after {result['cancel_ended']:.1f} s")
        return result


def device(options):
    """The share of a worker's time in which its device had no batch, with the bundled model and work queued."""
    with Fleet(options.bin) as fleet:
        fleet.serve()
        source = ROOT / "examples/demo/manifest.jsonl"
        lines = [json.loads(line) for line in source.read_text().splitlines() if line.strip()]
        path = fleet.path / "rows.jsonl"
        with open(path, "w", encoding="utf-8") as file:
            for number in range(options.device_pictures):
                row = dict(lines[number % len(lines)], custom_id=f"row-{number}", seed=number)
                row["reference"] = str((source.parent / row["reference"]).resolve())
                os.makedirs(fleet.path / "references", exist_ok=True)
                link = fleet.path / "references" / pathlib.Path(row["reference"]).name
                if not link.exists():
                    link.write_bytes(pathlib.Path(row["reference"]).read_bytes())
                row["reference"] = f"references/{link.name}"
                file.write(json.dumps(row) + "\n")
        submitted = fleet.client("submit", path, "--shard-size", 16, "--format", "webdataset")
        run = submitted["json"]["run"]
        fleet.worker("worker", "--model", ROOT / "models/demo", "--batch-size", 8)
        summary = fleet.ended(run)
        wall, busy = summary["wall_seconds"], summary["device_seconds"]
        say(f"{options.device_pictures} pictures: device {busy:.1f} s of {wall:.1f} s")
        return {"pictures": options.device_pictures, "wall": wall, "device": busy, "lost": 1 - busy / wall}


def takeover(options):
    """From SIGKILL of a worker until its shard is begun by another one: their journals say so."""
    seconds = []
    for _ in range(options.kills):
        with Fleet(options.bin) as fleet:
            fleet.serve()
            rows = manifest(fleet.path / "rows.jsonl", 64 * 40)
            run = fleet.client("submit", rows, *FLEET_SPEC)["json"]["run"]
            fleet.synthetic("first", latency=500, batch=4)
            store = pathlib.Path(fleet.environment["S3_FOLDER"]) / "runs" / run / "journal"

            def begun(worker):
                """The shards of which an attempt of this worker has noted anything."""
                found = set()
                for file in store.glob("*.json"):
                    try:
                        text = file.read_text()
                    except OSError:
                        continue    # committed meanwhile
                    if worker in text:
                        found.add(file.name.partition(".")[0])
                return found

            held = fleet.until("the first worker works", lambda: begun('"first"'))
            fleet.synthetic("second", latency=500, batch=4)
            fleet.until("the second worker works", lambda: begun('"second"'))
            started = time.monotonic()
            fleet.kill("first")
            fleet.until("the shard runs elsewhere", lambda: held & begun('"second"'), pause=0.01)
            seconds.append(time.monotonic() - started)
            say(f"begun again after {seconds[-1]:.2f} s")
    return {"seconds": seconds}


def ending(options):
    """Memory of the coordinator that brings a run to its end, and of a verification, by the size of the run."""
    result = []
    for tasks in options.end_tasks:
        # What millions of pictures take fits no memory: the services are on the disk here.
        with Fleet(options.bin, in_memory=False) as fleet:
            fleet.serve()
            rows = manifest(fleet.path / "rows.jsonl", tasks)
            run = fleet.client("submit", rows, *FLEET_SPEC)["json"]["run"]
            rows.unlink()
            # The submission's own peak is another part's.
            fleet.end("coordinator")
            fleet.serve()
            started = time.monotonic()
            for number in range(options.workers):
                fleet.synthetic(f"worker-{number}")
            fleet.until("every task is done", lambda: fleet.status(run).get("done") == tasks, 7200, pause=1)
            worked, during = time.monotonic() - started, memory(fleet.parts["coordinator"].pid)
            fleet.ended(run)
            row = {"tasks": tasks, "work": worked, "end": time.monotonic() - started - worked, "during": during,
                   "coordinator": memory(fleet.parts["coordinator"].pid)}
            verified = fleet.client("verify", run)
            row |= {"verify": verified["seconds"], "verify_peak": verified["peak"],
                    "problems": verified["json"]["problem_count"], "bytes": verified["json"]["bytes"]}
            say(f"{tasks} tasks: coordinator {row['coordinator'] >> 20} MiB at its end ({during >> 20} MiB before), verified in "
                f"{row['verify']:.1f} s with {row['verify_peak'] >> 20} MiB")
            result.append(row)
    return result


def scale(options):
    """Requests and waiting of the real service and API where runs are large or many: crates/coordinator/benches/scale."""
    command = [options.scale_bench] if options.scale_bench else \
        ["cargo", "bench", "--locked", "-p", "diorama-coordinator", "--bench", "scale", "--"]
    answer = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if not answer.stdout.strip():
        raise SystemExit("the benchmark of scale ended without its figures")
    return json.loads(answer.stdout.strip().splitlines()[-1])


def requests(options):
    """Requests to the S3 server beside those of shards: of an idle run, a paused one, and one whose shard a worker is at."""
    with Fleet(options.bin) as fleet:
        fleet.serve()
        rows = manifest(fleet.path / "rows.jsonl", 64 * 100)

        def rate():
            # What a submission or the taking of a shard leads to is over by then.
            time.sleep(10)
            before = fleet.requests()
            time.sleep(options.seconds)
            return (fleet.requests() - before) / options.seconds

        result = {"seconds": options.seconds, "nothing": rate()}
        run = fleet.client("submit", rows, *FLEET_SPEC)["json"]["run"]
        result["idle"] = rate()
        # One shard takes it longer than the measurement.
        fleet.synthetic("worker", latency=min(60_000, 1000 * (options.seconds + 60) // 64), batch=1)
        fleet.until("the worker works", lambda: fleet.status(run)["shards_running"])
        result["working"] = rate()
        assert fleet.status(run)["done"] == 0, "no shard was committed meanwhile"
        fleet.client("pause", run)
        fleet.until("the worker lets go", lambda: fleet.status(run)["shards_running"] == 0)
        result["paused"] = rate()
        say(", ".join(f"{name} {value:.3f}/s" for name, value in result.items() if name != "seconds"))
        return result


PARTS = {"scale": scale, "requests": requests, "throughput": throughput, "others": others, "submission": submission, "latency": latency, "device": device,
         "takeover": takeover, "ending": ending}


def processor():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default=",".join(PARTS), help="which of " + ", ".join(PARTS))
    parser.add_argument("--tasks", type=int, default=200_000)
    parser.add_argument("--other-tasks", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--submit-rows", type=lambda text: [int(part) for part in text.split(",")],
                        default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--latency-tasks", type=int, default=1_000_000)
    parser.add_argument("--device-pictures", type=int, default=256)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--end-tasks", type=lambda text: [int(part) for part in text.split(",")],
                        default=[100_000, 1_000_000])
    parser.add_argument("--seconds", type=int, default=300, help="how long requests are counted")
    parser.add_argument("--scale-bench", help="the built benchmark of scale; built where it is not given")
    parser.add_argument("--bin", help="a folder of built programs; built in release where it is not given")
    options = parser.parse_args()
    if set(options.parts.split(",")) != {"scale"}:
        options.bin = pathlib.Path(options.bin or build()).absolute()
    path = ROOT / "docs/benchmarks-fleet.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout.strip()
    for name in options.parts.split(","):
        say(name)
        measured = PARTS[name](options)
        results[name] = {"measured": measured, "at": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
                         "commit": commit, "cores": os.cpu_count(), "cpu": processor(),
                         "command": "make bench-fleet" + (f' BENCH="{" ".join(sys.argv[1:])}"' if sys.argv[1:] else "")}
        path.write_text(json.dumps(results, indent=1) + "\n")
    report.write(results)


if __name__ == "__main__":
    main()
