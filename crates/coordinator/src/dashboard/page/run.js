// A run: how it stands, what it made last, its shards, failures and scores, what was submitted, and what can be done.

import * as api from "./api.js";
import { actionBar } from "./actions.js";
import { pictureCard } from "./cards.js";
import { throughputChart } from "./charts.js";
import { clear, command, h, keyed, link, pointing, put, show, text } from "./dom.js";
import { failuresSection } from "./failures.js";
import { each, feed } from "./feed.js";
import { count, decimal, done, duration, money, when } from "./format.js";
import { follow } from "./live.js";
import { bar, chip, etaWords, figures } from "./progress.js";
import { scoresSection } from "./scores.js";
import { shardsSection } from "./shards.js";
import { specSection } from "./spec.js";
import { hasEnded, href, nameOf, waiting } from "./words.js";

const FIGURES = [["done", "made", "Pictures committed"], ["in_work", "in work", "Pictures made of shards that are not committed yet"],
  ["retrying", "retrying", "Tasks that failed and will be, or are being, retried"], ["failed", "failed", "Tasks that failed for good"],
  ["rate", "pictures/s", "Over the last minute; for an ended run, overall"], ["eta", "time left", "At the rate of the last minute; the range reflects how the minutes before varied"],
  ["shards_committed", "shards committed"], ["shards_running", "shards held", "Shards that workers hold"], ["round", "round", "0 is the manifest; later rounds retry failed tasks"], ["device", "device time", "Seconds that models ran for what is committed, over all workers"], ["cost", "cost so far", "Device time at the pool's price, without the time workers wait"], ["to_come", "cost to come", "What is left, if it takes as long as what is done"]];

function header(run, session) {
  const [name, state, progress, numbers] = [h("h1", { tabindex: "-1" }), chip(), bar(), figures(FIGURES)];
  const [facts, notes, share] = [h("p", { class: "facts" }), h("div", { class: "notes" }), h("span", { class: "share" })];
  const buttons = actionBar(session);
  const element = h("header", { class: "runhead", "data-run": run },
    h("p", { class: "crumbs" }, link("#/runs", "Runs"), " / ", h("span", {}, run)),
    h("div", { class: "title" }, name, state.element, h("span", { class: "grow" }), buttons.element), facts, notes,
    h("div", { class: "howfar" }, progress.element, share), numbers.element);
  return {
    element,
    update(now, series, failures) {
      text(name, nameOf(now));
      state.update(now);
      progress.update(now);
      text(share, done(now.done, now.tasks));
      buttons.update(now, failures);
      put(facts, [now.pool, now.owner, now.labels, now.submitted_at, now.tasks, now.invalid_rows], () => [
        h("span", {}, h("b", {}, count(now.tasks)), " pictures"), h("span", {}, "pool ", h("b", {}, now.pool)), h("span", {}, "submitted ", when(now.submitted_at), now.owner && " by ", now.owner && h("b", {}, now.owner.token), now.owner?.group && ` (${now.owner.group})`),
        now.invalid_rows > 0 && h("span", {}, `${count(now.invalid_rows)} rows were rejected`),
        h("span", { class: "labels" }, Object.entries(now.labels ?? {}).map(([key, value]) => link(href.label(key, value), `${key}=${value}`))),
      ]);
      put(notes, [now.state, now.waiting, now.reason, now.degraded, now.pool], () => [
        now.state === "running" && now.waiting && h("p", { class: "note" }, waiting(now)),
        now.state !== "running" && now.waiting && !hasEnded(now) && now.state !== "paused" && h("p", { class: "note" }, waiting(now)),
        now.reason && h("p", { class: "note warning" }, h("b", {}, "Paused by Diorama: "), now.reason),
        now.degraded && h("p", { class: "note warning" }, h("b", {}, "Some of this is unreliable: "), now.degraded),
      ]);
      const ended = now.summary;
      numbers.update("done", now.done, (value) => `${count(value)}`);
      numbers.update("in_work", ended ? null : now.in_work);
      numbers.update("retrying", ended ? null : now.retrying, count, "warn");
      numbers.update("failed", now.failed, count, "bad");
      numbers.update("rate", ended ? ended.pictures_per_second : now.pictures_per_second, decimal);
      numbers.update("eta", ended ? null : now.state === "running" ? now.eta_seconds : null, () => etaWords(now, series) ?? "–");
      numbers.update("shards_committed", now.shards_committed, (value) => `${count(value)} of ${count(now.shards)}`);
      numbers.update("shards_running", ended ? null : now.shards_running);
      numbers.update("round", now.round);
      numbers.update("device", now.device_seconds || null, duration);
      numbers.update("cost", now.cost?.so_far, money);
      numbers.update("to_come", ended ? null : now.cost?.to_come, money);
      for (const key of ["in_work", "retrying", "eta", "shards_running"]) numbers.show(key, !ended);
      numbers.show("device", now.device_seconds > 0);
      numbers.show("cost", now.cost);
      numbers.show("to_come", !ended && now.cost);
    },
  };
}

const [FEW, MANY] = [8, 24];
function pictures(run, again) {
  const [list, none] = [h("ul", { class: "cards" }), h("p", { class: "soft" }, "Loading…")];
  const more = h("button", { type: "button", class: "small", hidden: true, "aria-expanded": "false" }, `Show ${MANY}`);
  const isPointed = pointing(list);
  let limit = FEW;
  more.addEventListener("click", () => {
    limit = limit === FEW ? MANY : FEW;
    text(more, limit === FEW ? `Show ${MANY}` : `Show ${FEW}`);
    more.setAttribute("aria-expanded", String(limit === MANY));
    again();
  });
  return {
    element: h("section", { "aria-labelledby": "h-pictures" }, h("div", { class: "heading" }, h("h2", { id: "h-pictures" }, "Latest pictures"), h("span", { class: "grow" }), more), none, list),
    limit: () => limit,
    update(page, made) {
      text(none, made ? "The latest are not known; each shard in the map shows its own." : "No pictures yet.");
      if (isPointed() && list.children.length === limit) return;
      show(none, page.pictures.length === 0);
      show(more, page.pictures.length >= FEW);
      keyed(list, page.pictures, (picture) => picture.task, (picture) => pictureCard(run, picture), (item, picture) => item.update(picture), true);
    },
  };
}

export function runView({ parts: [run], signal, session, ready, title }) {
  const base = `v1/${api.path("runs", run)}`;
  const [head, chart, latest] = [header(run, session), throughputChart("Pictures a second"), pictures(run, () => askPictures(true))];
  const [shards, failures, scores, spec] = [shardsSection(run, () => askShards(true), signal), failuresSection(run), scoresSection(), specSection()];
  const missing = h("div", { role: "alert" });
  const terminal = h("section", { "aria-labelledby": "h-terminal" }, h("h2", { id: "h-terminal" }, "In a terminal"),
    command(`diorama results ${run} --to DIR`, "download the results"), command(`diorama verify ${run}`, "prove that it is complete"), command(`diorama watch ${run}`, "follow it"));
  const rest = h("div", { class: "view" }, chart.element, latest.element, shards.element, failures.element, scores.element, spec.element, terminal);
  const element = h("div", { class: "view" }, head.element, missing, rest);
  let [status, series, failed] = [null, null, null];

  const draw = () => status && head.update(status, series, failed);
  const part = (name, url, update, every, section) => feed({
    name, signal, every, load: () => api.get(typeof url === "function" ? url() : url, signal),
    draw: (data) => {
      section?.element.querySelector(".unread")?.remove();
      update(data);
    },
    fail: (problem) => {
      if (problem.status === 404 || !section) return;
      section.element.querySelector(".unread")?.remove();
      section.element.append(h("p", { class: "note warning unread" }, `This cannot be read now: ${problem.message}`));
    },
  });
  const askThroughput = part("throughput", `${base}/throughput`, (now) => {
    series = now;
    chart.update(now, status !== null && hasEnded(status));
    draw();
  }, 4000, chart);
  const askPictures = part("pictures", () => `${base}/pictures${api.query({ limit: latest.limit() })}`, (page) => latest.update(page, status?.done > 0), 3000, latest);
  const askShards = part("shards", () => `${base}/shards${api.query({ round: shards.round() ?? status?.round ?? 0 })}`, shards.update, 2000, shards);
  const askFailures = part("failures", `${base}/failures`, (now) => {
    failed = now;
    failures.update(now);
    draw();
  }, 5000, failures);
  const askScores = part("scores", `${base}/scores`, scores.update, 10000, scores);
  const askSpec = part("spec", `${base}/spec`, spec.update, 60000, spec);

  // Of a run whose rows are still being stored there is nothing more to know.
  const details = () => status.state !== "submitting" && [askThroughput, askPictures, askShards, askFailures, askScores].forEach((ask) => ask());
  const take = (now) => {
    const before = status;
    status = now;
    title(hasEnded(now) ? nameOf(now) : `${done(now.done, now.tasks)} ${nameOf(now)}`);
    clear(missing);
    show(rest, true);
    draw();
    if (before === null) askSpec();
    if (before === null || JSON.stringify(before) !== JSON.stringify(now)) details();
    if (series && before && hasEnded(before) !== hasEnded(now)) chart.update(series, hasEnded(now));
    ready();
  };
  const askStatus = feed({
    name: "status", signal, load: () => api.get(base, signal), draw: take,
    fail: (problem) => {
      if (problem.isAway) return;
      put(missing, problem.message, () => h("section", { class: "nothing" }, !status && h("h1", { tabindex: "-1" }, problem.status === 404 ? "There is no such run" : "The run cannot be read"), h("p", { class: "note failure" }, problem.message), link("#/runs", "All runs")));
      show(rest, status !== null && problem.status !== 404);
      show(head.element, status !== null);
      if (problem.status === 404) status = null;
      ready();
    },
  });
  let streamed = "";
  signal.addEventListener("abort", follow((fleet) => {
    const now = fleet.runs.find((one) => one.run === run);
    const words = JSON.stringify(now ?? null);
    if (words === streamed) return;
    const first = streamed === "";
    streamed = words;
    if (now) take(now);
    // It ended, or is not among the active ones: only asking tells.
    else if (!first) askStatus(true);
  }));
  element.addEventListener("changed", (event) => {
    if (event.detail) take(event.detail);
    else askStatus(true);
  });
  askStatus();
  each(2000, () => {
    if (!status || hasEnded(status)) return;
    askStatus();
    details();
  }, signal);
  return { title: run, element, waits: true };
}
