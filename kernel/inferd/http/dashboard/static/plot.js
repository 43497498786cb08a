// A plot of a few lines over time, on a canvas; what it shows is said in words beside it.

import { el, say } from "./dom.js";

const LEFT = 48;
const BOTTOM = 20;
const TOP = 8;
const DASHES = [[], [6, 3], [2, 2], [8, 3, 2, 3]];

/** The next number that is 1, 2 or 5 times a power of ten. */
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((each) => each * power).find((each) => each >= value * 0.999) || value;
}

export class Plot {
  /**
   * @param {HTMLElement} place
   * @param {Object} given
   * @param {string} given.title
   * @param {{name: string, label: string}[]} given.lines
   * @param {(value: number) => string} given.format
   * @param {number} [given.least] The vertical axis goes to this at least.
   */
  constructor(place, { title, lines, format, least = 1 }) {
    this.title = title;
    this.lines = lines;
    this.format = format;
    this.least = least;
    this.canvas = el("canvas", { role: "img", "aria-label": title });
    this.values = lines.map(() => el("span", { class: "value" }));
    const legend = lines.map((line, at) =>
      el("li", {}, el("span", { class: `key key${at}`, "aria-hidden": "true" }), `${line.label} `, this.values[at]),
    );
    place.append(
      el("figure", { class: "plot" }, el("figcaption", {}, el("h3", { text: title }), el("ul", { class: "legend" }, ...legend)), this.canvas),
    );
    new ResizeObserver(() => this.draw()).observe(this.canvas);
  }

  /**
   * Show points.
   * @param {{names: string[], points: any[][], now: number, span_s: number, step_s: number}} told
   */
  show(told) {
    this.told = told;
    this.draw();
    const latest = told.points.at(-1);
    this.lines.forEach((line, at) => {
      const value = latest?.[told.names.indexOf(line.name)];
      say(this.values[at], value == null ? "–" : this.format(value));
    });
  }

  draw() {
    const width = this.canvas.clientWidth;
    const height = this.canvas.clientHeight;
    if (!this.told || !width) return;
    const scale = devicePixelRatio || 1;
    if (this.canvas.width !== Math.round(width * scale) || this.canvas.height !== Math.round(height * scale)) {
      this.canvas.width = Math.round(width * scale);
      this.canvas.height = Math.round(height * scale);
    }
    const ink = this.canvas.getContext("2d");
    ink.setTransform(scale, 0, 0, scale, 0, 0);
    ink.clearRect(0, 0, width, height);
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const { names, points, now, span_s: span, step_s: step } = this.told;
    const columns = this.lines.map((line) => names.indexOf(line.name));
    let most = this.least;
    for (const point of points) for (const at of columns) if (point[at] > most) most = point[at];
    most = roundUp(most);
    const x = (t) => LEFT + ((t - (now - span)) / span) * (width - LEFT - 4);
    const y = (value) => TOP + (1 - value / most) * (height - TOP - BOTTOM);
    ink.font = `12px ${style.fontFamily}`;
    ink.fillStyle = colour("--soft");
    ink.strokeStyle = colour("--line");
    ink.lineWidth = 1;
    ink.textBaseline = "middle";
    for (const part of [0, 0.5, 1]) {
      const at = Math.round(y(most * part)) + 0.5;
      ink.beginPath();
      ink.moveTo(LEFT, at);
      ink.lineTo(width - 4, at);
      ink.stroke();
      ink.textAlign = "right";
      ink.fillText(this.format(most * part), LEFT - 6, at);
    }
    ink.textBaseline = "alphabetic";
    ink.textAlign = "left";
    ink.fillText(span >= 86400 ? "24 h ago" : span >= 7200 ? "2 h ago" : "10 min ago", LEFT, height - 5);
    ink.textAlign = "right";
    ink.fillText("now", width - 4, height - 5);
    columns.forEach((column, at) => {
      ink.strokeStyle = colour(`--plot${at}`);
      ink.setLineDash(DASHES[at]);
      ink.lineWidth = 1.75;
      ink.beginPath();
      let last = null;
      for (const point of points) {
        const value = point[column];
        if (value == null || point[0] < now - span) continue;
        if (last !== null && point[0] - last <= this.gap(step)) ink.lineTo(x(point[0]), y(value));
        else {
          ink.moveTo(x(point[0]), y(value));
          ink.lineTo(x(point[0]) + 1, y(value));
        }
        last = point[0];
      }
      ink.stroke();
    });
    ink.setLineDash([]);
  }

  /** Points that are farther apart are not joined, in seconds. */
  gap(step) {
    return Math.max(5, step * 2.5);
  }
}
