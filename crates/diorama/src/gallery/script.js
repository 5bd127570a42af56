
"use strict";
const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const rows = data.rows;
const explained = "PSNR against the reference outside the row's region: how well the place was preserved";

// Everything from outside becomes text or an attribute, never markup.
function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

document.title = data.title + " · Diorama";
$("title").textContent = data.title;
$("summary").textContent = data.summary;
$("made-by").textContent = data.made_by ?? "";

// How much of the place each method keeps, over the rows of this page.
const kept = new Map();
for (const picture of rows.flatMap((row) => row.pictures)) {
  if (picture.outside === null) continue;
  const sum = kept.get(picture.name) ?? { total: 0, count: 0 };
  kept.set(picture.name, { total: sum.total + picture.outside, count: sum.count + 1 });
}
if (kept.size > 0) {
  const means = [...kept].map(([name, { total, count }]) => fact(name, decibel(total / count)));
  $("kept").append("place kept, mean: ", ...means.flatMap((mean, i) => (i ? [" · ", mean] : [mean])));
  $("kept").title = explained;
}
for (const row of rows) {
  const words = [row.id, row.prompt, row.error && row.error.code, row.error && row.error.message];
  row.haystack = words.concat(row.subjects, row.warnings).filter(Boolean).join("\n").toLowerCase();
}

const order = {
  "manifest": null,
  "id": (a, b) => (a.id < b.id ? -1 : a.id > b.id ? 1 : 0),
  "coverage-up": (a, b) => (a.coverage ?? 2) - (b.coverage ?? 2),
  "outside-up": (a, b) => (a.outside ?? 101) - (b.outside ?? 101),
  "outside-down": (a, b) => (b.outside ?? -1) - (a.outside ?? -1),
  "coverage-down": (a, b) => (b.coverage ?? -1) - (a.coverage ?? -1),
};
const shows = {
  all: () => true,
  done: (row) => !row.error,
  warned: (row) => row.warnings.length > 0,
  failed: (row) => Boolean(row.error),
};

const BATCH = 24;
let chosen = [];
let drawn = 0;

function choose() {
  const words = $("text").value.toLowerCase().split(/\s+/).filter(Boolean);
  const show = shows[$("status").value];
  chosen = rows.filter((row) => show(row) && words.every((word) => row.haystack.includes(word)));
  const compare = order[$("sort").value];
  if (compare) chosen.sort(compare);
  const all = rows.length === data.total ? "" : ` (the first ${rows.length} of ${data.total} rows are in this page)`;
  $("count").textContent = `${chosen.length} of ${rows.length}${all}`;
  $("rows").replaceChildren();
  drawn = 0;
  if (chosen.length === 0) $("rows").append(make("p", { class: "nothing" }, "Nothing here. Clear the search or show all."));
  more();
}

// A batch at a time, as far as the reader scrolls: ten thousand rows cost no more than a few.
function more() {
  const next = chosen.slice(drawn, drawn + BATCH);
  $("rows").append(...next.map((row, i) => card(row, drawn + i)));
  drawn += next.length;
}
const watcher = new IntersectionObserver((entries) => {
  if (entries.some((entry) => entry.isIntersecting) && drawn < chosen.length) {
    more();
    // Seen again where the page is still shorter than the window.
    watcher.unobserve($("more"));
    watcher.observe($("more"));
  }
}, { rootMargin: "1200px" });

function fact(name, value) {
  return make("span", {}, name + " ", make("b", {}, String(value)));
}

function percent(share) {
  return (share * 100).toFixed(1) + " %";
}

function decibel(psnr) {
  return psnr.toFixed(1) + " dB";
}

function card(row, at) {
  const facts = make("p", { class: "facts" }, fact("id", row.id));
  if (row.seed !== null) facts.append(fact("seed", row.seed));
  if (row.coverage !== null) facts.append(fact("mask", percent(row.coverage)));
  if (row.outside !== null) {
    const kept = fact("place kept", decibel(row.outside));
    kept.title = explained;
    facts.append(kept);
  }
  for (const [name, value] of Object.entries(row.measures)) facts.append(fact(name, Number(value.toPrecision(4))));
  if (row.accepted !== null) facts.append(fact(row.accepted ? "accepted at try" : "not accepted, best of", row.tries));
  if (row.subjects.length) facts.append(fact("subject", row.subjects.join(", ")));
  for (const [name, value] of row.settings) facts.append(fact(name, value));
  const element = make("article", { class: "row", "data-id": row.id }, make("h2", {}, row.prompt || "(no prompt)"), facts);
  if (row.error) {
    const where = row.error.line ? `line ${row.error.line}: ` : "";
    element.append(make("p", { class: "note failure" }, `${where}${row.error.code}: ${row.error.message}`));
  }
  for (const warning of row.warnings) element.append(make("p", { class: "note warning" }, warning));
  const strip = make("div", { class: "strip" });
  row.pictures.forEach((picture, i) => {
    const image = make("img", { src: picture.src, alt: `${picture.name}: ${row.prompt}`, loading: "lazy", decoding: "async" });
    mark(image);
    const button = make("button", { type: "button", "aria-label": `Enlarge ${picture.name} of ${row.id}` }, image);
    button.addEventListener("click", () => open(at, i));
    const made = picture.role === "image" ? "made" : "";
    const caption = make("figcaption", {}, picture.name);
    if (picture.outside !== null) caption.append(make("span", { class: "score" }, decibel(picture.outside)));
    strip.append(make("figure", { class: made }, button, caption));
  });
  element.append(strip);
  return element;
}

// Small pictures keep their pixels when they are shown large.
function mark(image) {
  image.addEventListener("load", () => image.classList.toggle("small", image.naturalWidth <= 128));
}

let current = { row: 0, picture: 0 };

function open(row, picture) {
  current = { row, picture };
  draw();
  if (!$("viewer").open) $("viewer").showModal();
}

function draw() {
  const row = chosen[current.row];
  const picture = row.pictures[current.picture];
  $("viewer-title").textContent = row.prompt;
  $("large").src = picture.src;
  $("large").alt = `${picture.name}: ${row.prompt}`;
  $("caption").textContent = `${picture.name} · ${row.id}`;
}

function step(by) {
  let { row, picture } = current;
  picture += by;
  while (chosen[row] && !chosen[row].pictures[picture]) {
    row += Math.sign(by);
    if (!chosen[row]) return;
    picture = by > 0 ? 0 : chosen[row].pictures.length - 1;
  }
  open(row, picture);
}

function jump(by) {
  let row = current.row + by;
  while (chosen[row] && chosen[row].pictures.length === 0) row += by;
  if (chosen[row]) open(row, Math.min(current.picture, chosen[row].pictures.length - 1));
}

mark($("large"));
$("before").addEventListener("click", () => step(-1));
$("after").addEventListener("click", () => step(1));
$("close").addEventListener("click", () => $("viewer").close());
$("viewer").addEventListener("click", (event) => { if (event.target === $("viewer")) $("viewer").close(); });
$("viewer").addEventListener("keydown", (event) => {
  const steps = { ArrowLeft: () => step(-1), ArrowRight: () => step(1), ArrowUp: () => jump(-1), ArrowDown: () => jump(1) };
  if (steps[event.key]) {
    event.preventDefault();
    steps[event.key]();
  }
});
$("controls").addEventListener("submit", (event) => event.preventDefault());

// The address keeps what is chosen, so that a view can be passed on: #text=seagull&status=failed&sort=id.
const choices = ["text", "status", "sort"];
function restore() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  for (const id of choices) if (wanted.has(id)) $(id).value = wanted.get(id);
  for (const id of ["status", "sort"]) if ($(id).selectedIndex < 0) $(id).selectedIndex = 0;
  choose();
}
function remember() {
  const chosen = choices.filter((id) => !["", "all", "manifest"].includes($(id).value)).map((id) => [id, $(id).value]);
  history.replaceState(null, "", chosen.length ? "#" + new URLSearchParams(chosen) : location.pathname);
  choose();
}
for (const id of choices) $(id).addEventListener("input", remember);
window.addEventListener("hashchange", restore);
restore();
watcher.observe($("more"));
