// One kind of request, again and again: never two of it at a time, none while the tab is hidden, slower while it fails.

import { BACK, went } from "./live.js";

export function feed({ name, load, draw, fail = () => {}, every = 2000, signal }) {
  let busy = false;
  let again = false;
  let timer = 0;
  let last = -Infinity;
  let failures = 0;

  const run = async () => {
    timer = 0;
    if (signal.aborted) return;
    if (document.hidden) {
      again = true;
      return;
    }
    [busy, again, last] = [true, false, performance.now()];
    try {
      const data = await load(signal);
      if (signal.aborted) return;
      failures = 0;
      went(name, true);
      draw(data);
    } catch (problem) {
      if (signal.aborted || problem.name === "AbortError") return;
      if (!("status" in problem)) throw problem;
      failures += 1;
      if (problem.status === 401) return;
      again ||= problem.isAway || problem.status >= 500;
      went(name, !problem.isAway);
      fail(problem);
    } finally {
      busy = false;
    }
    if (again) ask(again === "now");
  };

  // `now`: without the wait since the last time.
  const ask = (now = false) => {
    if (busy) again = now ? "now" : again || true;
    else if (timer && !now) return;
    else {
      clearTimeout(timer);
      const gap = now ? 0 : Math.max(every, Math.min(every * 2 ** failures, 5000));
      timer = setTimeout(run, Math.max(0, last + gap - performance.now()));
    }
  };

  const seen = () => { if (!document.hidden && again) ask(); };
  document.addEventListener("visibilitychange", seen, { signal });
  document.addEventListener(BACK, () => { if (failures > 0) ask(true); }, { signal });
  signal.addEventListener("abort", () => {
    clearTimeout(timer);
    went(name, true);
  });
  return ask;
}

export function each(milliseconds, act, signal) {
  const timer = setInterval(() => { if (!document.hidden) act(); }, milliseconds);
  signal.addEventListener("abort", () => clearInterval(timer));
}
