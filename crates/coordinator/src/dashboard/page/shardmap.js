// The map of shards: a cell each, on a canvas, up to some hundred thousand of them.

import { h, put, set, show, text } from "./dom.js";
import { count, counted } from "./format.js";
import { shardName } from "./words.js";

const [COMMITTED, VOID, HELD, FAILING] = [1, 2, 3, 4];
const KINDS = [["waiting", "waiting"], ["committed", "committed"], ["void", "left out by a cancellation"], ["held", "held by a worker"], ["failing", "with recent failures"]];
const HIGHEST = 300;
const SMALLEST = 2;
const LARGEST = 18;

// A word of memory for a colour of the style sheet, as canvases lay it out.
function pixel(words) {
  const [red, green, blue] = words.trim().match(/^#(..)(..)(..)$/).slice(1).map((part) => parseInt(part, 16));
  return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}

function statesOf(shards) {
  const states = new Uint8Array(shards.shards);
  for (const [first, number] of shards.committed) states.fill(COMMITTED, first, first + number);
  for (const [first, number] of shards.void ?? []) states.fill(VOID, first, first + number);
  for (const index of shards.failing ?? []) if (states[index] !== VOID && index < states.length) states[index] = FAILING;
  for (const { index } of shards.held ?? []) if (states[index] !== COMMITTED && index < states.length) states[index] = HELD;
  return states;
}

export function shardMap(open, signal) {
  const canvas = h("canvas", { "aria-hidden": "true" });
  const [cursor, tip] = [h("div", { class: "cursor", hidden: true }), h("div", { class: "tip", hidden: true })];
  const [said, legend] = [h("p", { class: "away", role: "status" }), h("dl", { class: "legend" })];
  const sheet = h("div", { class: "sheet" }, canvas, cursor);
  const box = h("div", { class: "map", tabindex: "0", role: "application", "aria-label": "Map of shards", "aria-describedby": "map-help" }, sheet);
  const frame = h("div", { class: "mapframe" }, box, tip);
  const help = h("p", { class: "away", id: "map-help" }, "Arrow keys move between shards, Enter opens one.");
  const element = h("div", {}, frame, help, said, legend);
  let [data, states, holders, cell, gap, columns, width, at, scale] = [null, new Uint8Array(), new Map(), 1, 0, 1, 0, null, 1];

  // Sizes are in the device's own pixels, so that cells are sharp.
  function layout() {
    width = box.clientWidth;
    scale = window.devicePixelRatio || 1;
    const room = Math.floor(width * scale);
    const number = Math.max(1, states.length);
    cell = Math.round(LARGEST * scale);
    while (cell > SMALLEST * scale && Math.ceil(number / Math.max(1, Math.floor(room / cell))) * cell > HIGHEST * scale) cell -= 1;
    cell = Math.max(1, Math.ceil(cell));
    gap = cell >= 10 * scale ? Math.round(2 * scale) : cell >= 4 * scale ? Math.max(1, Math.round(scale)) : cell >= 3 ? 1 : 0;
    columns = Math.max(1, Math.floor(room / cell));
    canvas.width = Math.min(columns, number) * cell;
    canvas.height = Math.ceil(number / columns) * cell;
    canvas.style.width = `${canvas.width / scale}px`;
    canvas.style.height = `${canvas.height / scale}px`;
  }

  function draw() {
    if (!data || states.length === 0 || box.clientWidth === 0) return;
    layout();
    const style = getComputedStyle(element);
    const colours = KINDS.map(([name]) => pixel(style.getPropertyValue(`--shard-${name}`)));
    const context = canvas.getContext("2d");
    const image = context.createImageData(canvas.width, canvas.height);
    const words = new Uint32Array(image.data.buffer);
    const [size, wide] = [cell - gap, canvas.width];
    for (let row = 0, index = 0; index < states.length; row += 1) {
      const start = row * cell * wide;
      for (let column = 0; column < columns && index < states.length; column += 1, index += 1) {
        const from = start + column * cell;
        const colour = colours[states[index]];
        for (let x = from; x < from + size; x += 1) words[x] = colour;
      }
      for (let line = 1; line < size; line += 1) words.copyWithin(start + line * wide, start, start + wide);
    }
    context.putImageData(image, 0, 0);
    marks(context, style, size);
  }

  // What is told by more than its colour, where there is room: void is hollow, held fills up, failing has a notch.
  function marks(context, style, size) {
    const paper = style.getPropertyValue("--paper");
    const edge = Math.max(1, Math.round(size / 8));
    const place = (index) => [(index % columns) * cell, Math.floor(index / columns) * cell];
    if (size < 5 * scale) return dots(context, style, place, size);
    context.fillStyle = paper;
    for (let index = 0; index < states.length; index += 1) {
      const [x, y] = place(index);
      if (states[index] === VOID) context.fillRect(x + edge, y + edge, size - 2 * edge, size - 2 * edge);
      if (states[index] === FAILING) context.fillRect(x + size / 2 - edge, y + size / 2 - edge, 2 * edge, 2 * edge);
      if (states[index] !== HELD) continue;
      const share = Math.min(1, holders.get(index).done / tasksOf(index));
      const high = Math.round((size - 2 * edge) * (1 - share));
      context.fillRect(x + edge, y + edge, size - 2 * edge, high);
    }
  }

  // Where cells are specks, the few that matter are larger than their cell.
  function dots(context, style, place, size) {
    for (const [kind, reach] of [["failing", 2.5], ["held", 2]]) {
      context.fillStyle = style.getPropertyValue(`--shard-${kind}`);
      for (const index of kind === "held" ? holders.keys() : data.failing ?? []) {
        if (states[index] !== (kind === "held" ? HELD : FAILING)) continue;
        const [x, y] = place(index).map((start) => start + size / 2);
        const far = Math.max(reach * scale, size / 2);
        context.beginPath();
        if (kind === "held") context.rect(x - far, y - far, 2 * far, 2 * far);
        else context.arc(x, y, far, 0, 7);
        context.fill();
      }
    }
  }

  const tasksOf = (index) => Math.max(1, Math.min(data.shard_size, data.tasks - index * data.shard_size));

  function sentence(index) {
    const state = states[index];
    const holder = holders.get(index);
    const name = shardName(data.round, index);
    const size = counted(tasksOf(index), "picture");
    if (state === HELD) return `${name}: held by ${holder.worker}, ${count(holder.done)} of ${size} made${holder.failed ? `, ${count(holder.failed)} failed` : ""}`;
    if (state === FAILING) return `${name}: ${size}, some failed recently`;
    return `${name}: ${["waiting", "committed", "left out by the cancellation"][state]}, ${size}`;
  }

  function go(index, isKey) {
    at = index === null ? null : Math.max(0, Math.min(states.length - 1, index));
    show(cursor, at !== null);
    show(tip, at !== null);
    if (at === null) return;
    const [x, y, size] = [((at % columns) * cell) / scale, (Math.floor(at / columns) * cell) / scale, (cell - gap) / scale];
    const grown = Math.max(size, 7);
    Object.assign(cursor.style, { left: `${x - (grown - size) / 2}px`, top: `${y - (grown - size) / 2}px`, width: `${grown}px`, height: `${grown}px` });
    if (isKey) cursor.scrollIntoView({ block: "nearest", inline: "nearest" });
    text(tip, sentence(at));
    const top = y - box.scrollTop;
    tip.style.left = `${Math.max(0, Math.min(x, box.clientWidth - tip.offsetWidth))}px`;
    tip.style.top = `${top > tip.offsetHeight + 8 ? top - tip.offsetHeight - 6 : top + size + 8}px`;
    if (isKey) text(said, sentence(at));
  }

  const under = (event) => {
    const place = canvas.getBoundingClientRect();
    const [column, row] = [Math.floor(((event.clientX - place.left) * scale) / cell), Math.floor(((event.clientY - place.top) * scale) / cell)];
    const index = row * columns + column;
    return column >= 0 && column < columns && row >= 0 && index < states.length ? index : null;
  };
  box.addEventListener("pointermove", (event) => go(under(event), false));
  box.addEventListener("pointerleave", () => go(null));
  box.addEventListener("click", (event) => {
    const index = under(event);
    if (index !== null) open(shardName(data.round, index));
  });
  box.addEventListener("focus", () => { if (box.matches(":focus-visible") && states.length) go(at ?? 0, true); });
  box.addEventListener("blur", () => go(null));
  box.addEventListener("keydown", (event) => {
    if (!states.length) return;
    const from = at ?? 0;
    const to = { ArrowLeft: from - 1, ArrowRight: from + 1, ArrowUp: from - columns, ArrowDown: from + columns, Home: 0, End: states.length - 1, PageUp: from - 10 * columns, PageDown: from + 10 * columns }[event.key];
    if (to !== undefined) {
      event.preventDefault();
      const stays = (event.key === "ArrowUp" || event.key === "ArrowDown") && (to < 0 || to >= states.length);
      go(stays ? from : to, true);
    } else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      open(shardName(data.round, from));
    } else if (event.key === "Escape") go(null);
  });
  new ResizeObserver(() => { if (box.clientWidth !== width) draw(); }).observe(box);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw, { signal });

  return {
    element,
    update(now) {
      const key = JSON.stringify([now.round, now.shards, now.committed, now.void, now.held, now.failing]);
      if (data?.key === key) return;
      data = { ...now, key };
      holders = new Map((now.held ?? []).map((holder) => [holder.index, holder]));
      states = statesOf(now);
      draw();
      if (at !== null) go(at, false);
      const numbers = KINDS.map(() => 0);
      for (const state of states) numbers[state] += 1;
      const shown = KINDS.map(([name, words], kind) => [name, words, numbers[kind]]).filter(([name, , number]) => number > 0 || (name !== "void" && name !== "failing"));
      put(legend, shown, () => shown.map(([name, words, number]) => h("div", { "data-kind": name }, h("dt", {}, h("span", { class: "swatch", "aria-hidden": "true" }), words), h("dd", { "data-figure": `shards_${name}`, "data-value": number }, count(number)))));
      set(box, "aria-label", `Map of ${counted(states.length, "shard")}: ${shown.map(([, words, number]) => `${count(number)} ${words}`).join(", ")}`);
    },
  };
}
