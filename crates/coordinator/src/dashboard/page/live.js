// The one stream of events. It reconnects by itself, as EventSource gives up where the answer is an error.

import * as api from "./api.js";
import { heard } from "./format.js";

const FIRST_WAIT = 1000;
const LONGEST_WAIT = 4000;
// An idle fleet says nothing for long: after this the stream is begun anew, as a connection may be lost without a word.
const SILENCE = 20000;
// Where not even the first event comes, something in between holds the stream back, and we ask instead.
const FIRST_SILENCE = 3000;
const HIDDEN = 10000;
export const BACK = "coordinator-is-back";

export const live = { fleet: null, heardAt: 0, get isUp() { return away.size === 0; } };

// The fleet's series as it stands now: an idle fleet says nothing, and its rate falls all the same.
export function upToNow({ throughput, at }) {
  const heard = Math.max(throughput.now, Math.floor(Date.parse(at) / 1000) || 0);
  return { ...throughput, now: heard + Math.floor((performance.now() - live.heardAt) / 1000) };
}
const listeners = new Set();
const away = new Set();
let told = () => {};
let source = null;
let wait = FIRST_WAIT;
let timer = 0;
let watch = 0;
let hide = 0;
let on = false;
let isTold = false;

// `listener(fleet)` now, where there is one, and at every change; gives what ends it.
export function follow(listener) {
  listeners.add(listener);
  if (live.fleet) listener(live.fleet);
  return () => listeners.delete(listener);
}

export function onAway(listener) {
  told = listener;
}

// Whoever asks the coordinator for something says how that went; `why` where it did answer.
export function went(who, well, why) {
  const before = away.size;
  if (well) away.delete(who);
  else away.add(who);
  if ((before === 0) !== (away.size === 0) || !well) told(away.size > 0, why);
  // What one request learnt the others need not wait to find out.
  if (well && before > 0) document.dispatchEvent(new Event(BACK));
}

function take(fleet) {
  if (!on) return;
  [live.fleet, live.heardAt] = [fleet, performance.now()];
  heard(fleet.at);
  for (const listener of listeners) listener(fleet);
}

function close() {
  clearTimeout(timer);
  clearTimeout(watch);
  source?.close();
  source = null;
}

function open() {
  close();
  if (!on) return;
  isTold = false;
  source = new EventSource("v1/events");
  source.addEventListener("fleet", (event) => {
    went("stream", true);
    [wait, isTold] = [FIRST_WAIT, true];
    look();
    take(api.parse(event.data));
  });
  source.addEventListener("error", () => fail());
  look();
}

function look() {
  clearTimeout(watch);
  watch = setTimeout(async () => {
    if (isTold) return open();
    try {
      take(await api.get("v1/fleet"));
      went("stream", true);
      look();
    } catch {
      fail();
    }
  }, isTold ? SILENCE : FIRST_SILENCE);
}

async function fail() {
  if (!on || !source) return;
  close();
  try {
    // Only a request of its own tells whether we are to log in, and why there is no stream.
    take(await api.get("v1/fleet"));
    went("stream", true);
  } catch (problem) {
    if (problem.status === 401 || !on) return;
    went("stream", false, problem.isAway ? undefined : problem.message);
  }
  if (!on || document.hidden) return;
  timer = setTimeout(open, wait * (0.75 + Math.random() / 2));
  wait = Math.min(wait * 2, LONGEST_WAIT);
}

export function start() {
  on = true;
  wait = FIRST_WAIT;
  open();
}

export function stop() {
  on = false;
  live.fleet = null;
  close();
  away.clear();
  told(false);
}

window.addEventListener("pageshow", (event) => { if (event.persisted) open(); });
document.addEventListener(BACK, () => { if (on && !source && !document.hidden) open(); });

// A browser opens few connections to one place: tabs that nobody looks at hold none.
document.addEventListener("visibilitychange", () => {
  clearTimeout(hide);
  if (document.hidden) hide = setTimeout(close, HIDDEN);
  else if (on && !source) open();
});
