// The workers: a row each, in place.

import { figure, h, keyed, link, put, set, show, text } from "./dom.js";
import { absolute, bytes, count, counted, decimal, duration, now as clockNow, percent } from "./format.js";
import { href, nameOf } from "./words.js";

const COLUMNS = [["worker", "Worker"], ["shard", "Shard"], ["rate", "Pictures/s"], ["device", "Device busy"], ["memory", "Memory"], ["model", "Model"], ["load", "Model load"], ["done", "Made"]];

const lasting = (seconds) => duration(seconds < 60 ? Math.max(0, Math.floor(seconds)) : Math.floor(seconds / 60) * 60);

function row(worker) {
  const cells = Object.fromEntries(COLUMNS.map(([name, label]) => [name, h("td", { class: name, "data-label": label, role: "cell" })]));
  const [name, state, pool, since] = [h("b"), h("span", { class: "state" }), h("span", { class: "soft" }), h("span", { class: "soft" })];
  cells.worker.append(name, " ", h("span", { class: "under" }, state, " ", pool, " ", since));
  const [shard, run, made] = [h("span"), h("span", { class: "under soft" }), h("span", { class: "soft" })];
  cells.shard.append(shard, " ", made, run);
  const [share, meter] = [h("span"), h("span", { class: "meter", "aria-hidden": "true" }, h("span"))];
  cells.device.append(share, meter);
  const [model, identity] = [h("span"), h("span", { class: "under soft" })];
  cells.model.append(model, identity);
  const element = h("tr", { "data-worker": worker.worker, role: "row" }, Object.values(cells));
  element.update = (now) => {
    text(name, now.worker);
    set(element, "data-state", now.state);
    text(state, now.state);
    text(pool, now.pool);
    const from = now.started_at;
    text(since, from ? `for ${lasting((clockNow() - Date.parse(from)) / 1000)}` : "");
    set(since, "title", from ? `since ${absolute(new Date(from))}` : null);
    put(shard, [now.shard?.run, now.shard?.shard], () => (now.shard ? link(href.shard(now.shard.run, now.shard.shard), now.shard.shard) : h("span", { class: "soft" }, "–")));
    put(run, [now.shard?.run, now.runName], () => now.shard && link(href.run(now.shard.run), now.runName));
    figure(made, "in_shard", now.shard?.done, (number) => `${count(number)} made`);
    show(made, now.shard);
    figure(cells.rate, "rate", now.pictures_per_second, decimal);
    figure(share, "device_share", now.device_share, percent);
    meter.firstChild.style.width = `${(now.device_share ?? 0) * 100}%`;
    figure(cells.memory, "memory", now.memory_bytes, bytes);
    text(model, now.model ?? "–");
    text(identity, [now.device, now.identity?.dtype].filter(Boolean).join(" · "));
    set(cells.model, "title", now.identity?.sha256 ? `sha256 ${now.identity.sha256}` : null);
    figure(cells.load, "model_load", now.model_load_seconds, duration);
    figure(cells.done, "done", now.done, count);
  };
  return element;
}

export function workersTable() {
  const body = h("tbody", { role: "rowgroup" });
  const head = h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, COLUMNS.map(([name, label]) => h("th", { class: name, scope: "col", role: "columnheader" }, label))));
  const table = h("table", { class: "workers", role: "table", "aria-labelledby": "h-workers" }, head, body);
  const find = h("input", { type: "search", placeholder: "name, pool, model, state", "aria-label": "Find workers", autocomplete: "off" });
  const [number, none] = [h("span", { class: "soft" }), h("p", { class: "soft", role: "status" })];
  const element = h("section", { "aria-labelledby": "h-workers" }, h("div", { class: "heading" }, h("h2", { id: "h-workers" }, "Workers"), number, h("span", { class: "grow" }), find), none, table);
  const order = new Intl.Collator("en", { numeric: true }).compare;
  let workers = [];
  let isKnown = true;
  const draw = () => {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (worker) => words.every((word) => [worker.worker, worker.pool, worker.model, worker.state, worker.device, worker.shard?.run, worker.runName].join("\n").toLowerCase().includes(word));
    const chosen = workers.filter(fits).sort((a, b) => order(a.pool, b.pool) || order(a.worker, b.worker));
    const states = ["working", "idle", "draining"].map((state) => [state, workers.filter((worker) => worker.state === state).length]).filter(([, many]) => many > 0);
    text(number, words.length ? `${count(chosen.length)} of ${counted(workers.length, "worker")}` : states.map(([state, many]) => `${count(many)} ${state}`).join(", "));
    show(find, workers.length > 8);
    show(table, chosen.length > 0);
    show(none, chosen.length === 0);
    text(none, !isKnown ? "Not known now." : workers.length ? "No worker matches." : "No workers are connected.");
    keyed(body, chosen, (worker) => worker.worker, row, (element, worker) => element.update(worker));
  };
  find.addEventListener("input", draw);
  return {
    element,
    update(now, runs) {
      const names = new Map(runs.map((run) => [run.run, nameOf(run)]));
      isKnown = Boolean(now);
      workers = (now ?? []).map((worker) => ({ ...worker, runName: worker.shard && (names.get(worker.shard.run) ?? worker.shard.run) }));
      draw();
    },
  };
}
