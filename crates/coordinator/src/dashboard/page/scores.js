// How good the pictures are, as far as it is measured on the spot.

import { explained } from "./cards.js";
import { histogram } from "./charts.js";
import { h, put, show, text } from "./dom.js";
import { count, counted, decibel, decimal, percent } from "./format.js";

function measureOf(name) {
  if (name === "mask_coverage") return ["Mask’s share of the picture", percent];
  if (name === "outside_psnr") return ["Place kept", decibel, explained];
  if (name.startsWith("outside_psnr.")) return [`Place kept: ${name.slice(13)}`, decibel, explained];
  return [name, decimal];
}

export function scoresSection() {
  const [of, list, warnings, none] = [h("span", { class: "soft" }), h("div", { class: "histograms" }), h("ul", { class: "warnings" }), h("p", { class: "soft" }, "Loading…")];
  return {
    element: h("section", { "aria-labelledby": "h-scores" }, h("div", { class: "heading" }, h("h2", { id: "h-scores" }, "Quality"), of), none, list, warnings),
    update(scores) {
      const measures = Object.entries(scores.measures ?? {}).filter(([, measure]) => measure?.counts?.some((number) => number > 0));
      text(none, "Nothing is measured yet.");
      show(none, measures.length === 0);
      text(of, !scores.pictures ? "" : scores.pictures >= scores.of ? `of all ${counted(scores.pictures, "picture")}` : `of a sample: ${count(scores.pictures)} of about ${counted(scores.of, "picture")}`);
      // Whoever has a table open keeps it.
      if (!list.querySelector("details[open]")) put(list, measures, () => measures.map(([name, measure]) => {
        const [label, words, title] = measureOf(name);
        return histogram(label, measure, words, title);
      }));
      const told = Object.entries(scores.warnings ?? {}).sort((a, b) => b[1] - a[1]);
      put(warnings, told, () => told.map(([words, number]) => h("li", { class: "note warning" }, h("b", {}, count(number)), ` × ${words}`)));
    },
  };
}
