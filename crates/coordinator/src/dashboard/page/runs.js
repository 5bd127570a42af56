// The list of runs: filters, pages, and those that cannot be read.

import * as api from "./api.js";
import { h, keyed, link, show, text } from "./dom.js";
import { each, feed } from "./feed.js";
import { follow, live } from "./live.js";
import { runCard } from "./runcard.js";
import { STATES } from "./words.js";

const FILTERS = ["state", "name", "label"];

function damagedItem() {
  const [name, problem] = [h("b"), h("span")];
  const element = h("li", { class: "problem" }, name, " ", problem);
  element.update = (damaged) => {
    element.dataset.run = damaged.run;
    text(name, `${damaged.run} cannot be read.`);
    text(problem, damaged.problem);
  };
  return element;
}

const address = (values) => {
  const chosen = Object.entries(values).filter(([, value]) => value);
  return chosen.length ? `#/runs?${new URLSearchParams(chosen)}` : "#/runs";
};

export function runsView({ params, signal, ready }) {
  const now = Object.fromEntries(["state", "name", "label", "after"].map((name) => [name, params.get(name) ?? ""]));
  const state = h("select", { id: "f-state" }, h("option", { value: "" }, "any"), STATES.map((one) => h("option", { value: one, selected: one === now.state }, one)));
  const name = h("input", { id: "f-name", type: "search", value: now.name, placeholder: "part of it", autocomplete: "off" });
  const label = h("input", { id: "f-label", type: "search", value: now.label, placeholder: "team=sea", autocomplete: "off" });
  const form = h("form", { class: "filters", role: "search" },
    h("label", {}, h("span", {}, "State"), state), h("label", { class: "grow" }, h("span", {}, "Name"), name), h("label", { class: "grow" }, h("span", {}, "Label"), label),
    h("button", { type: "submit" }, "Filter"), FILTERS.some((one) => now[one]) && link("#/runs", "Show all"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    location.hash = address({ state: state.value, name: name.value.trim(), label: label.value.trim() });
  });
  state.addEventListener("change", () => form.requestSubmit());

  const [list, damaged] = [h("ul", { class: "runlist" }), h("ul", { class: "problems" })];
  const [none, failed] = [h("p", { class: "nothing", hidden: true }), h("div", { role: "alert" })];
  const pages = h("nav", { class: "pages", "aria-label": "Pages" });
  const next = h("a", { rel: "next", hidden: true }, "Older runs →");
  pages.append(now.after ? link(address({ ...now, after: "" }), "↑ Newest runs") : "", next);
  const element = h("div", { class: "view" }, h("h1", { tabindex: "-1" }, "Runs"), form, failed, damaged, h("h2", { class: "away" }, "The list"), none, list, pages);

  const shown = new Map();
  const update = (item, run) => {
    shown.set(run.run, item);
    item.update(run);
  };
  const ask = feed({
    name: "runs", signal, every: 4000,
    load: () => api.get(`v1/runs${api.query({ limit: 50, ...now })}`, signal),
    fail: (problem) => {
      failed.replaceChildren(h("p", { class: "note failure" }, problem.message));
      ready();
    },
    draw: (page) => {
      failed.replaceChildren();
      shown.clear();
      keyed(list, page.runs, (run) => run.run, runCard, update);
      keyed(damaged, page.damaged ?? [], (one) => one.run, damagedItem, (item, one) => item.update(one));
      show(none, page.runs.length === 0);
      text(none, FILTERS.some((one) => now[one]) ? "No run matches. Change the filter or show all." : now.after ? "There are no older runs." : "No runs yet. “diorama submit MANIFEST” starts one.");
      show(next, page.next);
      if (page.next) next.href = address({ ...now, after: page.next });
      ready();
    },
  });
  // The stream keeps what is shown up to date; that a run came or went is asked for.
  let active = null;
  signal.addEventListener("abort", follow((fleet) => {
    for (const run of fleet.runs) shown.get(run.run)?.update(run);
    const ids = fleet.runs.map((run) => run.run + run.state).join(" ");
    if (active !== null && ids !== active) ask();
    active = ids;
  }));
  ask();
  each(15000, () => live.fleet && ask(), signal);
  return { title: "Runs", element, waits: true };
}
