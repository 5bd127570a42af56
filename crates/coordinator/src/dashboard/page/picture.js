// A picture: everything that was made of a task, what made it, and what happened to it.

import * as api from "./api.js";
import { explained, image, layers } from "./cards.js";
import { clear, command, h, link, put } from "./dom.js";
import { each, feed } from "./feed.js";
import { decibel, exactPercent, when } from "./format.js";
import { recordSection } from "./record.js";
import { href, nameOf } from "./words.js";
import { enlarge } from "./viewer.js";

// The tasks of the shard that was looked at last, so that going on within it costs nothing.
let around = { key: "", tasks: [] };

async function shardOf(run, picture, signal) {
  const key = `${run} ${picture.shard}`;
  if (picture.shard && around.key !== key) {
    const shard = await api.get(`v1/${api.path("runs", run, "shards", picture.shard)}`, signal);
    around = { key, tasks: shard.tasks.map((one) => one.task) };
  }
  return around.key === key ? around.tasks : [];
}

function gallery(picture) {
  const all = layers(picture);
  const words = picture.prompt || "(no prompt)";
  const frame = (layer, size) => h("figure", { class: layer.role === "image" ? "made" : "", "data-role": layer.role },
    h("button", { type: "button", "aria-label": `Enlarge ${layer.name}`, click: () => enlarge(all, all.indexOf(layer), words) }, image(layer.url, `${layer.name}: ${words}`, { width: size, lazy: false })),
    h("figcaption", {}, h("span", {}, layer.name), scoreOf(picture, layer.role)));
  const isLarge = (layer) => layer.role === "image" || layer.role === "reference";
  const [large, small] = [all.filter(isLarge), all.filter((layer) => !isLarge(layer))];
  return [
    large.length ? h("div", { class: "pair" }, large.map((layer) => frame(layer, layer.role === "reference" ? 1024 : 0))) : h("p", { class: "nothing" }, picture.status === "waiting" ? "Not made yet." : "There is no picture."),
    small.length > 0 && h("div", { class: "layers" }, small.map((layer) => frame(layer, 512))),
  ];
}

function scoreOf(picture, role) {
  const name = role === "image" ? "outside_psnr" : role.startsWith("compare.") ? `outside_psnr.${role.slice(8)}` : null;
  const score = name && picture.scores?.[name];
  if (typeof score === "number") return h("span", { class: "score", title: explained }, decibel(score));
  if (role === "mask" && typeof picture.mask_coverage === "number") return h("span", { class: "score" }, exactPercent(picture.mask_coverage));
  return null;
}

function history(list) {
  const row = (one) => h("tr", {}, h("td", {}, String(one.round)), h("td", {}, one.shard), h("td", {}, one.worker ?? "–"), h("td", {}, String(one.attempt ?? "–")),
    h("td", {}, one.error ? [h("b", {}, one.error.code), ` ${one.error.message}`] : one.status), h("td", {}, when(one.started_at)), h("td", {}, when(one.committed_at)));
  return h("div", { class: "scroll", tabindex: "0" }, h("table", {}, h("thead", {}, h("tr", {}, ["Round", "Shard", "Worker", "Attempt", "Outcome", "Begun", "Committed"].map((name) => h("th", { scope: "col" }, name)))), h("tbody", {}, list.map(row))));
}

export function pictureView({ parts: [run, task], signal, ready, title }) {
  const place = h("div", { class: "view" });
  const missing = h("div", { role: "alert" });
  const heading = h("h1", { class: "prompt", tabindex: "-1" });
  const steps = h("nav", { class: "pages", "aria-label": "Pictures of the shard" });
  const [facts, notes, crumbs] = [h("p", { class: "facts" }), h("div", { class: "notes" }), h("p", { class: "crumbs" })];
  const element = h("div", { class: "view picture" }, h("header", { class: "runhead", "data-task": task }, crumbs, h("div", { class: "title" }, heading, h("span", { class: "grow" }), steps), facts, notes), missing, place);
  let [last, near] = [null, [null, null]];

  const drawSteps = (tasks) => {
    const at = tasks.indexOf(last.picture.task);
    near = at < 0 ? [null, null] : [tasks[at - 1] ?? null, tasks[at + 1] ?? null];
    put(steps, [near, at, tasks.length], () => at >= 0 && [
      near[0] !== null && h("a", { href: href.task(run, near[0]), rel: "prev", title: "Arrow left" }, "‹ Before"),
      h("span", { class: "soft" }, `${at + 1} of ${tasks.length}`),
      near[1] !== null && h("a", { href: href.task(run, near[1]), rel: "next", title: "Arrow right" }, "Next ›")]);
  };
  const draw = (data) => {
    const isFirst = last === null;
    last = data;
    const { picture } = data;
    clear(missing);
    put(crumbs, picture.shard, () => [link("#/runs", "Runs"), " / ", link(href.run(run), run), picture.shard && [" / ", link(href.shard(run, picture.shard), picture.shard)]]);
    heading.textContent = picture.prompt || "(no prompt)";
    title(picture.custom_id);
    put(facts, picture, () => [
      h("span", {}, "id ", h("b", {}, picture.custom_id)), h("span", {}, "row ", h("b", {}, String(picture.task))), typeof picture.seed !== "undefined" && h("span", {}, "seed ", h("b", {}, String(picture.seed))),
      picture.subjects?.length > 0 && h("span", {}, "subject ", h("b", {}, picture.subjects.join(", "))),
      typeof picture.mask_coverage === "number" && h("span", {}, "mask ", h("b", {}, exactPercent(picture.mask_coverage))),
      typeof picture.scores?.outside_psnr === "number" && h("span", { title: explained }, "place kept ", h("b", {}, decibel(picture.scores.outside_psnr))),
      Object.entries(picture.measures ?? {}).map(([name, value]) => h("span", {}, `${name} `, h("b", {}, String(Number(value.toPrecision(4)))))),
      typeof picture.accepted === "boolean" && h("span", {}, picture.accepted ? "accepted at try " : "not accepted, best of ", h("b", {}, String(picture.tries?.length ?? 1))),
      picture.worker && h("span", {}, "made by ", h("b", {}, picture.worker)), picture.committed_at && h("span", {}, when(picture.committed_at)),
      picture.reference && h("span", {}, "reference ", h("b", {}, picture.reference.source))]);
    put(notes, [picture.error, picture.warnings, picture.status], () => [
      picture.error && h("p", { class: "note failure" }, h("b", {}, picture.error.code), ` ${picture.error.message}`, picture.error.retryable ? " It may succeed when retried." : ""),
      picture.status === "waiting" && h("p", { class: "note" }, "It is waiting for a worker."),
      (picture.warnings ?? []).map((words) => h("p", { class: "note warning" }, words))]);
    put(place, data, () => [
      h("section", { "aria-label": "Pictures" }, gallery(picture)),
      data.record && recordSection(data.record, picture),
      data.history?.length > 0 && h("section", { "aria-labelledby": "h-history" }, h("h2", { id: "h-history" }, "History"), history(data.history)),
      data.replay && h("section", { "aria-labelledby": "h-replay" }, h("h2", { id: "h-replay" }, "Make it again"), command(data.replay, "and compare the bytes"))]);
    ready();
    if (isFirst) shardOf(run, picture, signal).then((tasks) => { if (!signal.aborted) drawSteps(tasks); }, () => {});
  };
  const ask = feed({
    name: "picture", signal, load: () => api.get(`v1/${api.path("runs", run, "tasks", task)}`, signal), draw,
    fail: (problem) => {
      if (problem.isAway) return;
      if (!last) heading.textContent = problem.status === 404 ? "There is no such picture" : "The picture cannot be read";
      put(crumbs, last?.picture.shard ?? null, () => [link("#/runs", "Runs"), " / ", link(href.run(run), nameOf({ run }))]);
      put(missing, problem.message, () => h("p", { class: "note failure" }, problem.message));
      ready();
    },
  });
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey || document.querySelector("dialog[open]")) return;
    if (event.target.closest?.("input, select, textarea, pre, .scroll, code")) return;
    const to = { ArrowLeft: near[0], ArrowRight: near[1] }[event.key];
    if (to === null || to === undefined) return;
    event.preventDefault();
    location.hash = href.task(run, to);
  }, { signal });
  ask();
  each(2000, () => { if (last?.picture.status === "waiting") ask(); }, signal);
  return { title: `${task} of ${run}`, element, waits: true };
}
