// Numbers, durations, sizes and times as people read them.

import { h, set, text } from "./dom.js";

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const digits = [0, 1, 2, 3].map((count) => new Intl.NumberFormat("en", { minimumFractionDigits: count, maximumFractionDigits: count }));

export const count = (number) => (typeof number === "number" ? whole.format(number) : String(number));

// Three significant digits below a hundred: 0.42, 4.18, 41.8, 418.
export function decimal(number) {
  const size = Math.abs(number);
  if (size === 0) return "0";
  return digits[size >= 100 ? 0 : size >= 10 ? 1 : size >= 0.095 ? 2 : 3].format(number);
}

export const fixed = (number, places) => digits[places].format(number);
export const money = (amount) => fixed(amount, 2);
export const percent = (share) => `${digits[share > 0 && share < 0.0995 ? 1 : 0].format(share * 100)} %`;
export const exactPercent = (share) => `${digits[1].format(share * 100)} %`;
export const decibel = (psnr) => `${digits[1].format(psnr)} dB`;
export const counted = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

// A share of work never looks complete, or not begun, where it is not.
export function done(part, of) {
  if (!of) return "–";
  const share = part / of;
  const shown = Math.floor(share * 1000) / 10;
  return `${digits[shown === 0 || shown >= 99.9 || shown < 10 ? 1 : 0].format(part > 0 && shown === 0 ? 0.1 : shown)} %`.replace(/^100\.0/, "100").replace(/^0\.0/, "0");
}

export function bytes(number) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  let left = number;
  while (left >= 1024 && at < units.length - 1) [left, at] = [left / 1024, at + 1];
  return `${digits[at === 0 || left >= 100 ? 0 : 1].format(left)} ${units[at]}`;
}

const UNITS = [[86400, "d", 48 * 3600], [3600, "h", 5400], [60, "min", 90], [1, "s", 0]];
const unitOf = (seconds) => UNITS.find(([, , from]) => seconds >= from) ?? UNITS[3];

function inUnit(seconds, [size, unit]) {
  const number = seconds / size;
  return digits[size >= 3600 && number < 10 ? 1 : 0].format(number).replace(/\.0$/, "");
}

export function duration(seconds) {
  const unit = unitOf(seconds);
  if (seconds > 0 && seconds < 9.95) return `${digits[1].format(seconds).replace(/\.0$/, "")} s`;
  return `${inUnit(seconds, unit)} ${unit[1]}`;
}

// "about 40 min (35–50)"
export function about({ seconds, low, high }) {
  const unit = unitOf(seconds);
  const middle = inUnit(seconds, unit);
  const [from, to] = low === undefined ? [middle, middle] : [inUnit(low, unit), high === Infinity ? "?" : inUnit(high, unit)];
  const range = from === to ? "" : to === "?" ? ` (${from} or more)` : ` (${from}–${to})`;
  return `about ${middle} ${unit[1]}${range}`;
}

// The coordinator's clock, as far as we have heard.
let ahead = 0;
export function heard(at) {
  const difference = Date.parse(at) - Date.now();
  if (Number.isFinite(difference)) ahead = Math.abs(difference) < 1500 ? 0 : difference;
}
export const now = () => Date.now() + ahead;

const stamp = new Intl.DateTimeFormat("sv-SE", { dateStyle: "short", timeStyle: "medium" });
const zone = new Intl.DateTimeFormat("en", { timeZoneName: "short" });
const clockTime = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const clockSecond = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });

export const absolute = (date) => `${stamp.format(date)} ${zone.formatToParts(date).find((part) => part.type === "timeZoneName")?.value ?? ""}`.trim();
export const clock = (seconds, exact = false) => (exact ? clockSecond : clockTime).format(new Date(seconds * 1000));

function relative(at) {
  const seconds = (now() - at) / 1000;
  if (seconds < -1) return `in ${duration(Math.round(-seconds))}`;
  return seconds < 5 ? "just now" : `${duration(Math.round(seconds))} ago`;
}

// A time that stays right while it is looked at: relative, the absolute one as its title.
export function moment(element, at) {
  const date = at ? new Date(at) : null;
  const good = date !== null && !Number.isNaN(date.getTime());
  set(element, "datetime", good ? date.toISOString() : null);
  set(element, "title", good ? absolute(date) : null);
  text(element, good ? relative(date.getTime()) : "–");
  return element;
}
export const when = (at) => moment(h("time"), at);

export function keepTimes() {
  const again = () => {
    if (document.hidden) return;
    for (const element of document.querySelectorAll("time[datetime]")) text(element, relative(Date.parse(element.dateTime)));
  };
  setInterval(again, 1000);
}
