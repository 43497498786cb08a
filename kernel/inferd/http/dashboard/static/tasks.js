// Tasks that wait and run, with what one of them says when its row is opened, and those that have ended.

import { ask, stream } from "./api.js";
import { byId, el, mark, say } from "./dom.js";
import { counted, number, short, span } from "./format.js";
import { Table } from "./table.js";

const MOST_CHARS = 20000; // of the text that is shown
const FEW = 100;

/** A table in which one row may be open, with an element behind it. */
class OpenTable extends Table {
  next(element) {
    const next = element.nextElementSibling;
    return next && next.classList.contains("opened") ? next.nextElementSibling : next;
  }
}

export class Tasks {
  constructor(store, tell) {
    this.store = store;
    this.tell = tell;
    this.table = new OpenTable(byId("task-table"), {
      caption: "Tasks that wait and run",
      empty: "No task waits or runs.",
      columns: [
        { head: "Task", draw: (cell, row, id) => this.drawName(cell, id) },
        { head: "Model", draw: (cell, row) => say(cell, row.model) },
        { head: "State", draw: drawState },
        { head: "Class", class: "minor", draw: (cell, row) => say(cell, row.class) },
        { head: "Age", class: "figure age", draw: (cell, row) => this.drawAge(cell, row.created) },
        { head: "Attempt", class: "figure minor", draw: (cell, row) => say(cell, number(row.attempt)) },
        { head: "Instance", class: "minor", draw: (cell, row) => say(cell, short(row.instance)) },
        { head: "Lease", class: "minor", draw: (cell, row) => say(cell, short(row.lease)) },
      ],
    });
    this.ended = new Table(byId("ended-table"), {
      caption: "Tasks that have ended",
      empty: "None has ended while this was watched.",
      columns: [
        { head: "Task", class: "id", draw: (cell, row, id) => drawEnded(cell, id) },
        { head: "Model", draw: (cell, row) => say(cell, row.model) },
        { head: "State", draw: drawState },
        { head: "Tokens", class: "figure", draw: (cell, row) => say(cell, `${number(row.prompt_tokens)} in, ${number(row.output_tokens)} out`) },
        { head: "First token", class: "figure", draw: (cell, row) => say(cell, span(row.first_token_s)) },
        { head: "Whole", class: "figure", draw: (cell, row) => say(cell, span(row.whole_s)) },
        { head: "Why", class: "wide", draw: (cell, row) => say(cell, row.error || row.reason.replaceAll("_", " ")) },
      ],
    });
    this.first = 0; // that is shown, of those that the filter leaves
    byId("newer-tasks").addEventListener("click", () => this.turn(-FEW));
    byId("older-tasks").addEventListener("click", () => this.turn(FEW));
    this.filter = byId("task-filter");
    this.filter.addEventListener("input", () => this.turn(-this.first));
  }

  /** Show others of the tasks: a table of all of them would take the page long to lay out. */
  turn(by) {
    this.first += by;
    this.render();
  }

  render() {
    const wanted = this.filter.value.trim().toLowerCase();
    const all = [...this.store.section("tasks")].reverse();
    const found = wanted ? all.filter(([id, row]) => `${id} ${row.model} ${row.state} ${row.class}`.toLowerCase().includes(wanted)) : all;
    this.first = Math.max(0, Math.min(this.first, FEW * Math.floor((found.length - 1) / FEW)));
    const shown = found.slice(this.first, this.first + FEW);
    if (this.open && !shown.some(([id]) => id === this.open.id) && !this.store.row("ended", this.open.id)) this.close();
    const rows = this.open && !shown.some(([id]) => id === this.open.id) ? [...this.kept(), ...shown] : shown;
    this.table.render(rows);
    const place = this.open && this.table.drawn.get(this.open.id)?.element;
    if (place && place.nextElementSibling !== this.open.element) place.after(this.open.element);
    byId("task-pages").hidden = found.length <= FEW;
    mark(byId("newer-tasks"), "disabled", this.first === 0);
    mark(byId("older-tasks"), "disabled", this.first + FEW >= found.length);
    say(byId("task-page"), `${number(this.first + 1)} to ${number(this.first + shown.length)} of ${number(found.length)}`);
    say(byId("task-count"), wanted ? `${number(found.length)} of ${counted(all.length, "task")}` : counted(all.length, "task"));
    this.ended.render([...this.store.section("ended")].reverse());
  }

  /** The row of an open task that has ended: it stays until it is closed. */
  kept() {
    const row = this.store.row("ended", this.open.id);
    return row ? [[this.open.id, row]] : [];
  }

  /** Ages go on by themselves. */
  tick() {
    for (const cell of this.table.body.querySelectorAll(".age")) {
      if (cell.dataset.created) say(cell, span(this.store.ageS(Number(cell.dataset.created))));
    }
  }

  drawAge(cell, created) {
    cell.dataset.created = created;
    say(cell, span(this.store.ageS(created)));
  }

  drawName(cell, id) {
    if (!cell.firstChild) {
      cell.append(el("button", { type: "button", class: "link", "aria-expanded": "false", onclick: (event) => this.toggle(event.currentTarget) }));
    }
    const button = cell.firstChild;
    button.dataset.task = id;
    say(button, short(id));
    mark(button, "title", id);
  }

  toggle(button) {
    const id = button.dataset.task;
    const again = this.open?.id === id;
    if (this.open) this.close();
    if (again) return;
    const text = el("pre", { class: "output", tabindex: "0", role: "group", "aria-label": `Output of task ${id}` });
    const status = el("p", { class: "soft", role: "status" });
    const cancel = el("button", { type: "button", text: "Cancel the task", onclick: () => this.cancel(id) });
    const cell = el("td", { colspan: String(this.table.columns.length) }, el("div", { class: "row" }, el("code", { text: id }), cancel), status, text);
    const element = el("tr", { class: "opened" }, cell);
    button.closest("tr").after(element);
    mark(button, "aria-expanded", "true");
    this.open = { id, element, button, stop: new AbortController() };
    this.follow(this.open, text, status, cancel);
  }

  /** Read no more of an open task. */
  stop() {
    this.open?.stop.abort();
  }

  close() {
    const { element, button, stop } = this.open;
    this.open = null;
    stop.abort();
    element.remove();
    mark(button, "aria-expanded", "false");
    this.render();
  }

  async follow(open, text, status, cancel) {
    let said = "";
    say(status, "Waiting for its output.");
    try {
      await stream(`tasks/${encodeURIComponent(open.id)}/text`, { signal: open.stop.signal }, (told) => {
        if (told.text) {
          said = (said + told.text).slice(-MOST_CHARS);
          say(status, "");
          say(text, said);
          text.scrollTop = text.scrollHeight;
        } else if (told.queued !== undefined) {
          say(status, told.reason || `Waits; ${told.queued} before it.`);
        } else if (told.finished) {
          say(status, told.error ? `${told.finished}: ${told.error}` : told.finished);
          cancel.hidden = true;
        }
      });
    } catch (error) {
      if (!open.stop.signal.aborted) say(status, error.message);
    }
  }

  async cancel(id) {
    try {
      await ask("cancel", { body: { task_id: id } });
      this.tell(`task ${short(id)} is cancelled`);
    } catch (error) {
      this.tell(error.message, true);
    }
  }
}

function drawEnded(cell, id) {
  say(cell, short(id));
  mark(cell, "data-ended", id);
  mark(cell, "title", id);
}

function drawState(cell, row) {
  if (!cell.firstChild) cell.append(el("span", { class: "badge" }));
  say(cell.firstChild, row.state);
  mark(cell.firstChild, "data-state", row.state);
}
