// The coordinator's API, relative to this page, so that it works below a path prefix.

export class Problem extends Error {
  constructor(status, code, detail) {
    super(detail);
    this.status = status;
    this.code = code;
  }

  // Whether nobody answered, or only something in between.
  get isAway() {
    return this.status === 0 || this.status === 502 || this.status === 504 || (this.status === 503 && !this.code);
  }
}

let refused = () => {};
export function onRefused(listener) {
  refused = listener;
}

export const path = (...parts) => parts.map((part) => encodeURIComponent(part)).join("/");

export function query(values) {
  const chosen = Object.entries(values).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return chosen.length ? `?${new URLSearchParams(chosen)}` : "";
}

export const parse = (words) => JSON.parse(words);

async function ask(method, url, { body, signal, quiet = false } = {}) {
  const headers = { Accept: "application/json" };
  if (method !== "GET") headers["Diorama-Page"] = "1";
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let answer;
  let words;
  try {
    answer = await fetch(url, { method, headers, signal, body: body && JSON.stringify(body), credentials: "same-origin", cache: "no-store" });
    words = await answer.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "", "The coordinator is not answering.");
  }
  if (answer.ok) {
    if (!words) return null;
    try {
      return parse(words);
    } catch {
      throw new Problem(502, "", "The response did not come from the coordinator.");
    }
  }
  let problem = {};
  try {
    problem = parse(words) ?? {};
  } catch {
    // Not the coordinator's words: something in between answered.
  }
  const detail = typeof problem.detail === "string" ? problem.detail : `The answer was ${answer.status} ${answer.statusText}`.trim();
  if (answer.status === 401 && !quiet) refused();
  throw new Problem(answer.status, typeof problem.code === "string" ? problem.code : "", detail);
}

export const get = (url, signal) => ask("GET", url, { signal });
export const send = (method, url, body) => ask(method, url, { body });

export const session = () => ask("GET", "v1/session", { quiet: true });
export const logIn = (token) => ask("POST", "v1/session", { body: { token }, quiet: true });
export const logOut = () => ask("DELETE", "v1/session", { quiet: true });
