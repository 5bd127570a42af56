// A run in a list: its name, how far it is, and what keeps it.

import { figure, h, link, put, set, show, text } from "./dom.js";
import { count, decimal, done, duration, moment } from "./format.js";
import { bar, chip, etaWords } from "./progress.js";
import { hasEnded, href, nameOf, waitingShort } from "./words.js";

export function runCard(run) {
  const [state, progress] = [chip(), bar()];
  const name = link(href.run(run.run));
  const id = h("span", { class: "id" });
  const [share, numbers, rate, left, failed, trouble] = ["share", "of", "rate", "left", "bad", "trouble"].map((kind) => h("span", { class: kind }));
  const [labels, submitted] = [h("span", { class: "labels" }), h("time", { class: "soft" })];
  const element = h("li", { class: "run", "data-run": run.run },
    h("div", { class: "title" }, h("h3", {}, name), state.element, h("span", { class: "grow" }), share),
    progress.element,
    h("div", { class: "facts" }, numbers, rate, left, failed, trouble, h("span", { class: "grow" }), labels, id, submitted));

  element.update = (now) => {
    state.update(now);
    progress.update(now);
    text(name, nameOf(now));
    text(id, now.name ? now.run : "");
    set(element, "data-state", now.state);
    figure(share, "share", now.tasks ? now.done / now.tasks : null, () => done(now.done, now.tasks));
    put(numbers, [now.done, now.tasks], () => {
      const made = h("b");
      figure(made, "done", now.done, count);
      return [made, ` of ${count(now.tasks)} pictures`];
    });
    const speed = hasEnded(now) ? now.summary.pictures_per_second : now.pictures_per_second;
    figure(rate, "rate", speed ?? null, (value) => `${decimal(value)} pictures/s${hasEnded(now) ? " on average" : ""}`);
    show(rate, typeof speed === "number");
    const ends = hasEnded(now) ? `took ${duration(now.summary.wall_seconds)}` : etaWords(now) && `${etaWords(now)} left`;
    text(left, ends ?? "");
    figure(failed, "failed", now.failed, (value) => `${count(value)} failed`);
    show(failed, now.failed > 0);
    const why = now.reason ? `paused by Diorama: ${now.reason}` : now.state === "running" && now.waiting ? waitingShort[now.waiting.for] ?? "waiting" : now.degraded ?? "";
    text(trouble, why);
    put(labels, now.labels, () => Object.entries(now.labels ?? {}).slice(0, 4).map(([key, value]) => link(href.label(key, value), `${key}=${value}`)));
    moment(submitted, now.submitted_at);
    submitted.title = `submitted ${submitted.title}`;
  };
  return element;
}
