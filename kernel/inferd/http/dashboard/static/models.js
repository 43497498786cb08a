// Models: how far each is loaded, and buttons that load and unload it.

import { ask } from "./api.js";
import { byId, el, mark, say } from "./dom.js";
import { bytes, number, percent } from "./format.js";
import { Table } from "./table.js";

const LOADED = new Set(["loading", "ready"]);

export class Models {
  /** @param {(text: string, bad?: boolean) => void} tell Says what came of a button. */
  constructor(store, tell) {
    this.store = store;
    this.tell = tell;
    this.table = new Table(byId("model-table"), {
      caption: "Models",
      empty: "No model is known. inferd pull brings one.",
      columns: [
        { head: "Model", draw: (cell, row, id) => say(cell, id) },
        { head: "State", draw: drawState },
        { head: "Backend", class: "minor", draw: (cell, row) => say(cell, row.backend || "–") },
        { head: "Instances", class: "figure minor", draw: (cell, row) => say(cell, row.count) },
        { head: "Tasks", class: "figure", draw: (cell, row) => say(cell, row.places ? `${row.running} of ${row.places}` : "–") },
        { head: "Size", class: "figure minor", draw: (cell, row) => say(cell, row.size ? bytes(row.size) : "–") },
        { head: "Version", class: "figure minor", draw: (cell, row) => say(cell, number(row.version)) },
        { head: "Actions", hidden: true, draw: (cell, row, id) => this.drawActions(cell, row, id) },
      ],
    });
    this.shown = new Map();
  }

  render() {
    const of = new Map();
    for (const each of this.store.section("instances").values()) {
      let sums = of.get(each.model);
      if (!sums) of.set(each.model, (sums = { count: 0, running: 0, places: 0, fraction: null }));
      sums.count += 1;
      sums.running += each.running;
      sums.places += each.places;
      if (each.state === "loading") sums.fraction = Math.max(sums.fraction ?? 0, each.fraction);
    }
    const none = { count: 0, running: 0, places: 0, fraction: null };
    const rows = [...this.store.section("models")].sort(([a], [b]) => (a < b ? -1 : 1));
    const shown = new Map();
    this.table.render(
      rows.map(([id, model]) => {
        const sums = of.get(id) || none;
        const before = this.shown.get(id);
        const same = before && before.model === model && Object.keys(none).every((name) => before.row[name] === sums[name]);
        const row = same ? before.row : { ...model, ...sums };
        shown.set(id, { model, row });
        return [id, row];
      }),
    );
    this.shown = shown;
  }

  drawActions(cell, row, id) {
    if (!cell.firstChild) {
      const button = el("button", { type: "button", onclick: () => this.act(button) });
      cell.append(button);
    }
    const button = cell.firstChild;
    const word = LOADED.has(row.state) ? "Unload" : "Load";
    button.dataset.model = id;
    button.dataset.verb = word.toLowerCase();
    say(button, word);
    mark(button, "aria-label", `${word} ${id}`);
  }

  async act(button) {
    const { model, verb } = button.dataset;
    button.disabled = true;
    this.tell(`${verb}ing ${model}`);
    try {
      await ask(verb, { body: { model } });
      this.tell(`${model} is ${verb}ed`);
    } catch (error) {
      this.tell(error.message, true);
    } finally {
      button.disabled = false;
    }
  }
}

function drawState(cell, row) {
  if (!cell.firstChild) cell.append(el("span", { class: "badge" }), el("progress", { max: "1" }), el("span", { class: "soft note" }));
  const [badge, progress, note] = cell.children;
  say(badge, row.state);
  mark(badge, "data-state", row.state);
  const fetched = row.fetch ? row.fetch[0] / (row.fetch[1] || 1) : null;
  const part = fetched ?? (row.state === "loading" ? row.fraction : null);
  progress.hidden = part == null;
  if (part != null) {
    progress.value = part;
    mark(progress, "aria-label", fetched == null ? "loaded" : "fetched");
  }
  say(note, part != null ? percent(part) : row.error || row.queue_reason);
}
