// The frame: who is here, which view the address names, whether the coordinator answers.

import * as api from "./api.js";
import { h, put, set, show, text } from "./dom.js";
import { keepTimes } from "./format.js";
import { follow, live, onAway, start, stop } from "./live.js";
import { fleetView } from "./fleet.js";
import { loginView } from "./login.js";
import { pictureView } from "./picture.js";
import { runView } from "./run.js";
import { runsView } from "./runs.js";
import { shardView } from "./shard.js";
import { closeViewer } from "./viewer.js";

const $ = (id) => document.getElementById(id);
const ROUTES = [
  [/^\/?$/, "fleet", fleetView],
  [/^\/runs$/, "runs", runsView],
  [/^\/runs\/([^/]+)$/, "run", runView],
  [/^\/runs\/([^/]+)\/shards\/([^/]+)$/, "shard", shardView],
  [/^\/runs\/([^/]+)\/tasks\/(\d+)$/, "picture", pictureView],
];
// A view takes the place of the one before as soon as it has something to show, or after this.
const PATIENCE = 250;

let session = null;
let leave = new AbortController();
let isFollowed = false;
const scrolled = new Map();
let shownAt = null;

function decode(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function nothingHere() {
  return { title: "Nothing here", element: h("section", { class: "nothing" }, h("h1", { tabindex: "-1" }, "Nothing here"), h("p", {}, "This address has no page. ", h("a", { href: "#/" }, "Go to the fleet"), ".")) };
}

function title(words) {
  document.title = words ? `${words} · Diorama` : "Diorama";
}

// Where the reader was, as soon as there is enough of the view again, unless he goes elsewhere meanwhile.
function goBack(to, signal) {
  window.scrollTo(0, to);
  const until = performance.now() + 2500;
  let isElsewhere = false;
  for (const kind of ["wheel", "touchstart", "keydown", "pointerdown"]) window.addEventListener(kind, () => { isElsewhere = true; }, { once: true, passive: true, signal });
  const again = () => {
    if (signal.aborted || isElsewhere || window.scrollY >= to - 2 || performance.now() > until) return;
    window.scrollTo(0, to);
    setTimeout(again, 100);
  };
  again();
}

function open(name, make, parts, params) {
  leave.abort();
  leave = new AbortController();
  const { signal } = leave;
  const body = document.body.dataset;
  if (shownAt !== null) scrolled.set(shownAt, window.scrollY);
  const here = location.hash;
  const back = isFollowed ? 0 : scrolled.get(here) ?? 0;
  const isFirst = shownAt === null;
  isFollowed = false;
  delete body.ready;
  closeViewer();
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();

  let [isShown, isEarly, isTitled, view] = [false, false, false, null];
  const swap = () => {
    if (isShown || signal.aborted) return;
    isShown = true;
    clearTimeout(timer);
    body.view = name;
    shownAt = here;
    // Whoever changes a filter stays at it.
    const held = $("main").contains(document.activeElement) ? document.activeElement.id : "";
    $("main").replaceChildren(view.element);
    goBack(back, signal);
    const target = (held && document.getElementById(held)) || view.element.querySelector("h1") || $("main");
    if (!isFirst && name !== "login") target.focus({ preventScroll: true });
  };
  const ready = () => {
    if (signal.aborted) return;
    isEarly = view === null;
    if (isEarly) return;
    swap();
    body.ready = "1";
  };
  const timer = setTimeout(swap, PATIENCE);
  view = make({ parts, params, signal, session, ready, title: (words) => {
    isTitled = true;
    title(words);
  } });
  if (!isTitled) title(view.title);
  for (const link of $("nav").children) set(link, "aria-current", link.dataset.section === (name === "fleet" ? "fleet" : "runs") && name !== "none" ? "page" : null);
  if (isEarly || !view.waits) ready();
}

function route() {
  if (!session) return;
  const [address, search = ""] = location.hash.replace(/^#/, "").split(/\?(.*)/s);
  for (const [pattern, name, make] of ROUTES) {
    const found = pattern.exec(address);
    if (found) return open(name, make, found.slice(1).map(decode), new URLSearchParams(search));
  }
  open("none", nothingHere, [], new URLSearchParams());
}

function frame() {
  const isIn = session !== null;
  show($("nav"), isIn);
  show($("pulse"), isIn);
  show($("who"), isIn && session.tokens);
  text($("who-name"), session?.name ?? "");
  text($("who-role"), session?.role ?? "");
}

function logInFirst() {
  session = null;
  stop();
  frame();
  open("login", (context) => loginView({ ...context, done: begin }), [], new URLSearchParams());
}

async function begin() {
  try {
    session = await api.session();
  } catch (problem) {
    if (problem.status === 401) return logInFirst();
    away(true, problem.isAway ? undefined : problem.message);
    setTimeout(begin, 2000);
    return;
  }
  away(false);
  frame();
  start();
  route();
}

function away(is, words = "The coordinator is not answering; trying again.") {
  const shown = live.fleet ? " This is the last known state." : "";
  put($("banner"), is ? words + shown : null, () => is && h("p", {}, h("span", { class: "spin", "aria-hidden": "true" }), words, shown));
  pulse(!is && live.fleet !== null);
}

function pulse(is) {
  set($("pulse"), "data-live", is ? "yes" : "no");
  text($("pulse-text"), is ? "live" : "not live");
}

api.onRefused(() => { if (session) logInFirst(); });
onAway(away);
follow((fleet) => {
  text($("version"), `Diorama ${fleet.version}`);
  pulse(true);
});
$("log-out").addEventListener("click", async () => {
  try {
    await api.logOut();
  } catch {
    // Whoever is out already may not be told so.
  }
  logInFirst();
});
$("skip").addEventListener("click", (event) => {
  event.preventDefault();
  $("main").focus();
});
document.addEventListener("click", (event) => {
  if (event.target.closest?.("a[href^='#']")) isFollowed = true;
});
history.scrollRestoration = "manual";
window.addEventListener("hashchange", route);
away(false);
keepTimes();
begin();
