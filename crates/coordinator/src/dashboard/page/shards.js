// The shards of a run: which round is shown, the map, who holds what, and the way to one by its number.

import { h, keyed, link, put, show, text } from "./dom.js";
import { count, counted, when } from "./format.js";
import { shardMap } from "./shardmap.js";
import { href, shardName } from "./words.js";

export function shardsSection(run, again, signal) {
  const open = (shard) => { location.hash = href.shard(run, shard); };
  const map = shardMap(open, signal);
  const rounds = h("div", { class: "switch", role: "group", "aria-label": "Rounds" });
  const [begins, none] = [h("p", { class: "soft" }), h("p", { class: "soft" }, "Loading…")];
  const number = h("input", { type: "number", id: "go-shard", min: "0", step: "1", inputmode: "numeric", required: true });
  const form = h("form", { class: "go" }, h("label", { for: "go-shard" }, "Shard"), number, h("button", { type: "submit", class: "small" }, "Open"));
  const holders = h("ul", { class: "holders" });
  const held = h("details", { class: "held" }, h("summary"), holders);
  const element = h("section", { "aria-labelledby": "h-shards" }, h("div", { class: "heading" }, h("h2", { id: "h-shards" }, "Shards"), rounds, h("span", { class: "grow" }), form), none, begins, map.element, held);
  let [wanted, shown] = [null, null];

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    open(shardName(shown?.round ?? 0, Number(number.value)));
  });
  const roundButton = (info) => h("button", { type: "button", click: () => { wanted = info.round; choose(); again(); } });
  const choose = () => { for (const button of rounds.children) button.setAttribute("aria-pressed", String(Number(button.dataset.round) === (wanted ?? shown?.round))); };
  const holderItem = () => {
    const item = h("li");
    item.update = (holder) => put(item, [holder, shown.round], () => [link(href.shard(run, shardName(shown.round, holder.index)), shardName(shown.round, holder.index)), " ", h("span", {}, holder.worker), " ",
      h("span", { class: "soft" }, `${count(holder.done)} made${holder.failed ? `, ${count(holder.failed)} failed` : ""}`)]);
    return item;
  };
  show(held, false);
  return {
    element,
    // The latest round, until one is chosen.
    round: () => wanted,
    update(now) {
      shown = now;
      show(none, false);
      show(form, now.shards > 0);
      number.max = Math.max(0, now.shards - 1);
      const list = now.rounds ?? [];
      show(rounds, list.length > 1);
      keyed(rounds, list, (info) => info.round, roundButton, (button, info) => {
        button.dataset.round = info.round;
        text(button, info.round === 0 ? "Manifest" : info.reopened ? `Round ${info.round}, reopened` : `Round ${info.round}`);
        button.title = `${counted(info.shards, "shard")}, ${counted(info.tasks, "task")}`;
      });
      choose();
      const info = list.find((one) => one.round === now.round);
      const later = info && Date.parse(info.not_before) > Date.now();
      put(begins, [now.round, now.shards, now.tasks, info?.not_before, later, info?.reopened], () => [
        `${counted(now.shards, "shard")} of up to ${counted(now.shard_size, "picture")}, ${counted(now.tasks, "task")}`,
        now.round > 0 && (info?.reopened ? ", of failed tasks that somebody retried" : ", of tasks that failed and are being retried"),
        later && [", begins ", when(info.not_before)], "."]);
      map.update(now);
      const holding = now.held ?? [];
      show(held, holding.length > 0);
      text(held.firstElementChild, `Who holds what: ${counted(holding.length, "shard")}`);
      keyed(holders, holding, (holder) => `${now.round} ${holder.index}`, holderItem, (item, holder) => item.update(holder));
    },
  };
}
