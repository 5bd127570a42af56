"""Workers: which of them is slow, fails, restarts or is short of something."""
from parts import FLEET, POOL, RATE, busy, graph, listing, new_dashboard, quantile, row, variable

JOIN = "on (namespace, job, instance)"
INFO = f"diorama_worker_info{{{POOL}, worker=~\"$worker\"}}"


def named(expression):
    """With the name of the worker, which only its info has."""
    return f"{expression} * {JOIN} group_left (worker) {INFO}"


def worker():
    pool = variable("pool", "Pool", f"diorama_worker_info{{{FLEET}}}")
    each = variable("worker", "Worker", f"diorama_worker_info{{{POOL}}}")
    made = new_dashboard("diorama-worker", "Diorama / Worker", "Workers side by side.", [pool, each])
    for part in (who, work, steps, references, machine):
        part(made)
    return made


def rate(metric, selector=POOL):
    return f"rate({metric}{{{selector}}}{RATE})"


def who(made):
    labels = "worker, pool, model, device, version, instance"
    about = f"{INFO} * {JOIN} group_left (version) diorama_build_info{{{FLEET}}}"
    columns = [(None, "none", about),
               ("Running for", "s", f"max by (worker, instance) (time() - {named(f'process_start_time_seconds{{{FLEET}}}')})"),
               ("Model loaded in", "s", f"max by (worker, instance) ({named(f'diorama_worker_model_load_seconds{{{POOL}}}')})"),
               ("Restarts in an hour", "none",
                f"max by (worker, instance) ({named(f'changes(process_start_time_seconds{{{FLEET}}}[1h])')})")]
    made.with_panel(listing("Workers", columns, labels.split(", ")))


def work(made):
    tasks = "diorama_worker_tasks_total"
    by_worker = "sum by (worker) ({})".format
    made.with_row(row("Work"))
    made.with_panel(graph("Pictures a second", "none",
                          [(by_worker(named(rate(tasks, f'{POOL}, outcome="done"'))), "{{worker}}")],
                          "One far below the others: its device, or its share of the machine."))
    made.with_panel(graph("Failed tasks a second", "none",
                          [("sum by (worker, outcome) ({})".format(named(rate(tasks, f'{POOL}, outcome!="done"'))),
                            "{{worker}}: {{outcome}}")],
                          "Of one worker only: its machine, not the rows."))
    made.with_panel(graph("Share of time in which the device is busy", "percentunit",
                          [(by_worker(named(busy(POOL))), "{{worker}}")],
                          "Over 15 minutes, because a shard's seconds are counted when it is finished.", most=1))
    made.with_panel(graph("Shards in hand", "none",
                          [(by_worker(named(f"diorama_worker_held_shards{{{POOL}}}")), "{{worker}}")],
                          "Two, where there is work. 0 while shards wait: its log says why."))
    made.with_panel(graph("Deliveries that do not end with a commit, a minute", "none",
                          [("60 * sum by (worker, ending) ({})".format(
                              named(rate("diorama_worker_shards_total", f'{POOL}, ending!="committed"'))),
                            "{{worker}}: {{ending}}")]))
    made.with_panel(graph("Pictures made again, and kept though not accepted, a minute", "none",
                          [("60 * " + by_worker(named(rate("diorama_worker_tries_total"))), "{{worker}}: made again"),
                           ("60 * " + by_worker(named(rate("diorama_worker_accepted_total", f'{POOL}, result="kept"'))),
                            "{{worker}}: kept")],
                          "Of runs with a condition. Most pictures are made again: the condition asks much of the model."))
    made.with_panel(graph("Bytes to the object store a second", "Bps",
                          [(by_worker(named(rate("diorama_worker_archive_bytes_total"))), "{{worker}}")]))


def steps(made):
    metric = "diorama_worker_step_seconds"
    mean = (f"sum by (worker, step) ({named(rate(f'{metric}_sum'))})"
            f" / sum by (worker, step) ({named(rate(f'{metric}_count'))})")
    made.with_row(row("Steps of a shard"))
    made.with_panel(graph("Mean", "s", [(mean, "{{worker}}: {{step}}")], span=12))
    made.with_panel(graph("Slowest twentieth, all of them together", "s",
                          [(quantile(0.95, ["step"], metric, POOL), "{{step}}")], span=12))


def references(made):
    metric = "diorama_worker_references_total"
    cached = rate(metric, f'{POOL}, from="cache"')
    made.with_row(row("References"))
    made.with_panel(graph("References a second, by where they come from", "none",
                          [(f"sum by (from) ({named(rate(metric))})", "{{from}}")], span=12, stacked=True))
    made.with_panel(graph("Share that was in the cache", "percentunit",
                          [(f"sum by (worker) ({named(cached)}) / sum by (worker) ({named(rate(metric))})", "{{worker}}")],
                          "Low with few different references: the cache is too small, or its folder is not kept.", span=12))


def machine(made):
    made.with_row(row("Machine"))
    made.with_panel(graph("Memory", "bytes", [(named(f"process_resident_memory_bytes{{{FLEET}}}"), "{{worker}}")]))
    made.with_panel(graph("CPU cores", "none", [(named(rate("process_cpu_seconds_total", FLEET)), "{{worker}}")],
                          "At the number of cores that it has: too few for its device."))
    made.with_panel(graph("Threads", "none", [(named(f"process_threads{{{FLEET}}}"), "{{worker}}")], span=12))
    made.with_panel(graph("Open files, of those allowed", "percentunit",
                          [(named(f"(process_open_fds{{{FLEET}}} / process_max_fds{{{FLEET}}})"), "{{worker}}")], span=12))
