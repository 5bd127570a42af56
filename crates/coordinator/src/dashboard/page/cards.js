// A picture as a card: the picture large, what it was made from and how beside it, and what is to be said of it.

import { below, figure, h, link, put, set, show, text, thumbnail } from "./dom.js";
import { decibel, exactPercent, moment } from "./format.js";
import { href, roleName, roles } from "./words.js";

export const explained = "PSNR against the reference outside the row's region: how well the place was preserved";

// Small pictures keep their pixels when they are shown large. One that cannot be loaded says so.
export function image(url, alt, { width = 256, lazy = true } = {}) {
  const source = width ? thumbnail(url, width) : below(url);
  const missing = () => h("span", { class: "missing" }, "cannot be shown");
  if (!source) return missing();
  const element = h("img", { src: source, alt, loading: lazy ? "lazy" : null, decoding: "async" });
  let [tries, note] = [0, null];
  element.addEventListener("load", () => {
    element.classList.toggle("tiny", element.naturalWidth <= 128);
    element.hidden = false;
    note?.remove();
    note = null;
  });
  element.addEventListener("error", () => {
    if (!note) element.after((note = missing()));
    [element.hidden, element.loading] = [true, "eager"];
    tries += 1;
    // The coordinator may have been away for a moment.
    if (tries < 4) setTimeout(() => { if (element.isConnected) element.src = source; }, 2000 * tries ** 2);
  });
  return element;
}

// Every file of a picture with its name: the reference first where `withReference`.
export function layers(picture) {
  const list = roles(picture).map((role) => ({ role, name: roleName(role), url: picture.files[role] }));
  if (picture.reference?.url) list.unshift({ role: "reference", name: "reference", url: picture.reference.url });
  return list;
}

function frame(layer, alt, kind) {
  return h("figure", { class: kind, "data-role": layer.role }, image(layer.url, alt), h("figcaption", {}, layer.name));
}

export function pictureCard(run, picture) {
  const title = link(href.task(run, picture.task));
  const frames = h("div", { class: "frames" });
  const facts = h("p", { class: "facts" });
  const [id, shard, mask, outside, made] = [h("span", { class: "id" }), h("span"), h("span"), h("span", { title: explained }), h("time")];
  const notes = h("div", { class: "notes" });
  facts.append(id, shard, mask, outside, made);
  const element = h("li", { class: "card", "data-task": picture.task }, frames, h("h3", {}, title), facts, notes);

  element.update = (now) => {
    set(element, "data-status", now.status);
    text(title, now.prompt || "(no prompt)");
    set(title, "title", now.prompt || null);
    const all = layers(now);
    put(frames, [all, now.status], () => {
      const main = all.find((layer) => layer.role === "image");
      const rest = all.filter((layer) => layer !== main);
      const words = now.prompt ?? "";
      const blank = now.status === "failed" ? "no picture" : now.status === "waiting" ? "not made yet" : "no picture";
      const large = main ? frame(main, `picture: ${words}`, "made") : h("figure", { class: "made none" }, h("span", { class: "missing" }, blank));
      const small = rest.slice(0, 4).map((layer) => frame(layer, `${layer.name}: ${words}`, ""));
      if (rest.length > 4) small.push(h("span", { class: "more" }, `+${rest.length - 4}`));
      return h("a", { href: href.task(run, now.task), tabindex: "-1", class: rest.length ? "strip" : "strip alone" }, large, h("div", { class: "beside" }, small));
    });
    text(id, now.custom_id);
    text(shard, now.shard);
    figure(mask, "mask", now.mask_coverage, (share) => `mask ${exactPercent(share)}`);
    show(mask, typeof now.mask_coverage === "number");
    const kept = now.scores?.outside_psnr;
    figure(outside, "outside", kept, (psnr) => `place kept ${decibel(psnr)}`);
    show(outside, typeof kept === "number");
    moment(made, now.committed_at);
    show(made, now.committed_at);
    put(notes, [now.error, now.warnings], () => [
      now.error && h("p", { class: "note failure" }, h("b", {}, now.error.code), ` ${now.error.message}`),
      (now.warnings ?? []).map((words) => h("p", { class: "note warning" }, words)),
    ]);
  };
  return element;
}
