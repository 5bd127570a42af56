// What can be done to a run: only what its state and one's role allow, each after saying what it will do.

import * as api from "./api.js";
import { h, keyed, notice, put } from "./dom.js";
import { count, counted } from "./format.js";
import { hasEnded, nameOf } from "./words.js";

const code = (words) => h("code", {}, words);
// A run without an owner is an admin's to change, where there are tokens at all.
const isMine = (run, session) => !session.tokens || (run.owner && (run.owner.token === session.name || (run.owner.group && run.owner.group === session.group)));
const isOpen = (run) => !hasEnded(run) && run.state !== "cancelled" && run.state !== "finished" && run.state !== "submitting";

const ACTIONS = [
  {
    name: "pause", label: "Pause", fits: (run) => isOpen(run) && run.state === "running", done: "It is paused.",
    title: "Pause this run?",
    says: (run) => [
      `Nothing new starts. ${run.shards_running > 0 ? `Workers hold ${counted(run.shards_running, "shard")} of it and stop before their next batch.` : "No worker holds a shard of it now."}`,
      "What is committed stays. Resume continues where it stopped.",
    ],
  },
  {
    name: "resume", label: "Resume", fits: (run) => isOpen(run) && run.state === "paused", done: "It is running again.",
    title: "Resume this run?", main: true,
    says: (run) => [
      `Workers of the pool ${run.pool} continue with the ${counted(Math.max(0, run.tasks - run.done - run.failed), "task")} that are not done.`,
      run.reason && `Diorama paused it because: ${run.reason}`,
      run.reason && "If that is not fixed, it will be paused again.",
    ],
  },
  {
    name: "cancel", label: "Cancel", fits: isOpen, done: "It is being cancelled.",
    title: "Cancel this run?", bad: true, yes: "Cancel the run", no: "Keep it",
    says: (run) => {
      const left = Math.max(0, run.tasks - run.done - run.failed - run.retrying);
      return [
        [`${counted(left, "task")} that ${left === 1 ? "is" : "are"} not done will get the outcome `, code("cancelled"), run.in_work > 0 && `, ${count(run.in_work)} of them in progress now`, "."],
        run.retrying > 0 && `${counted(run.retrying, "task")} that failed and would be retried will keep that failure.`,
        [`The ${counted(run.done, "picture")} made so far stay; `, code("retry"), " takes the others up again."],
      ];
    },
  },
  {
    name: "retry", label: "Retry failed…", fits: (run) => hasEnded(run) && run.failed > 0, done: "It is retrying the failed tasks.",
    title: "Retry failed tasks?", main: true, yes: "Retry", form: retryForm,
    says: () => ["The run continues with a round of those tasks. All others keep their outcomes."],
  },
  {
    name: "delete", label: "Delete…", role: "admin", fits: (run) => hasEnded(run) || run.state === "submitting", done: "It is deleted; its objects are being removed.",
    title: "Delete this run?", bad: true, yes: "Delete for good", no: "Keep it",
    says: (run) => [
      run.state === "submitting" ? "Its submission is incomplete. Everything stored for it is removed." : `The run and everything it made are removed: ${counted(run.done, "picture")} with their masks, heat maps and records, and every outcome.`,
      "Uploaded references go later, unless another run names them.",
      h("strong", {}, "This cannot be undone."),
    ],
  },
];

function retryForm(run) {
  const codes = Object.entries(run.summary?.failures ?? {}).sort((a, b) => b[1] - a[1]);
  const boxes = codes.map(([name, number]) => {
    const box = h("input", { type: "checkbox", name: "code", value: name, checked: true });
    return { box, number, row: h("label", { class: "check" }, box, h("span", {}, code(name), ` ${counted(number, "task")}`)) };
  });
  const which = h("select", { name: "retryable" }, h("option", { value: "" }, "all of them"), h("option", { value: "true" }, "only those that may succeed unchanged"), h("option", { value: "false" }, "only those that need a change first"));
  const total = h("p", { role: "status" });
  const element = h("div", { class: "choices" }, boxes.length > 0 && h("fieldset", {}, h("legend", {}, "Failed as"), boxes.map(({ row }) => row)), h("label", {}, h("span", {}, "Of those"), which), total);
  const chosen = () => boxes.filter(({ box }) => box.checked);
  const say = () => {
    const number = boxes.length ? chosen().reduce((sum, one) => sum + one.number, 0) : run.failed;
    total.textContent = number === 0 ? "Choose at least one." : `${which.value ? "At most " : ""}${counted(number, "task")} will be retried.`;
    return number > 0;
  };
  element.addEventListener("change", say);
  say();
  return {
    element,
    isGood: say,
    body() {
      const where = {};
      if (chosen().length < boxes.length) where.code = chosen().map(({ box }) => box.value);
      if (which.value) where.retryable = which.value === "true";
      return Object.keys(where).length ? { where } : {};
    },
  };
}

function confirm(action, run, element) {
  const words = h("div", { class: "says" });
  const refused = h("div", { role: "alert" });
  const form = action.form?.(run);
  const yes = h("button", { type: "button", class: action.bad ? "bad" : "main", "data-confirm": action.name }, action.yes ?? action.label);
  const no = h("button", { type: "button", autofocus: true, click: () => dialog.close() }, action.no ?? "Not now");
  const dialog = h("dialog", { class: "ask", "aria-labelledby": "ask-title", "data-dialog": action.name },
    h("h2", { id: "ask-title" }, action.title), h("p", { class: "soft name" }, nameOf(run)), words, form?.element, refused, h("div", { class: "buttons" }, no, yes));
  yes.addEventListener("click", async () => {
    if (form && !form.isGood()) return;
    yes.disabled = true;
    const url = `v1/${api.path("runs", run.run)}`;
    try {
      const now = action.name === "delete" ? await api.send("DELETE", url) : await api.send("POST", `${url}/${action.name}`, form?.body());
      dialog.close();
      notice(`${nameOf(run)}: ${action.done}`);
      if (action.name === "delete") location.hash = "#/runs";
      else element.dispatchEvent(new CustomEvent("changed", { bubbles: true, detail: now?.run ? now : null }));
    } catch (problem) {
      put(refused, [problem.message, Date.now()], () => h("p", { class: "note failure" }, problem.message));
      yes.disabled = false;
    }
  });
  dialog.addEventListener("close", () => {
    dialog.remove();
    (element.querySelector(`[data-action="${action.name}"]`) ?? element.querySelector("button"))?.focus();
  });
  dialog.update = (now) => put(words, action.says(now).filter(Boolean).map((line) => [line].flat().map((one) => one?.textContent ?? one)),
    () => action.says(now).filter(Boolean).map((line) => h("p", {}, line)));
  dialog.update(run);
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

export function actionBar(session) {
  const element = h("div", { class: "actions" });
  const may = (action, run) => session.role === "admin" || (session.role === "submitter" && action.role !== "admin" && isMine(run, session));
  let [now, dialog] = [null, null];
  return {
    element,
    update(run) {
      now = run;
      if (dialog?.open) dialog.update(run);
      const fitting = ACTIONS.filter((action) => may(action, run) && action.fits(run));
      // A button that does not fit any more goes, and the focus with it to the next one.
      const stale = element.contains(document.activeElement) && !fitting.some((action) => action.name === document.activeElement.dataset.action);
      if (stale) document.activeElement.blur();
      keyed(element, fitting, (action) => action.name, (action) =>
        h("button", { type: "button", class: action.main ? "main" : action.bad ? "bad quiet" : null, "data-action": action.name, click: () => { dialog = confirm(action, now, element); } }, action.label));
      if (stale) element.querySelector("button")?.focus();
    },
  };
}

