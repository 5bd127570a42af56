"""Writes docs/benchmarks-fleet.md from docs/benchmarks-fleet.json, and from what `make soak` said last in
docs/benchmarks-soak.txt."""
import statistics

from parts import ROOT


def mib(number):
    return f"{number / 2**20:.0f} MiB"


def spread(values, digits=2):
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def verdict(met):
    return "met" if met else "**missed**"


def conditions(part):
    return f"*{part['at']}, commit {part['commit']}, {part['cores']} cores ({part['cpu']}); `{part['command']}`*"


def rate(m):
    return statistics.median(m["tasks"] / row["work"] for row in m["rounds"])


def throughput(m, results):
    rates = [m["tasks"] / row["work"] for row in m["rounds"]]
    names = sorted({name for row in m["rounds"] for name in row["cpu"]})
    per_task = {name: statistics.median(row["cpu"].get(name, 0) for row in m["rounds"]) / m["tasks"] * 1e6 for name in names}
    workers = sum(value for name, value in per_task.items() if name.startswith("worker"))
    shown = {"workers": workers} | {name: value for name, value in per_task.items() if not name.startswith("worker")}
    lines = [f"{m['tasks']:,} tasks, {m['shard']} a shard, {m['workers']} synthetic workers, every service on this machine. "
             "Submitted first; then from the start of the workers to the last task that Redis counts. Each task becomes a "
             "picture and a record in an archive with digests, a commit marker, a count. "
             + ("Every run was verified to the byte." if all(row["verified"] for row in m["rounds"])
                else "**A run was not whole when it was verified.**"), "",
             f"- **{spread(rates, 0)} tasks/s** (target 20,000: {verdict(statistics.median(rates) >= 20_000)}).",
             f"- Submission before it: {spread([m['tasks'] / row['submit'] for row in m['rounds']], 0)} rows/s; results and "
             f"summary after it: {spread([row['end'] for row in m['rounds']])} s.",
             "- Where the CPU time goes, µs a task: " + ", ".join(f"{name} {value:.1f}" for name, value in
                                                                 sorted(shown.items(), key=lambda pair: -pair[1])) +
             f"; together {sum(shown.values()):.1f}. The S3 server is the one of the tests and stands in for a store that "
             f"is elsewhere: without it {sum(shown.values()) - shown.get('S3 server', 0):.1f}."]
    return lines


def others(m, results):
    lines = ["Tasks that do nothing, acknowledged late, their result in Redis; as many processes as cores; confirms on. From the "
             "first `delay()`/`send()` to the last result.", "", "| | enqueue, tasks/s | whole, tasks/s | Diorama's is |",
             "|---|---|---|---|"]
    own = rate(results["throughput"]["measured"]) if "throughput" in results else None
    for name in ("celery", "dramatiq"):
        whole = m["tasks"] / m[name]["all"]
        ratio = f"**{own / whole:.1f}x** (target 5x: {verdict(own / whole >= 5)})" if own else ""
        lines.append(f"| {name.capitalize()} | {m['tasks'] / m[name]['enqueue']:.0f} | {whole:.0f} | {ratio} |")
    return lines


def submission(m, results):
    lines = ["| rows | seconds | rows/s | coordinator, peak (idle) | client, peak | target < 200 MB, flat |", "|---|---|---|---|---|---|"]
    for row in m:
        fine = max(row["coordinator"], row["client"]) < 200e6
        lines.append(f"| {row['rows']:,} | {row['seconds']:.1f} | {row['rows'] / row['seconds']:,.0f} | {mib(row['coordinator'])} "
                     f"({mib(row['idle'])}) | {mib(row['client'])} | {verdict(fine)} |")
    return lines


def latency(m, results):
    return [f"In a run of {m['tasks']:,} tasks, from the start of the command to the moment when no worker holds a shard "
            f"(target 5 s): pause **{spread(m['pause'])} s** ({verdict(max(m['pause']) < 5)}), cancel **{m['cancel']:.2f} s** "
            f"({verdict(m['cancel'] < 5)}). The cancelled run had an outcome for every task and its summary after "
            f"{m['cancel_ended']:.1f} s."]


def device(m, results):
    return [f"{m['pictures']} pictures of the bundled model by one worker with work queued: the device had a batch for "
            f"{m['device']:.1f} s of {m['wall']:.1f} s between the first attempt and the last commit: **{m['lost']:.2%}** lost "
            f"(target < 1 %: {verdict(m['lost'] < 0.01)})."]


def takeover(m, results):
    return [f"From SIGKILL of a worker until another one begins its shard: **{spread(m['seconds'])} s** (target < 30 s: "
            f"{verdict(max(m['seconds']) < 30)})."]


def ending(m, results):
    lines = ["By a coordinator that was started after the submission; services on the disk.", "",
             "| tasks | coordinator, peak until the last task | until the summary | results and summary, s | `diorama verify`, s | "
             "its peak | bytes verified | problems |", "|---|---|---|---|---|---|---|---|"]
    for row in m:
        lines.append(f"| {row['tasks']:,} | {mib(row['during'])} | {mib(row['coordinator'])} | {row['end']:.1f} | "
                     f"{row['verify']:.1f} | {mib(row['verify_peak'])} | {row['bytes'] / 2**30:.1f} GiB | {row['problems']} |")
    return lines


def scale(m, results):
    lines = ["The real service and the real API over a store in memory that takes a while for each request, by a clock that "
             "stands still while anybody works. So requests and waiting are exact, whatever else this machine does; the CPU "
             "beside them is that of one core (a run's markers are rendered in it, too), and the sum is what one core that "
             "does nothing else would need at most. Nothing here goes over a network.", "",
             "| what | measured | target | |", "|---|---|---|---|"]
    return lines + [f"| {row['what']} | {row['measured']} | {row['target']} | {verdict(row['met'])} |" for row in m]


def requests(m, results):
    lines = [f"Counted by the S3 server of the tests over {m['seconds']} s each, all processes together, with the real services. "
             "The worker is in the middle of a shard, so that none of its requests are the shard's.", "",
             "| | requests/s | target | |", "|---|---|---|---|"]
    for name, what, bound in (("nothing", "a coordinator without runs", None), ("idle", "and an idle run", 0.05),
                              ("paused", "and a paused run", 0.05), ("working", "and a working worker", 0.1 + 0.05)):
        target = f"< {bound:.2f}" if bound else ""
        lines.append(f"| {what} | {m[name]:.3f} | {target} | {verdict(m[name] < bound) if bound else ''} |")
    return lines


PARTS = {"scale": ("Scale", scale), "requests": ("Requests beside the shards'", requests), "throughput": ("Tasks through the whole path", throughput), "others": ("Celery and Dramatiq beside it", others),
         "submission": ("Submission", submission), "latency": ("Pause and cancel", latency),
         "device": ("Device time lost to job machinery", device), "takeover": ("After a kill", takeover),
         "ending": ("The end of a run", ending)}


def write(results):
    lines = ["# Benchmarks of the fleet", "",
             "Written by `make bench-fleet` (`scripts/bench/fleet/`); do not edit. RabbitMQ, Redis, the S3 server of the tests, "
             "coordinator, workers and client share one machine; what the services keep lies in memory (tmpfs), because a fleet's "
             "services have disks of their own. Raw figures: [benchmarks-fleet.json](benchmarks-fleet.json).", ""]
    for name, (title, part) in PARTS.items():
        if name in results:
            lines += [f"## {title}", "", *part(results[name]["measured"], results), "", conditions(results[name]), ""]
    soak = ROOT / "docs/benchmarks-soak.txt"
    if soak.exists():
        lines += ["## The soak", "", "A million synthetic tasks while a random part of the fleet is killed, frozen or emptied every "
                  "three seconds (docs/operations.md). The `model_error`s are those that the synthetic engine makes on purpose.", "",
                  "```", soak.read_text().strip(), "```", ""]
    (ROOT / "docs/benchmarks-fleet.md").write_text("\n".join(lines).rstrip() + "\n")
