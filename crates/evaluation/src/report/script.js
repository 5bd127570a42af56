
"use strict";
const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const { rows, measures, summaries, evaluation } = data;
const byName = new Map(measures.map((measure) => [measure.name, measure]));
const COLOURS = 7;

// Everything from outside becomes text or an attribute, never markup.
function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}
function draw(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}
function number(value) {
  const size = Math.abs(value);
  return value.toFixed(size >= 1000 ? 0 : size >= 100 ? 1 : size >= 10 ? 2 : size >= 0.1 || size === 0 ? 3 : 5);
}
const signed = (value) => (value > 0 ? "+" : "") + number(value);
const interval = (s) => `[${number(s.low)}, ${number(s.high)}]`;
const colour = (series) => `s${series % COLOURS}`;
const arrow = { high: "↑", low: "↓", neither: "" };

document.title = data.title + " · evaluation · Diorama";
$("title").textContent = data.title;
const series = summaries.series;
$("summary").textContent = `${evaluation.measured} pictures measured · ${series.length} series · ${measures.length} measures`;

function remark(text) {
  $("remarks").append(make("li", {}, text));
}
function some(all) {
  return all.slice(0, 5).join(", ") + (all.length > 5 ? ` and ${all.length - 5} more` : "");
}
if (summaries.regions.whole) remark(`${summaries.regions.whole} pictures were compared with their references as a whole, the subject included: without a region, psnr, ssim and mse say how much changed, not how well the place was preserved.`);
for (const [source, failed] of Object.entries(evaluation.failed)) remark(`${source}: ${failed.length} tasks have no picture: ${some(failed.map(([id, code]) => `${id} (${code})`))}`);
for (const [source, ids] of Object.entries(evaluation.unpaired)) remark(`${source} lacks ${ids.length} tasks that another folder has; they are left out of comparisons: ${some(ids)}`);
for (const [note, count] of Object.entries(summaries.notes)) remark(`${count} × ${note}`);
if (evaluation.near_duplicates) remark(`${evaluation.near_duplicates} pictures nearly repeat an earlier one of their series.`);
if (summaries.duplicates) remark(`${summaries.duplicates} pictures have the same perceptual hash as another in their series.`);

function chooser(name) {
  const measure = byName.get(name);
  const button = make("button", { type: "button", title: measure.about, "data-measure": name }, name);
  button.addEventListener("click", () => { $("measure").value = name; choose(); $("measure-title").scrollIntoView({ block: "start" }); });
  const unit = make("span", { class: "unit" }, [measure.unit, arrow[measure.better]].filter(Boolean).join(" "));
  return make("th", { scope: "row" }, button, unit);
}
function heads(first, names) {
  const cells = names.map((name) => {
    const at = series.indexOf(name);
    return make("th", { scope: "col" }, make("span", { class: `key ${colour(at)}` }), name);
  });
  return make("thead", {}, make("tr", {}, make("th", { scope: "col" }, first), ...cells));
}
function best(name, all) {
  const better = byName.get(name).better;
  const means = Object.values(all).map((s) => s.mean);
  if (better === "neither" || means.length < 2) return null;
  return better === "high" ? Math.max(...means) : Math.min(...means);
}
$("table").append(heads("measure", series), make("tbody", {}, ...measures.map(({ name }) => {
  const all = summaries.whole[name];
  const top = best(name, all);
  return make("tr", {}, chooser(name), ...series.map((one) => {
    const s = all[one];
    if (!s) return make("td", {}, "–");
    const title = `median ${number(s.median)}, n ${s.count}`;
    return make("td", { class: s.mean === top ? "best" : "", title }, make("b", {}, number(s.mean)), make("small", {}, interval(s)), make("small", {}, number(s.median)));
  }));
})));

const compared = summaries.comparisons;
if (compared.length > 0) {
  $("comparison").hidden = false;
  $("comparison-title").textContent = `Against ${compared[0].with}`;
  const names = measures.map((measure) => measure.name).filter((name) => compared.some((c) => c.differences[name]));
  $("differences").append(heads("measure", compared.map((c) => c.series)), make("tbody", {}, ...names.map((name) =>
    make("tr", {}, chooser(name), ...compared.map((c) => {
      const s = c.differences[name];
      if (!s) return make("td", {}, "–");
      const clear = s.low > 0 || s.high < 0;
      const better = byName.get(name).better;
      const good = clear && better !== "neither" && (s.mean > 0) === (better === "high");
      return make("td", { class: good ? "best" : clear ? "" : "plain", title: `${s.count} tasks` }, make("b", {}, signed(s.mean)), make("small", {}, interval(s)));
    })))));
}

// One histogram a series, on the same scale.
function histogram(name) {
  const values = series.map((_, at) => rows.filter((row) => row.series === at && name in row.measures).map((row) => row.measures[name]));
  const all = values.flat();
  $("histogram").replaceChildren();
  if (all.length === 0) return;
  let low = all.reduce((a, b) => Math.min(a, b));
  let high = all.reduce((a, b) => Math.max(a, b));
  if (high === low) [low, high] = [low - 0.5, high + 0.5];
  const bins = Math.max(10, Math.min(60, Math.ceil(2 * Math.cbrt(all.length))));
  const counts = values.map((of) => {
    const bin = new Array(bins).fill(0);
    for (const value of of) bin[Math.min(bins - 1, Math.floor((value - low) / (high - low) * bins))] += 1;
    return bin;
  });
  const highest = Math.max(...counts.flat());
  const [width, height, left, bottom] = [1000, 120, 170, 26];
  const x = (value) => left + (value - low) / (high - low) * (width - left - 20);
  series.forEach((one, at) => {
    if (values[at].length === 0) return;
    const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${name} of ${one}` });
    svg.append(draw("line", { x1: left, x2: width - 20, y1: height - bottom, y2: height - bottom }));
    counts[at].forEach((count, bin) => {
      const size = count / highest * (height - bottom - 14);
      const from = low + (high - low) * bin / bins;
      const bar = draw("rect", { class: colour(at), x: x(from) + 0.5, width: (width - left - 20) / bins - 1, y: height - bottom - size, height: size });
      bar.append(draw("title", {}, `${count} from ${number(from)} to ${number(from + (high - low) / bins)}`));
      svg.append(bar);
    });
    const s = summaries.whole[name][one];
    svg.append(draw("line", { class: "mean", x1: x(s.mean), x2: x(s.mean), y1: 8, y2: height - bottom }));
    svg.append(draw("text", { x: 14, y: 26 }, one.length > 24 ? one.slice(0, 23) + "…" : one), draw("text", { x: 14, y: 46 }, `mean ${number(s.mean)}`));
    for (let tick = 0; tick <= 4; tick += 1) {
      const value = low + (high - low) * tick / 4;
      svg.append(draw("text", { x: x(value), y: height - 8, "text-anchor": tick === 4 ? "end" : "middle" }, number(value)));
    }
    $("histogram").append(svg);
  });
}

// measure < number, joined by and, or, not and parentheses: diorama eval --where knows the same.
function parse(text) {
  const tokens = [...text.matchAll(/\s*(?:(-?\d+(?:\.\d*)?(?:e-?\d+)?|-?\.\d+)|([a-z_][a-z_0-9]*)|(<=|>=|==|!=|<|>|=)|([()])|(\S))/gi)]
    .map((match) => ({ number: match[1], word: match[2], sign: match[3], bracket: match[4], other: match[5], at: match.index + match[0].length - match[0].trimStart().length }));
  let at = 0;
  const fail = (message) => { throw { message, at: at < tokens.length ? tokens[at].at : text.length }; };
  const is = (word) => tokens[at]?.word?.toLowerCase() === word;
  function any() {
    let left = all();
    while (is("or")) { at += 1; const [a, b] = [left, all()]; left = (m) => a(m) || b(m); }
    return left;
  }
  function all() {
    let left = one();
    while (is("and")) { at += 1; const [a, b] = [left, one()]; left = (m) => a(m) && b(m); }
    return left;
  }
  function one() {
    if (is("not")) { at += 1; const inner = one(); return (m) => !inner(m); }
    if (tokens[at]?.bracket === "(") {
      at += 1;
      const inner = any();
      if (tokens[at]?.bracket !== ")") fail("a ) is missing");
      at += 1;
      return inner;
    }
    const name = tokens[at]?.word;
    if (!name) fail("a measure was expected");
    if (!byName.has(name)) fail(`no row has a measure ${name}`);
    at += 1;
    const sign = tokens[at]?.sign;
    if (!sign) fail("< <= > >= = or != was expected");
    at += 1;
    if (tokens[at]?.number === undefined) fail("a number was expected");
    const value = Number(tokens[at].number);
    at += 1;
    const compare = { "<": (a) => a < value, "<=": (a) => a <= value, ">": (a) => a > value, ">=": (a) => a >= value, "=": (a) => a === value, "==": (a) => a === value, "!=": (a) => a !== value }[sign];
    return (m) => name in m && compare(m[name]);
  }
  if (tokens.length === 0) return () => true;
  const whole = any();
  if (at < tokens.length) fail("and, or or the end was expected");
  return whole;
}

const BATCH = 12;
let chosen = [];
let drawn = 0;
let keep = () => true;

function choose() {
  const name = $("measure").value;
  const measure = byName.get(name);
  for (const button of document.querySelectorAll("[data-measure]")) button.setAttribute("aria-pressed", button.dataset.measure === name);
  $("measure-title").textContent = name;
  $("measure-about").textContent = [measure.about, { high: "higher is better", low: "lower is better" }[measure.better]].filter(Boolean).join("; ");
  histogram(name);
  const problem = $("where-problem");
  try {
    keep = parse($("where").value);
    problem.hidden = true;
    $("where").setAttribute("aria-invalid", "false");
  } catch (error) {
    if (error.at === undefined) throw error;
    problem.hidden = false;
    problem.textContent = `${$("where").value}\n${" ".repeat(error.at)}^ ${error.message}`;
    $("where").setAttribute("aria-invalid", "true");
  }
  const wanted = Number($("series").value);
  const words = $("text").value.toLowerCase().split(/\s+/).filter(Boolean);
  chosen = rows.filter((row) => row.series === wanted && keep(row.measures) && words.every((word) => row.haystack.includes(word)));
  const down = (measure.better === "low") === ($("order").value === "worst");
  const value = (row) => row.measures[name] ?? (down ? -Infinity : Infinity);
  chosen.sort((a, b) => (down ? value(b) - value(a) : value(a) - value(b)) || (a.id < b.id ? -1 : 1));
  const all = rows.filter((row) => row.series === wanted).length;
  const cut = rows.length < data.total ? ` (the first ${rows.length} of ${data.total} rows are in this page)` : "";
  $("count").textContent = `${chosen.length} of ${all}${cut}`;
  $("rows").replaceChildren();
  drawn = 0;
  more();
}
function more() {
  const next = chosen.slice(drawn, drawn + BATCH);
  $("rows").append(...next.map(card));
  drawn += next.length;
  $("more").hidden = drawn >= chosen.length;
}
function picture(src, caption) {
  const image = make("img", { alt: caption, loading: "lazy", src: src ?? "" });
  image.addEventListener("load", () => { if (image.naturalWidth < 200) image.className = "small"; });
  return make("figure", {}, image, make("figcaption", {}, src ? caption : `${caption}: not here`));
}
function card(row) {
  const name = $("measure").value;
  const facts = measures.filter((measure) => measure.name in row.measures)
    .map((measure) => make("span", { class: measure.name === name ? "chosen" : "" }, `${measure.name} `, make("b", {}, number(row.measures[measure.name]))));
  const pictures = row.problem ? [] : [picture(row.reference, "reference"), picture(row.picture, series[row.series])];
  const notes = [...row.notes, row.problem].filter(Boolean).map((note) => make("p", { class: "note" }, note));
  return make("article", { class: "row" }, make("h3", { title: row.id }, row.prompt ?? row.id), make("div", { class: "pair" }, ...pictures), make("div", { class: "facts" }, ...facts), ...notes);
}

function save(name, text) {
  const link = make("a", { href: URL.createObjectURL(new Blob([text], { type: "text/plain" })), download: name });
  link.click();
  URL.revokeObjectURL(link.href);
}
$("save-ids").addEventListener("click", () => save("ids.txt", chosen.map((row) => row.id + "\n").join("")));
$("save-manifest").addEventListener("click", () => save("manifest.jsonl", chosen.map((row) => {
  const line = { custom_id: row.id, reference: row.source, prompt: row.prompt, seed: row.seed };
  return JSON.stringify(Object.fromEntries(Object.entries(line).filter(([, value]) => value !== null))) + "\n";
}).join("")));

for (const row of rows) row.haystack = [row.id, row.prompt, row.scene, row.category, row.problem, ...row.notes].filter(Boolean).join("\n").toLowerCase();
$("series").append(...series.map((name, at) => make("option", { value: at }, name)));
$("measure").append(...measures.map(({ name }) => make("option", { value: name }, name)));
for (const id of ["series", "measure", "order", "where", "text"]) $(id).addEventListener("input", choose);
$("controls").addEventListener("submit", (event) => event.preventDefault());
$("show-more").addEventListener("click", more);
if (measures.length > 0) choose();
