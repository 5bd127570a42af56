// The record beside a picture: what it is and what made it.

import { below, h } from "./dom.js";
import { exactPercent } from "./format.js";
import { facts, raw, settings, words } from "./spec.js";

const list = (value) => (Array.isArray(value) ? value : []);
const share = (value) => (typeof value === "number" ? exactPercent(value) : "–");

function edits(record) {
  const subjects = list(record.subjects).map((subject) => subject?.text);
  const rows = list(record.edits).map((edit) => h("tr", {}, h("td", {}, words(edit.step)), h("td", {}, words(edit.timestep)), h("td", {}, share(edit.coverage)),
    h("td", {}, list(edit.subject_coverage).map((one, at) => `${subjects[at] ?? at}: ${share(one)}`).join(", ") || "–"), h("td", {}, words(edit.layers)), h("td", {}, words(edit.estimator))));
  return rows.length > 0 && h("div", {}, h("h3", {}, "Edits"), h("div", { class: "scroll", tabindex: "0" },
    h("table", {}, h("thead", {}, h("tr", {}, ["Step", "Timestep", "Kept", "By subject", "Layers", "Estimator"].map((name) => h("th", { scope: "col" }, name)))), h("tbody", {}, rows))));
}

export function recordSection(record, picture) {
  const { generator = {}, reference, region } = record;
  const subjects = list(record.subjects).map((subject) => `${words(subject?.text)} (${words(subject?.positions)})`).join(", ");
  const file = below(picture.files?.record);
  return h("section", { "aria-labelledby": "h-record" }, h("h2", { id: "h-record" }, "Record"),
    h("div", { class: "tables" },
      facts([["prompt", record.prompt], ["cut to", record.prompt_truncated_to], ["subjects", subjects], ["seed", record.seed],
        ["reference", reference && `${words(reference.source)}, ${words(reference.width)} × ${words(reference.height)}`], ["reference’s sha256", reference?.sha256],
        ["region", region && `${words(region.source)}, ${typeof region.outside === "number" ? share(region.outside) : "–"} outside`], ["region’s sha256", region?.sha256],
        ["mask", typeof record.mask_coverage === "number" ? share(record.mask_coverage) : null], ["engine", generator.engine], ["library", generator.library], ["model", generator.model],
        ["model’s sha256", generator.model_sha256], ["device", generator.device && `${words(generator.device)}, ${words(generator.dtype)}`], ["batch", generator.batch_size]]),
      Object.keys(record.settings ?? {}).length > 0 && h("div", {}, h("h3", {}, "Settings in force"), settings(record.settings))),
    edits(record), raw(record), file && h("p", {}, h("a", { href: file }, "The record’s file")));
}
