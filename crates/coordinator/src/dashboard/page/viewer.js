// One layer of a picture as large as the window allows; arrow keys go through the layers.

import { below, h, set, text } from "./dom.js";

let dialog = null;
let [layers, at, words] = [[], 0, ""];
let [title, large, caption] = [];

function draw() {
  const layer = layers[at];
  text(title, words);
  set(large, "src", below(layer.url));
  set(large, "alt", `${layer.name}: ${words}`);
  text(caption, `${layer.name} · ${at + 1} of ${layers.length}`);
}

function step(by) {
  at = (at + by + layers.length) % layers.length;
  draw();
}

function make() {
  title = h("h2", { id: "viewer-title" });
  large = h("img", { alt: "" });
  caption = h("figcaption", { role: "status" });
  large.addEventListener("load", () => large.classList.toggle("tiny", large.naturalWidth <= 128));
  dialog = h("dialog", { class: "viewer", "aria-labelledby": "viewer-title" },
    h("header", {}, title, h("button", { type: "button", "aria-label": "Close", click: () => dialog.close() }, "✕")),
    h("div", { class: "stage" },
      h("button", { type: "button", "aria-label": "Layer before", click: () => step(-1) }, "‹"),
      h("figure", {}, large, caption),
      h("button", { type: "button", "aria-label": "Layer after", click: () => step(1) }, "›")));
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    event.stopPropagation();
    if (!by) return;
    event.preventDefault();
    step(by);
  });
  document.body.append(dialog);
}

export function enlarge(list, index, prompt) {
  if (!dialog) make();
  [layers, at, words] = [list, index, prompt];
  draw();
  dialog.showModal();
}

export function closeViewer() {
  if (dialog?.open) dialog.close();
}
