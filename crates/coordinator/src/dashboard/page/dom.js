// Making and updating elements. Everything from outside becomes text or an attribute, never markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else set(element, name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

// null, undefined and false remove an attribute; nothing is written that is there already.
export function set(element, name, value) {
  if (value === null || value === undefined || value === false) {
    if (element.hasAttribute(name)) element.removeAttribute(name);
  } else {
    const text = value === true ? "" : String(value);
    if (element.getAttribute(name) !== text) element.setAttribute(name, text);
  }
}

export function text(element, value) {
  const wanted = value === null || value === undefined ? "" : String(value);
  if (element.textContent !== wanted) element.textContent = wanted;
}

export function show(element, is) {
  if (element.hidden === Boolean(is)) element.hidden = !is;
}

// Replaces what an element holds, unless `of` says that it would be the same again.
const drawn = new WeakMap();
export function put(element, of, make) {
  const key = JSON.stringify(of ?? null);
  if (drawn.get(element) === key) return;
  drawn.set(element, key);
  element.replaceChildren(...[make()].flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
}

export function clear(element) {
  drawn.delete(element);
  if (element.firstChild) element.replaceChildren();
}

// Brings the children of `parent` in line with `items`, in place: an element of a key stays the same one, and is not
// moved as long as the order of those that stay is the same. One with the focus outlives its item until it loses it. `tells`: those that come later have the class `new`.
const known = new WeakMap();
export function keyed(parent, items, keyOf, make, update = () => {}, tells = false) {
  const before = known.get(parent) ?? new Map();
  const isLater = known.has(parent);
  const after = new Map();
  for (const item of items) after.set(String(keyOf(item)), item);
  const kept = new Set();
  for (const [key, element] of before) {
    if (after.has(key)) continue;
    if (element.contains(document.activeElement)) kept.add(element);
    else element.remove();
  }
  const now = new Map();
  let next = parent.firstElementChild;
  for (const [key, item] of after) {
    while (kept.has(next)) next = next.nextElementSibling;
    let element = before.get(key);
    const isNew = !element;
    if (isNew) element = make(item);
    if (isNew && tells && isLater) element.classList.add("new");
    update(element, item);
    if (element === next) next = next.nextElementSibling;
    else if (!isNew && parent.moveBefore) parent.moveBefore(element, next);
    else parent.insertBefore(element, next);
    now.set(key, element);
  }
  for (const element of kept) now.set(`gone ${Math.random()}`, element);
  known.set(parent, now);
}

// Whether the pointer is being moved over an element: what is under it must not be exchanged just then.
export function pointing(element) {
  let last = -Infinity;
  element.addEventListener("pointermove", () => { last = performance.now(); });
  element.addEventListener("pointerleave", () => { last = -Infinity; });
  return () => performance.now() - last < 3000;
}

// A figure that tests and people read: what is absent is a dash.
export function figure(element, name, value, words) {
  set(element, "data-figure", name);
  set(element, "data-value", value === null || value === undefined ? null : value);
  text(element, value === null || value === undefined ? "–" : words(value));
}

export function link(href, ...children) {
  return h("a", { href }, ...children);
}

// Only what lies below this page is ever asked for as a picture or a file.
const base = new URL(".", document.baseURI).href;
export function below(url) {
  if (typeof url !== "string") return null;
  try {
    const whole = new URL(url, base).href;
    return whole.startsWith(base) ? whole : null;
  } catch {
    return null;
  }
}

export function thumbnail(url, width = 256) {
  const whole = below(url);
  return whole && `${whole}${whole.includes("?") ? "&" : "?"}width=${width}`;
}

let told = 0;
export function notice(words, kind = "good") {
  const place = document.getElementById("notice");
  clearTimeout(told);
  place.replaceChildren(h("p", { class: `notice ${kind}` }, words));
  told = setTimeout(() => place.replaceChildren(), 8000);
}

async function copy(words) {
  try {
    await navigator.clipboard.writeText(words);
    return true;
  } catch {
    // Without https there is no clipboard: the old way.
    const area = h("textarea", { class: "away", readonly: true, "aria-hidden": "true", tabindex: "-1" });
    area.value = words;
    const focused = document.activeElement;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    focused?.focus();
    return done;
  }
}

// A command for the terminal, with a button that copies it.
export function command(words, what) {
  const button = h("button", { type: "button", class: "small", "aria-label": `Copy: ${words}` }, "Copy");
  button.addEventListener("click", async () => {
    text(button, (await copy(words)) ? "Copied" : "Select it and copy it");
    setTimeout(() => text(button, "Copy"), 2000);
  });
  return h("div", { class: "command" }, what && h("span", { class: "soft" }, what), h("code", { tabindex: "0" }, words), button);
}
