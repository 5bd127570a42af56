// A run's progress: the bar, the state's chip, the rate, and when it will be done.

import { figure, h, set, show, text } from "./dom.js";
import { about, count, decimal, done } from "./format.js";
import { hasEnded, state } from "./words.js";

export function bar() {
  const parts = ["done", "work", "retry", "fail"].map((name) => h("span", { class: name }));
  const element = h("div", { class: "progress", role: "progressbar", "aria-valuemin": "0" }, parts);
  return {
    element,
    update(run) {
      const of = Math.max(run.tasks, 1);
      // What a cancellation left out is no failure.
      const numbers = [run.done, run.in_work, run.retrying, run.failed - (run.summary?.failures?.cancelled ?? 0)];
      parts.forEach((part, at) => { part.style.width = `${Math.min(100, (numbers[at] / of) * 100)}%`; });
      set(element, "aria-valuemax", run.tasks);
      set(element, "aria-valuenow", run.done + run.failed);
      set(element, "aria-valuetext", `${done(run.done, run.tasks)} done: ${count(run.done)} of ${count(run.tasks)}, ${count(run.failed)} failed`);
      set(element, "aria-label", `Progress of ${run.run}`);
    },
  };
}

export function chip() {
  const element = h("span", { class: "chip" });
  return {
    element,
    update(run) {
      set(element, "data-state", run.state);
      set(element, "data-waits", Boolean(run.waiting) && run.state === "running");
      text(element, state(run));
    },
  };
}

// The spread comes from the minutes of the series: of how a minute differs from another follows how far the mean of
// those to come may be from the mean of those that were. 1.645 standard errors on each side: nine times of ten.
const BLOCK = 60;
const LOOK_BACK = 20;
export function spread(series) {
  if (!series?.intervals?.length) return null;
  const size = Math.max(1, Math.round(BLOCK / series.seconds)) * series.seconds;
  const until = Math.floor(series.now / series.seconds) * series.seconds;
  const first = Math.max(series.intervals[0].at, until - LOOK_BACK * size);
  const blocks = Math.floor((until - first) / size);
  if (blocks < 3) return null;
  const sums = new Array(blocks).fill(0);
  for (const { at, done } of series.intervals) {
    const block = Math.floor((until - 1 - at) / size);
    if (at < until && block >= 0 && block < blocks) sums[block] += done;
  }
  const mean = sums.reduce((sum, value) => sum + value, 0) / blocks;
  const variance = sums.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (blocks - 1);
  return mean > 0 ? { size, blocks, mean, deviation: Math.sqrt(variance) } : null;
}

export function eta(run, series) {
  const seconds = run.eta_seconds;
  if (typeof seconds !== "number" || hasEnded(run) || run.state !== "running") return null;
  const of = spread(series);
  if (!of) return { seconds };
  const error = 1.645 * of.deviation * Math.sqrt(1 / of.blocks + 1 / Math.max(1, seconds / of.size));
  const share = error / of.mean;
  return { seconds, low: seconds / (1 + share), high: share < 1 ? seconds / (1 - share) : Infinity };
}

// The rate of the last minute, or interval; 0 where the series is known and silent. Of an interval that began before it,
// the part within counts.
export function rateNow(series) {
  if (!series) return null;
  const from = series.now - Math.max(60, series.seconds);
  const recent = (series.intervals ?? []).filter(({ at }) => at + series.seconds > from);
  if (recent.length === 0) return 0;
  const made = recent.reduce((sum, { at, done }) => sum + done * Math.min(1, (at + series.seconds - from) / series.seconds), 0);
  return made / Math.max(1, series.now - Math.max(recent[0].at, from));
}

// A row of a list of runs: everything that can be said of one in a line or two.
export function stand(name, words, value) {
  const element = h("dd");
  figure(element, name, value, words);
  return element;
}

export function figures(names) {
  const cells = new Map(names.map(([name, label, title]) => {
    const value = h("dd", { "data-figure": name });
    return [name, { value, box: h("div", { title }, h("dt", {}, label), value) }];
  }));
  return {
    element: h("dl", { class: "figures" }, [...cells.values()].map((cell) => cell.box)),
    update(name, value, words = count, tone = null) {
      const cell = cells.get(name);
      figure(cell.value, name, value, words);
      set(cell.box, "data-tone", value ? tone : null);
    },
    show: (name, is) => show(cells.get(name).box, is),
  };
}

export const rateWords = (rate) => `${decimal(rate)}/s`;
export const etaWords = (run, series) => {
  const of = eta(run, series);
  return of && of.seconds > 0 ? about(of) : null;
};
