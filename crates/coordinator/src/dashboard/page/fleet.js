// The fleet: how fast it is, what is wrong, its pools, runs and workers, and what it made last.

import * as api from "./api.js";
import { pictureCard } from "./cards.js";
import { throughputChart } from "./charts.js";
import { figure, h, keyed, link, pointing, put, set, show, text } from "./dom.js";
import { each, feed } from "./feed.js";
import { count, decimal } from "./format.js";
import { follow, live, upToNow } from "./live.js";
import { figures, rateNow } from "./progress.js";
import { runCard } from "./runcard.js";
import { href, nameOf } from "./words.js";
import { workersTable } from "./workers.js";

function problemItem() {
  const [what, advice, where] = [h("b"), h("span"), h("span")];
  const element = h("li", { class: "problem" }, what, " ", advice, " ", where);
  element.update = (problem) => {
    set(element, "data-problem", problem.code);
    text(what, problem.what);
    // Commands stand between backticks.
    put(advice, problem.advice, () => String(problem.advice ?? "").split("`").map((part, at) => (at % 2 ? h("code", {}, part) : part)));
    put(where, [problem.run], () => problem.run && link(href.run(problem.run), "Open the run"));
  };
  return element;
}

const POOL = [["ready", "in the queue", "Shards that wait in its queue"], ["outstanding", "outstanding", "Shards of running runs that are not committed"],
  ["wanted", "workers wanted", "How many workers could each have a shard"], ["workers", "workers", "Workers with a recent heartbeat"], ["runs", "runs", "Runs that have not ended"], ["dead", "dead letters", "Shards that no worker could run and the coordinator must decide about"]];

function poolItem() {
  const [name, numbers] = [h("h3"), figures(POOL)];
  const element = h("li", { class: "pool" }, name, numbers.element);
  element.update = (pool) => {
    set(element, "data-pool", pool.pool);
    text(name, pool.pool);
    for (const key of ["ready", "outstanding", "runs"]) numbers.update(key, pool[key]);
    numbers.update("wanted", pool.wanted_workers);
    numbers.update("workers", pool.workers, count, null);
    set(element, "data-short", pool.workers === 0 && pool.outstanding > 0);
    numbers.update("dead", pool.dead, count, "bad");
  };
  return element;
}

const HEAD = [["working", "workers at work"], ["outstanding", "shards outstanding", "Shards of running runs that are not committed"], ["runs", "active runs"], ["left", "pictures to make", "Of runs that are not paused or being cancelled: tasks without an outcome"]];

export function fleetView({ signal, ready }) {
  const rate = h("span", { class: "number" });
  const [numbers, chart] = [figures(HEAD), throughputChart("Pictures a second")];
  const [problems, runs, pools] = ["problems", "runlist", "pools"].map((kind) => h("ul", { class: kind }));
  const trouble = h("section", { class: "trouble", "aria-labelledby": "h-wrong" }, h("h2", { id: "h-wrong" }, "What is wrong"), problems);
  const [noRuns, noPools] = [h("p", { class: "soft" }, "Nothing is submitted. ", h("code", {}, "diorama submit MANIFEST"), " starts a run; ", link("#/runs", "earlier runs"), " are in the list."), h("p", { class: "soft" })];
  const latest = latestPictures(signal);
  const workers = workersTable();
  const element = h("div", { class: "view" },
    h("h1", { class: "away", tabindex: "-1" }, "Fleet"),
    h("section", { class: "now", "aria-label": "Now" },
      h("div", { class: "headline" }, h("p", { class: "speed" }, rate, h("span", { class: "unit" }, "pictures/s")), numbers.element), chart.element),
    trouble, latest.element,
    h("section", { "aria-labelledby": "h-runs" }, h("h2", { id: "h-runs" }, "Active runs"), noRuns, runs),
    h("section", { "aria-labelledby": "h-pools" }, h("h2", { id: "h-pools" }, "Pools"), noPools, pools),
    workers.element);

  const drawRate = () => {
    const series = upToNow(live.fleet);
    figure(rate, "rate", rateNow(series), decimal);
    chart.update(series);
  };
  each(2000, () => live.fleet && live.isUp && drawRate(), signal);
  const update = (fleet) => {
    drawRate();
    // Both are null while the services that know are away.
    const working = fleet.workers?.filter((worker) => worker.shard || worker.state === "working").length ?? null;
    numbers.update("working", working, () => `${count(working)} of ${count(fleet.workers.length)}`);
    numbers.update("outstanding", fleet.pools?.reduce((sum, pool) => sum + pool.outstanding, 0) ?? null);
    numbers.update("runs", fleet.runs.length);
    numbers.update("left", fleet.runs.filter((run) => run.state === "running").reduce((sum, run) => sum + Math.max(0, run.tasks - run.done - run.failed), 0));
    show(trouble, fleet.problems.length > 0);
    keyed(problems, fleet.problems, (problem) => [problem.code, problem.run, problem.pool].join(" "), problemItem, (item, problem) => item.update(problem));
    show(noRuns, fleet.runs.length === 0);
    keyed(runs, fleet.runs, (run) => run.run, runCard, (item, run) => item.update(run));
    text(noPools, fleet.pools ? "There is no pool yet: a worker or a run creates one." : "Not known now.");
    show(noPools, !fleet.pools?.length);
    keyed(pools, fleet.pools ?? [], (pool) => pool.pool, poolItem, (item, pool) => item.update(pool));
    workers.update(fleet.workers, fleet.runs);
    latest.update(fleet.runs);
    ready();
  };
  signal.addEventListener("abort", follow(update));
  return { title: "Fleet", element, waits: live.fleet === null };
}

// The latest pictures of the run that is the fastest now.
function latestPictures(signal) {
  const list = h("ul", { class: "cards row" });
  const of = h("span", { class: "soft" });
  const element = h("section", { class: "latest", "aria-labelledby": "h-latest", hidden: true }, h("h2", { id: "h-latest" }, "Just made ", of), list);
  const isPointed = pointing(list);
  let run = null;
  let before = -1;
  const ask = feed({
    name: "latest", signal, every: 5000,
    load: async () => (run ? { run, ...(await api.get(`v1/${api.path("runs", run.run)}/pictures?limit=6`, signal)) } : null),
    draw: (page) => {
      const made = (page?.pictures ?? []).filter((picture) => picture.status === "done");
      show(element, made.length > 0);
      if (!page || isPointed()) return;
      put(of, [page.run.run, nameOf(page.run)], () => ["by ", link(href.run(page.run.run), nameOf(page.run))]);
      keyed(list, made, (picture) => `${page.run.run} ${picture.task}`, (picture) => pictureCard(page.run.run, picture), (item, picture) => item.update(picture), true);
    },
  });
  each(5000, () => run && ask(), signal);
  return {
    element,
    update(runs) {
      const speed = (one) => one.pictures_per_second ?? (one.done > 0 ? 0 : -1);
      const best = runs.reduce((one, other) => (!one || speed(other) > speed(one) ? other : one), null);
      // It does not jump between runs of about the same speed.
      const stays = run && runs.find((one) => one.run === run.run && speed(one) > 0 && speed(one) * 1.5 >= speed(best));
      run = stays ?? best;
      const made = run ? run.done : 0;
      if (made !== before) ask();
      before = made;
    },
  };
}

