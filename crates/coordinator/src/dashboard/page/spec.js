// What was submitted, and what stands in a record: tables that people read, with the JSON as it is below.

import { h, put } from "./dom.js";
import { count, when } from "./format.js";

export function words(value) {
  if (value === null || value === undefined) return "–";
  if (Array.isArray(value)) return value.every((one) => typeof one !== "object") ? value.join(", ") || "–" : JSON.stringify(value);
  if (typeof value === "object") return Object.entries(value).map(([name, one]) => `${name}: ${words(one)}`).join(" · ") || "–";
  if (value === true || value === false) return value ? "yes" : "no";
  return String(value);
}

// `rows`: pairs of a name and a value that is text or an element.
export function facts(rows) {
  const shown = rows.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return h("dl", { class: "table" }, shown.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value instanceof Node ? value : words(value)))));
}

export const settings = (values) => facts(Object.entries(values ?? {}).map(([name, value]) => [name, words(value)]));

export function raw(value, name = "As JSON") {
  const place = h("pre", { tabindex: "0" });
  const details = h("details", {}, h("summary", {}, name), place);
  details.addEventListener("toggle", () => { if (details.open && !place.firstChild) place.textContent = JSON.stringify(value, null, 2); });
  return details;
}

export function specSection() {
  const place = h("div");
  return {
    element: h("section", { "aria-labelledby": "h-spec" }, h("h2", { id: "h-spec" }, "What was submitted"), place),
    update(spec) {
      put(place, spec, () => [
        h("div", { class: "tables" },
          facts([["run", spec.run], ["name", spec.name], ["owner", spec.owner && words(spec.owner)], ["pool", spec.pool], ["priority", spec.priority], ["weight", spec.weight], ["submitted", spec.submitted_at && when(spec.submitted_at)],
            ["manifest", spec.manifest], ["tasks", typeof spec.tasks === "number" ? count(spec.tasks) : null], ["format", spec.format], ["shard size", spec.shard_size], ["seed", spec.seed],
            ["compare", spec.compare?.length ? spec.compare : null], ["retry", spec.retry && words(spec.retry)], ["stop if", spec.stop_if], ["model", spec.model && `${spec.model.sha256} in ${spec.model.dtype}`]]),
          Object.keys(spec.settings ?? {}).length > 0 && h("div", {}, h("h3", {}, "Settings"), settings(spec.settings))),
        raw(spec)]);
    },
  };
}
