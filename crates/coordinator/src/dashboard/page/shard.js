// A shard: how it stands, who holds it or made it, and all its pictures.

import * as api from "./api.js";
import { pictureCard } from "./cards.js";
import { clear, h, keyed, link, put, set, show, text } from "./dom.js";
import { each, feed } from "./feed.js";
import { count, counted, duration, when } from "./format.js";
import { href, shardName } from "./words.js";

const BATCH = 48;
const STATES = { waiting: "waiting for a worker", held: "held by a worker", committed: "committed", void: "left out by the cancellation" };

export function neighbours(name) {
  const found = /^r(\d+)-(\d+)$/.exec(name);
  if (!found) return [null, null];
  const [round, index] = [Number(found[1]), Number(found[2])];
  return [index > 0 ? shardName(round, index - 1) : null, shardName(round, index + 1)];
}

export function shardView({ parts: [run, name], signal, ready }) {
  const url = `v1/${api.path("runs", run, "shards", name)}`;
  const [state, facts, missing] = [h("span", { class: "chip" }), h("p", { class: "facts" }), h("div", { role: "alert" })];
  const [list, more] = [h("ul", { class: "cards" }), h("button", { type: "button", hidden: true })];
  const [before, after] = neighbours(name);
  const next = after && link(href.shard(run, after), "Next shard ›");
  const element = h("div", { class: "view" },
    h("header", { class: "runhead", "data-shard": name },
      h("p", { class: "crumbs" }, link("#/runs", "Runs"), " / ", link(href.run(run), run), " / ", h("span", {}, "shards")),
      h("div", { class: "title" }, h("h1", { tabindex: "-1" }, name), state, h("span", { class: "grow" }),
        h("nav", { class: "pages", "aria-label": "Shards" }, before && link(href.shard(run, before), "‹ Previous shard"), next)), facts),
    missing, h("h2", { class: "away" }, "Pictures"), list, more);
  let [drawn, last] = [BATCH, null];

  const cards = () => {
    keyed(list, last.tasks.slice(0, drawn), (picture) => picture.task, (picture) => pictureCard(run, picture), (item, picture) => item.update(picture));
    show(more, last.tasks.length > drawn);
    text(more, `Show more (${counted(Math.max(0, last.tasks.length - drawn), "picture")} left)`);
  };
  more.addEventListener("click", () => {
    drawn += BATCH;
    cards();
  });
  const ask = feed({
    name: "shard", signal, load: () => api.get(url, signal),
    draw: (now) => {
      last = now;
      clear(missing);
      set(state, "data-shard-state", now.state);
      text(state, STATES[now.state] ?? now.state);
      const failed = now.tasks.filter((picture) => picture.status === "failed").length;
      put(facts, [{ ...now, tasks: now.tasks.length }, failed], () => [
        h("span", {}, h("b", {}, count(now.tasks.length)), now.tasks.length === 1 ? " picture" : " pictures"), h("span", {}, `round ${now.round}`),
        failed > 0 && h("span", {}, h("b", {}, count(failed)), " failed"),
        now.holder && h("span", {}, "held by ", h("b", {}, now.holder.worker), `: ${count(now.holder.done)} made${now.holder.failed ? `, ${count(now.holder.failed)} failed` : ""}, attempt ${now.holder.attempt}`),
        !now.holder && now.worker && h("span", {}, "made by ", h("b", {}, now.worker)),
        !now.holder && now.attempt && h("span", {}, `attempt ${now.attempt}`),
        now.started_at && h("span", {}, "begun ", when(now.started_at)),
        now.committed_at && h("span", {}, "committed ", when(now.committed_at)),
        typeof now.device_seconds === "number" && h("span", {}, `${duration(now.device_seconds)} of device time`),
      ]);
      cards();
      ready();
    },
    fail: (problem) => {
      if (problem.isAway) return;
      if (!last) [list, state].forEach((one) => show(one, false));
      put(missing, problem.message, () => h("p", { class: "note failure" }, problem.message));
      ready();
    },
  });
  ask();
  each(2000, () => { if (last?.state === "waiting" || last?.state === "held") ask(); }, signal);
  return { title: `${name} of ${run}`, element, waits: true };
}
