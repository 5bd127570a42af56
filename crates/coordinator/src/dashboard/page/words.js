// What states, codes and roles are called, and what a run waits for, in words.

import { link } from "./dom.js";
import { when } from "./format.js";
import { path } from "./api.js";

export const href = {
  run: (run) => `#/${path("runs", run)}`,
  shard: (run, shard) => `#/${path("runs", run, "shards", shard)}`,
  task: (run, task) => `#/${path("runs", run, "tasks", String(task))}`,
  label: (name, value) => `#/runs?${new URLSearchParams({ label: `${name}=${value}` })}`,
};

export const shardName = (round, index) => `r${round}-${String(index).padStart(6, "0")}`;

export const STATES = ["submitting", "running", "paused", "cancelled", "finished"];

// A run is cancelled or finished as soon as that is decided; it has ended once its summary is there.
export const hasEnded = (run) => Boolean(run.summary);
export function state(run) {
  if (run.summary) return run.state;
  return { cancelled: "cancelling", finished: "finishing" }[run.state] ?? run.state;
}

export const nameOf = (run) => run.name || run.run;

// Where it waits, the words for it; as they hold a time and links, they are made anew when `waiting` changes.
export function waiting(run) {
  const of = run.waiting;
  switch (of?.for) {
    case "worker":
      return ["Waiting for a worker: none serves the pool ", run.pool, "."];
    case "run":
      return ["Waiting behind ", link(href.run(of.run), of.run), `, whose priority is higher (${of.priority}).`];
    case "turn":
      return ["Waiting for its turn: the pool’s workers are busy with other shards."];
    case "round":
      return [`Waiting for retry round ${of.round}, which begins `, when(of.begins_at), "."];
    case "coordinator":
      return ["Waiting for the leading coordinator to open its next round or write its final files."];
    case undefined:
      return null;
    default:
      return [`Waiting for: ${of.for}.`];
  }
}

export const waitingShort = {
  worker: "waiting for a worker", run: "waiting behind another run", turn: "waiting for its turn",
  round: "waiting for a retry round", coordinator: "waiting for the coordinator",
};

export const CODES = {
  reference_unreadable: "The reference cannot be read: no such file or object, or no permission.",
  reference_forbidden: "The reference leads to an address from which references are not fetched.",
  reference_undecodable: "The reference cannot be decoded as a picture, or is truncated.",
  reference_too_large: "The reference is larger than the limits allow.",
  region_unusable: "The region is not a mask of its reference: it cannot be read, has another size, or is all white or all black.",
  no_subject: "The prompt names no subject that the method could edit.",
  subject_not_in_prompt: "A given subject does not occur in the prompt.",
  invalid_settings: "A setting does not fit the model or another setting.",
  non_finite_latents: "A latent became NaN or infinite.",
  out_of_memory: "The device has too little memory for even one task.",
  model_error: "The model failed in a way that is not the task’s fault.",
  poison: "The worker died too often while this task ran.",
  output_unwritable: "The outputs could not be written.",
  cancelled: "The run was cancelled before the task ran.",
};

export const ROLES = { viewer: "viewer: looks", submitter: "submitter: can submit runs", admin: "admin" };

// The files of a picture, in the order in which they are looked at.
const ORDER = ["image", "overlay", "mask", "heatmap", "compare"];
const place = (role) => ORDER.findIndex((kind) => role === kind || role.startsWith(`${kind}.`));

export function roles(picture) {
  const known = Object.keys(picture.files ?? {}).filter((role) => place(role) >= 0);
  return known.sort((a, b) => place(a) - place(b) || a.localeCompare(b));
}

export function roleName(role) {
  if (role === "image") return "picture";
  if (role === "heatmap") return "heat maps";
  if (role.startsWith("heatmap.")) return `heat map: ${role.slice(8)}`;
  if (role.startsWith("compare.")) return role.slice(8);
  return role;
}
