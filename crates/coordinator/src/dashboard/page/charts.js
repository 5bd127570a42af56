// Pictures a second over time, and how a measure is spread: SVG with the same as words and as a table.

import { h, put, set, svg, text } from "./dom.js";
import { clock, count, decimal, duration } from "./format.js";

const HEIGHT = 132;
const EDGE = { left: 34, right: 6, top: 8, bottom: 18 };

// The intervals as buckets without gaps: what is left out made nothing.
function buckets(series, from, to, most) {
  const size = series.seconds * Math.max(1, Math.ceil((to - from) / series.seconds / most));
  const start = Math.floor(from / size) * size;
  const number = Math.max(0, Math.floor((to - start) / size));
  const sums = new Array(number).fill(0);
  for (const { at, done } of series.intervals) {
    const bucket = Math.floor((at - start) / size);
    if (bucket >= 0 && bucket < number) sums[bucket] += done;
  }
  return { size, points: sums.map((done, at) => ({ at: start + at * size, rate: done / size, done })) };
}

function nice(highest) {
  if (highest === 0) return 1;
  const power = 10 ** Math.floor(Math.log10(highest));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((step) => step * power).find((step) => step >= highest);
}

function times(from, to, room) {
  const step = [15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400].find((one) => (to - from) / one <= room) ?? 172800;
  const shift = new Date(from * 1000).getTimezoneOffset() * 60;
  const list = [];
  for (let at = Math.ceil((from - shift) / step) * step + shift; at <= to; at += step) list.push(at);
  return list;
}

export function throughputChart(what) {
  const lines = svg("g", { class: "grid" });
  const area = svg("path", { class: "area" });
  const line = svg("path", { class: "line" });
  const mark = svg("g", { class: "mark", visibility: "hidden" }, svg("path"), svg("circle", { r: 3 }));
  const picture = svg("svg", { height: HEIGHT, role: "img" }, lines, area, line, mark);
  const said = h("span", { class: "said" });
  const table = h("table", {}, h("thead", {}, h("tr", {}, h("th", {}, "From"), h("th", {}, "Pictures"), h("th", {}, "Pictures/s"))), h("tbody"));
  const details = h("details", {}, h("summary", {}, "As a table"), h("div", { class: "scroll", tabindex: "0" }, table));
  const spans = h("span", { class: "switch", role: "group", "aria-label": "How far back" });
  const box = h("div", { class: "plot" }, picture);
  const element = h("figure", { class: "chart" }, h("figcaption", {}, h("span", {}, what), said, h("span", { class: "grow" }), spans), box, details);
  let [series, ended, hour, width, shown, over, isEmpty] = [null, false, true, 0, null, null, false];

  function draw() {
    if (!series || width < 40) return;
    const last = series.intervals.at(-1)?.at ?? series.now;
    const to = ended || series.intervals.length === 1 ? last + series.seconds : series.now - (series.now % series.seconds);
    const first = series.intervals[0]?.at ?? to;
    const long = to - first > 3600 + series.seconds;
    const from = long && hour ? to - 3600 : ended ? first : Math.min(first, to - 120);
    const { size, points } = buckets(series, from, Math.max(to, from + series.seconds), Math.max(20, (width - 40) / 3));
    const begun = points.filter((point) => point.at + size > first);
    const highest = nice(Math.max(...points.map((point) => point.rate), 0));
    const x = (at) => EDGE.left + ((at - from) / Math.max(1, to - from)) * (width - EDGE.left - EDGE.right);
    const y = (rate) => HEIGHT - EDGE.bottom - (rate / highest) * (HEIGHT - EDGE.top - EDGE.bottom);
    shown = { begun, x, y, size };
    set(picture, "width", width);
    // From the beginning of the first bucket to the end of the last one, through the middles of all.
    const corners = begun.length ? [[begun[0].at, begun[0].rate], ...begun.map((point) => [point.at + size / 2, point.rate]), [begun.at(-1).at + size, begun.at(-1).rate]] : [];
    const way = corners.map(([at, rate], index) => `${index ? "L" : "M"}${x(Math.max(at, from)).toFixed(1)} ${y(rate).toFixed(1)}`).join("");
    set(line, "d", way || null);
    set(area, "d", begun.length ? `${way}V${y(0)}H${x(Math.max(begun[0].at, from)).toFixed(1)}Z` : null);
    put(lines, [width, highest, from, to], () => [
      ...[0, 0.5, 1].map((part) => [
        svg("path", { d: `M${EDGE.left} ${Math.round(y(highest * part)) + 0.5}H${width - EDGE.right}` }),
        svg("text", { x: EDGE.left - 6, y: y(highest * part) + 4, "text-anchor": "end" }, part ? decimal(highest * part).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "") : "0"),
      ]),
      ...times(from, to, width / 90).filter((at) => x(at) > EDGE.left + 12 && x(at) < width - 20).map((at) => svg("text", { x: x(at), y: HEIGHT - 3, "text-anchor": "middle" }, clock(at, to - from < 600))),
    ].flat(2));
    const rates = series.intervals.length ? begun.map((point) => point.rate) : [];
    set(picture, "aria-label", rates.length === 0 ? `${what}: nothing was made yet` :
      `${what} from ${clock(from)} to ${clock(to)}: last ${decimal(rates.at(-1))}, highest ${decimal(Math.max(...rates))}, lowest ${decimal(Math.min(...rates))}`);
    put(spans, [long, hour, Math.round((to - first) / 600)], () => long && [[true, "1 h"], [false, duration(to - first)]].map(([is, words]) =>
      h("button", { type: "button", "aria-pressed": String(is === hour), click: () => { hour = is; draw(); } }, words)));
    isEmpty = rates.length === 0;
    point(over);
    rows();
  }

  function rows() {
    if (!details.open || !shown) return;
    const list = shown.begun.slice(-240).reverse();
    put(table.tBodies[0], list, () => list.map(({ at, done, rate }) => h("tr", {}, h("td", {}, clock(at, true)), h("td", {}, count(done)), h("td", {}, decimal(rate)))));
  }

  function point(at) {
    over = at;
    const near = at === null ? null : shown?.begun.reduce((best, one) => (!best || Math.abs(shown.x(one.at + shown.size / 2) - at) < Math.abs(shown.x(best.at + shown.size / 2) - at) ? one : best), null);
    set(mark, "visibility", near ? null : "hidden");
    text(said, near ? `${clock(near.at, true)}: ${decimal(near.rate)} pictures/s` : isEmpty ? "nothing was made yet" : "");
    if (!near) return;
    const [left, top] = [shown.x(near.at + shown.size / 2), shown.y(near.rate)];
    set(mark.firstChild, "d", `M${left} ${EDGE.top}V${HEIGHT - EDGE.bottom}`);
    set(mark.lastChild, "cx", left);
    set(mark.lastChild, "cy", top);
  }

  box.addEventListener("pointermove", (event) => point(event.clientX - box.getBoundingClientRect().left));
  box.addEventListener("pointerleave", () => point(null));
  details.addEventListener("toggle", rows);
  new ResizeObserver(() => {
    if (Math.abs(box.clientWidth - width) < 1) return;
    width = box.clientWidth;
    draw();
  }).observe(box);
  return {
    element,
    update(now, isEnded = false) {
      [series, ended] = [now, isEnded];
      draw();
    },
  };
}

// A histogram: bins of equal width between `from` and `to`.
export function histogram(name, measure, words, explained) {
  const { mean, median } = measure;
  const all = measure.counts ?? [];
  const step = (measure.to - measure.from) / Math.max(1, all.length);
  // Empty bins on both sides say little: one stays.
  const first = Math.max(0, all.findIndex((number) => number > 0) - 1);
  const counts = all.slice(first, all.findLastIndex((number) => number > 0) + 2);
  const from = measure.from + first * step;
  const to = from + counts.length * step;
  const highest = Math.max(...counts, 1);
  const said = `${name}: mean ${typeof mean === "number" ? words(mean) : "–"}, median ${typeof median === "number" ? words(median) : "–"}`;
  const bars = counts.map((number, at) => svg("rect", { x: at * 10 + 0.5, width: 9, y: 60 - (number / highest) * 58, height: Math.max((number / highest) * 58, number ? 1 : 0) },
    svg("title", {}, `${words(from + at * step)} to ${words(from + (at + 1) * step)}: ${count(number)}`)));
  const middle = typeof median === "number" && to > from ? svg("path", { class: "median", d: `M${((median - from) / (to - from)) * counts.length * 10} 0V60` }) : null;
  return h("figure", { class: "histogram", title: explained },
    h("figcaption", {}, h("span", {}, name), h("span", { class: "soft" }, said.slice(name.length + 2))),
    svg("svg", { viewBox: `0 0 ${Math.max(1, counts.length) * 10} 61`, preserveAspectRatio: "none", role: "img", "aria-label": said }, svg("path", { class: "base", d: `M0 60.5H${counts.length * 10}` }), bars, middle),
    h("div", { class: "ends", "aria-hidden": "true" }, [from, to].map((end) => h("span", {}, words(end).replace(/\.0 /, " ")))),
    h("details", {}, h("summary", {}, "As a table"), h("div", { class: "scroll", tabindex: "0" }, h("table", {}, h("thead", {}, h("tr", {}, h("th", {}, "From"), h("th", {}, "Pictures"))),
      h("tbody", {}, counts.map((number, at) => h("tr", {}, h("td", {}, words(from + at * step)), h("td", {}, count(number)))))))));
}
