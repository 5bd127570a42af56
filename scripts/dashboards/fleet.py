"""The fleet: is it at work, is anything wrong, and where."""
from parts import FLEET, POOL, RATE, busy, figure, graph, listing, new_dashboard, of_pools, quantile, row, timeline, variable

TASKS = "diorama_worker_tasks_total"
REQUESTS = "diorama_backend_request_seconds"
HTTP = "diorama_http_request_seconds"
COORDINATORS = f"on (namespace, job, instance) diorama_coordinator_leader{{{FLEET}}}"


def fleet():
    pool = variable("pool", "Pool", "diorama_active_runs{namespace=~\"$namespace\"}")
    made = new_dashboard("diorama-fleet", "Diorama / Fleet", "Coordinators, pools and services of a fleet.", [pool])
    for part in (now, work, shards, services, coordinators):
        part(made)
    return made


def now(made):
    done = f"sum(rate({TASKS}{{{POOL}, outcome=\"done\"}}{RATE}))"
    failed = f"sum(increase({TASKS}{{{POOL}, outcome!=\"done\"}}[15m])) / sum(increase({TASKS}{{{POOL}}}[15m]))"
    made.with_panel(figure("Pictures a second", "none", done))
    made.with_panel(figure("Tasks that fail", "percentunit", failed, "Of those finished in the last 15 minutes.",
                           warn_from=0.05))
    made.with_panel(figure("Shards to do", "short", f"sum({of_pools('diorama_pool_outstanding_shards')})",
                           "Not committed yet, of runs that are running; a paused run's shards are not counted."))
    made.with_panel(figure("Time left", "s", f"max(diorama_run_eta_seconds{{{POOL}}})",
                           "Until the last of the active runs is done, at its present pace."))
    made.with_panel(figure("Workers", "none", f"sum({of_pools('diorama_workers')})", "With a recent heartbeat."))
    made.with_panel(figure("Active runs", "none", f"sum({of_pools('diorama_active_runs')})",
                           "Running, paused or ending."))
    alerts = 'ALERTS{alertname=~"Diorama.+", alertstate="firing", namespace=~"$namespace"}'
    made.with_panel(listing("Alerts that fire", [(None, "none", alerts)],
                            ["alertname", "severity", "pool", "service", "instance"],
                            "docs/operations.md says for each what to do.", span=12, height=6, empty="None"))
    leads = f"diorama_coordinator_leader{{{FLEET}}}"
    made.with_panel(timeline("Coordinators", [(leads, "{{instance}}")],
                             {"1": ("leads", "green"), "0": ("stands by", "blue")},
                             "Exactly one leads. A gap: Prometheus did not reach it."))


def work(made):
    made.with_row(row("Work"))
    made.with_panel(graph("Pictures a second", "none",
                          [(f"sum by (pool) (rate({TASKS}{{{POOL}, outcome=\"done\"}}{RATE}))", "{{pool}}")]))
    made.with_panel(graph("Failed tasks a second, by code", "none",
                          [(f"sum by (outcome) (rate({TASKS}{{{POOL}, outcome!=\"done\"}}{RATE}))", "{{outcome}}")],
                          "`diorama status RUN` shows examples of each code.", stacked=True))
    made.with_panel(graph("Share of time in which devices are busy", "percentunit",
                          [(f"avg by (pool) ({busy(POOL)})", "{{pool}}")],
                          "Over 15 minutes, because a shard's seconds are counted when it is finished. Below 1 while shards "
                          "wait: look at the steps below.", most=1))
    made.with_panel(graph("Shards to do", "short",
                          [(of_pools("diorama_pool_outstanding_shards"), "{{pool}}: all"),
                           (of_pools("diorama_pool_wanted_workers"), "{{pool}}: of rounds that have begun")],
                          "As many workers as the latter says would each find a shard to make."))
    made.with_panel(graph("Workers", "none", [(of_pools("diorama_workers"), "{{pool}}")], "With a recent heartbeat."))
    made.with_panel(graph("Time left", "s", [(f"max by (pool) (diorama_run_eta_seconds{{{POOL}}})", "{{pool}}")],
                          "Until the last active run of each pool is done."))


def shards(made):
    steps = "diorama_worker_step_seconds"
    made.with_row(row("Shards"))
    made.with_panel(graph("In RabbitMQ", "none", [(of_pools("diorama_queue_ready_shards"), "{{pool}}: waiting"),
                                                  (of_pools("diorama_queue_dead_shards"), "{{pool}}: dead letters")],
                          "The coordinator keeps the queue short. Dead letters that stay: nobody drives the pool's runs."))
    made.with_panel(graph("Deliveries by how they end, a minute", "none",
                          [(f"60 * sum by (ending) (rate(diorama_worker_shards_total{{{POOL}}}{RATE}))", "{{ending}}")],
                          stacked=True))
    made.with_panel(graph("Slowest twentieth of the steps", "s",
                          [(quantile(0.95, ["step"], steps, POOL), "{{step}}")],
                          "Fetch and commit are the object store; generate has the wait for the shard before in it."))


def services(made):
    made.with_row(row("Services"))
    made.with_panel(graph("Requests a second", "reqps",
                          [(f"sum by (service) (rate({REQUESTS}_count{{{FLEET}}}{RATE}))", "{{service}}")]))
    made.with_panel(graph("Requests a second that do not end with ok", "reqps",
                          [(f"sum by (service, outcome) (rate({REQUESTS}_count{{{FLEET}, outcome!=\"ok\"}}{RATE}))",
                            "{{service}}: {{outcome}}")],
                          "not_found and conflict are answers like any other; transient and permanent are trouble."))
    made.with_panel(graph("Slowest twentieth of the requests", "s",
                          [(quantile(0.95, ["service", "operation"], REQUESTS, FLEET), "{{service}} {{operation}}")]))
    made.with_panel(graph("Bytes to the object store a second", "Bps",
                          [(f"sum by (pool) (rate(diorama_worker_archive_bytes_total{{{POOL}}}{RATE}))", "{{pool}}")],
                          "Of committed archives.", span=24))


def coordinators(made):
    ours = f"and {COORDINATORS}"
    made.with_row(row("Coordinators"))
    made.with_panel(graph("API requests a second, by status", "reqps",
                          [(f"sum by (code) (rate({HTTP}_count{{{FLEET}}}{RATE}))", "{{code}}")], stacked=True))
    made.with_panel(graph("Slowest twentieth of the API's answers", "s",
                          [(quantile(0.95, ["method", "route"], HTTP, FLEET), "{{method}} {{route}}")]))
    made.with_panel(listing("Versions", [("Processes", "none",
                                          f"count by (version, job) (diorama_build_info{{{FLEET}}})")],
                            ["version", "job"], span=8))
    made.with_panel(graph("CPU cores", "none",
                          [(f"rate(process_cpu_seconds_total{{{FLEET}}}{RATE}) {ours}", "{{instance}}")]))
    made.with_panel(graph("Memory", "bytes",
                          [(f"process_resident_memory_bytes{{{FLEET}}} {ours}", "{{instance}}")]))
    made.with_panel(graph("Open files, of those allowed", "percentunit",
                          [(f"process_open_fds{{{FLEET}}} / process_max_fds{{{FLEET}}} {ours}", "{{instance}}")]))
