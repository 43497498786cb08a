// Numbers and times for people.

const UNITS = ["B", "kB", "MB", "GB", "TB", "PB"];

/** Bytes: "3.2 GB". */
export function bytes(count) {
  let value = Number(count) || 0;
  let unit = 0;
  while (value >= 1000 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit && value < 100 ? value.toFixed(1) : Math.round(value)} ${UNITS[unit]}`;
}

/** A length of time in seconds: "350 ms", "4.2 s", "3 min", "2 h", "5 d". */
export function span(seconds) {
  if (seconds == null) return "–";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 100) return `${Math.round(seconds)} s`;
  if (seconds < 6000) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

/** A number with at most one digit behind the point. */
export function number(value) {
  if (value == null) return "–";
  return Math.abs(value) >= 100 || Number.isInteger(value) ? Math.round(value).toLocaleString("en") : value.toFixed(1);
}

/** A part of one: "42 %". */
export const percent = (part) => `${Math.round(part * 100)} %`;

/** One thing or several: "1 task", "2 tasks". */
export const counted = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;

/** The first letters of an id, as the command line takes it, too. */
export const short = (id) => (id.length > 14 ? `${id.slice(0, 12)}…` : id);

/** Pairs of labels: "a=b c=d". */
export const pairs = (labels) => Object.entries(labels).map(([name, value]) => `${name}=${value}`).join(" ");
