"""A run: how far it is, how fast, what fails, and what its pool does meanwhile."""
from parts import FLEET, RATE, RUN, figure, graph, listing, new_dashboard, row, variable

TASKS = "diorama_run_tasks"
FAILING = "diorama_worker_tasks_total"


def run():
    chosen = variable("run", "Run", f"{TASKS}{{{FLEET}}}", multi=False)
    made = new_dashboard("diorama-run", "Diorama / Run",
                         "A run while it is active. When it has ended, `diorama status RUN` has its figures.", [chosen])
    for part in (now, course, pool, others):
        part(made)
    return made


def tasks(selector="", by=""):
    """The tasks in the states that `selector` leaves, by `by` if anything; coordinators report the same."""
    selector, labels = f"{RUN}{selector}", "namespace, run, pool, state"
    return f"sum{by} (max by ({labels}) ({TASKS}{{{selector}}}))"


def now(made):
    done, failed = ', state="done"', ', state="failed"'
    finished = ', state=~"done|failed"'
    made.with_panel(figure("Finished", "percentunit", f"{tasks(finished)} / {tasks()}", "Done or failed for good."))
    made.with_panel(figure("Done", "none", tasks(done)))
    made.with_panel(figure("Failed", "none", tasks(failed), "For good: what will be tried again is not in it.", warn_from=1))
    made.with_panel(figure("Not finished", "none", f"{tasks()} - {tasks(finished)}"))
    made.with_panel(figure("Pictures a second", "none", pace(), "Over the last 5 minutes."))
    made.with_panel(figure("Time left", "s", f"max(diorama_run_eta_seconds{{{RUN}}})", "At its present pace."))


def pace():
    return f"clamp_min(max by (run) (deriv({TASKS}{{{RUN}, state=\"done\"}}[5m])), 0)"


def course(made):
    made.with_row(row("Course"))
    made.with_panel(graph("Tasks by state", "none", [(tasks(by=" by (state)"), "{{state}}")], span=12, stacked=True))
    made.with_panel(graph("Failed, of those finished", "percentunit",
                          [(tasks(', state="failed"') + " / " + tasks(', state=~"done|failed"'), "failed")],
                          "Rising: pause the run and look at `diorama status RUN` before it burns through its last row.",
                          span=12))
    made.with_panel(graph("Pictures a second", "none", [(pace(), "{{run}}")], span=12))
    made.with_panel(graph("Pictures accepted, kept though no try was, and made again", "none",
                          [(f"max by (result) (diorama_run_acceptance{{{RUN}}})", "{{result}}")],
                          "0 where the run accepts everything.", span=12))
    made.with_panel(graph("Time left", "s", [(f"max by (run) (diorama_run_eta_seconds{{{RUN}}})", "{{run}}")],
                          "Should fall by a second each second.", span=12))


def pool(made):
    its = f"and on (namespace, pool) {TASKS}{{{RUN}}}"
    made.with_row(row("Its pool, with all of its runs"))
    made.with_panel(graph("Workers", "none", [(f"max by (pool) (diorama_workers{{{FLEET}}} {its})", "{{pool}}")]))
    made.with_panel(graph("Failed tasks a second, by code", "none",
                          [(f"sum by (outcome) (rate({FAILING}{{{FLEET}, outcome!=\"done\"}}{RATE}) {its})",
                            "{{outcome}}")], stacked=True))
    made.with_panel(graph("Shards to do", "short",
                          [(f"max by (pool) (diorama_pool_outstanding_shards{{{FLEET}}} {its})", "{{pool}}: all"),
                           (f"max by (pool) (diorama_pool_wanted_workers{{{FLEET}}} {its})",
                            "{{pool}}: of rounds that have begun")]))


def others(made):
    """All active runs, to choose one from."""
    of_all = f"max by (run, pool, state) ({TASKS}{{{FLEET}}})"
    in_state = f"max by (run, pool) ({TASKS}{{{FLEET}, state=\"%s\"}})"
    made.with_row(row("All active runs"))
    made.with_panel(listing("Active runs", [("Tasks", "none", f"sum by (run, pool) ({of_all})"),
                                            ("Done", "none", in_state % "done"),
                                            ("Failed", "none", in_state % "failed"),
                                            ("Time left", "s",
                                             f"max by (run, pool) (diorama_run_eta_seconds{{{FLEET}}})")],
                            ["run", "pool"]))
