// Why tasks failed: by code, with examples and what they were to be made from.

import { image } from "./cards.js";
import { figure, h, keyed, link, put, set, show, text } from "./dom.js";
import { count, moment } from "./format.js";
import { CODES, href } from "./words.js";

function example(run) {
  const [title, id, shard, at, message, place] = [link("#/"), h("span", { class: "id" }), h("span"), h("time"), h("p", { class: "message" }), h("div", { class: "thumb" })];
  const item = h("li", { class: "example" }, place, h("div", {}, h("h4", {}, title), message, h("p", { class: "facts" }, id, shard, at)));
  item.update = (picture) => {
    set(item, "data-task", picture.task);
    set(title, "href", href.task(run, picture.task));
    text(title, picture.prompt || "(no prompt)");
    text(message, picture.error?.message ?? "");
    text(id, picture.custom_id);
    text(shard, picture.shard);
    moment(at, picture.committed_at);
    const url = picture.reference?.url ?? null;
    put(place, url, () => url && image(url, `reference of ${picture.custom_id}`));
  };
  return item;
}

function group(run) {
  const [name, number, meaning, retryable] = [h("code"), h("b"), h("span", { class: "soft" }), h("span", { class: "chip plain" })];
  const [bar, list, summary] = [h("span"), h("ul", { class: "examples" }), h("summary")];
  const details = h("details", {}, summary, list);
  const item = h("li", { class: "code" }, h("div", { class: "line" }, h("h3", {}, name), number, retryable, meaning), h("div", { class: "meter bad", "aria-hidden": "true" }, bar), details);
  item.update = (now) => {
    set(item, "data-code", now.code);
    text(name, now.code);
    figure(number, "failures", now.number, count);
    text(meaning, CODES[now.code] ?? "");
    bar.style.width = `${(now.number / now.most) * 100}%`;
    const kinds = new Set(now.examples.map((picture) => picture.error?.retryable));
    text(retryable, kinds.size === 1 ? (kinds.has(true) ? "may succeed when retried" : "needs a change first") : "");
    show(retryable, kinds.size === 1);
    show(details, now.examples.length > 0);
    text(summary, now.examples.length === 1 ? "1 example" : `${now.examples.length} latest examples`);
    keyed(list, now.examples, (picture) => `${picture.task} ${picture.shard}`, () => example(run), (element, picture) => element.update(picture));
  };
  return item;
}

export function failuresSection(run) {
  const [list, none, note] = [h("ul", { class: "codes" }), h("p", { class: "soft" }, "Loading…"), h("span", { class: "soft" })];
  return {
    element: h("section", { "aria-labelledby": "h-failures" }, h("div", { class: "heading" }, h("h2", { id: "h-failures" }, "Failures"), note), none, list),
    update(failures) {
      const examples = failures.examples ?? [];
      const codes = Object.entries(failures.codes ?? {});
      const groups = codes.map(([code, number]) => ({ code, number, examples: examples.filter((picture) => picture.error?.code === code) })).sort((a, b) => b.number - a.number);
      const most = groups.reduce((sum, one) => sum + one.number, 0);
      text(none, "None so far.");
      show(none, groups.length === 0);
      text(note, failures.complete === false && groups.length ? "Of the failures read so far" : "");
      keyed(list, groups, (one) => one.code, () => group(run), (item, one) => item.update({ ...one, most }));
    },
  };
}
