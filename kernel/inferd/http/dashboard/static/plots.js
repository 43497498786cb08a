// The plots: the last ten minutes go on second by second, longer spans are read again now and then.

import { ask } from "./api.js";
import { byId } from "./dom.js";
import { number, percent, span } from "./format.js";
import { Plot } from "./plot.js";

const LIVE_S = 600;
const AGAIN_MS = { 7200: 10000, 86400: 60000 };

export class Plots {
  constructor() {
    const place = byId("plot-grid");
    this.plots = [
      new Plot(place, {
        title: "Throughput",
        lines: [{ name: "tokens_per_second", label: "tokens a second" }],
        format: number,
      }),
      new Plot(place, {
        title: "Tasks",
        lines: [
          { name: "running", label: "running" },
          { name: "queued", label: "waiting" },
        ],
        format: number,
      }),
      new Plot(place, {
        title: "Time to the first token",
        lines: [
          { name: "first_token_p50_s", label: "half within" },
          { name: "first_token_p95_s", label: "95 % within" },
        ],
        format: span,
        least: 0.1,
      }),
      new Plot(place, {
        title: "Time to the end",
        lines: [
          { name: "whole_p50_s", label: "half within" },
          { name: "whole_p95_s", label: "95 % within" },
        ],
        format: span,
        least: 0.1,
      }),
      new Plot(place, {
        title: "Memory of this host's devices",
        lines: [{ name: "memory_fraction", label: "not free" }],
        format: percent,
        least: 1,
      }),
    ];
    this.span = LIVE_S;
    this.asked = -Infinity;
    for (const choice of document.querySelectorAll("input[name=span]")) {
      choice.addEventListener("change", () => {
        this.span = Number(choice.value);
        this.read();
      });
    }
  }

  /** A second has passed, and this is its point. */
  add(second, point) {
    if (this.span !== LIVE_S) {
      if (performance.now() - this.asked >= AGAIN_MS[this.span]) this.read();
    } else if (this.told?.span_s === LIVE_S) {
      const { points } = this.told;
      if (!points.length || point[0] > points.at(-1)[0]) points.push(point);
      while (points.length && (points.length > LIVE_S || points[0][0] < second - LIVE_S)) points.shift();
      this.told.now = second;
      this.show(this.told);
    }
  }

  /** Read all points of the span. */
  async read() {
    this.asked = performance.now();
    const span = this.span;
    try {
      const told = await ask(`history?span_s=${span}`);
      if (span === this.span) this.show(told);
    } catch {
      // the stream tells what is wrong
    }
  }

  /** What was is not to be seen any more. */
  forget() {
    if (this.told) this.show({ ...this.told, points: [] });
  }

  show(told) {
    this.told = told;
    for (const plot of this.plots) plot.show(told);
  }

  /** Draw anew, as colours have changed. */
  redraw() {
    for (const plot of this.plots) plot.draw();
  }
}
