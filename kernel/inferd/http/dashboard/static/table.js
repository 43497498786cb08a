// A table of rows that are drawn anew only where they have changed.

import { el } from "./dom.js";

export class Table {
  /**
   * @param {HTMLElement} place Where it is put.
   * @param {Object} given
   * @param {string} given.caption What it shows, for screen readers.
   * @param {{head: string, class?: string, hidden?: boolean, draw: (cell: HTMLElement, row: any, id: string) => void}[]}
   *   given.columns The first one heads the row. `hidden`: its head is for screen readers alone.
   * @param {string} given.empty What is said where there are no rows.
   */
  constructor(place, { caption, columns, empty }) {
    this.columns = columns;
    this.drawn = new Map(); // by id: the element and the row that it shows
    const heads = columns.map((each) =>
      el("th", { scope: "col", class: each.class || "" }, el("span", { class: each.hidden ? "unseen" : "", text: each.head })),
    );
    this.body = el("tbody");
    this.table = el("table", {}, el("caption", { class: "unseen", text: caption }), el("thead", {}, el("tr", {}, ...heads)), this.body);
    this.scroller = el("div", { class: "scroll", role: "group", tabindex: "0", "aria-label": caption }, this.table);
    this.empty = el("p", { class: "empty", text: empty });
    this.scroller.hidden = true;
    place.append(this.scroller, this.empty);
  }

  /** Show rows: pairs of an id and a row, in this order. */
  render(rows) {
    const kept = new Set();
    for (const [id] of rows) kept.add(id);
    for (const [id, { element }] of this.drawn) {
      if (!kept.has(id)) {
        element.remove();
        this.drawn.delete(id);
      }
    }
    let at = this.body.firstElementChild;
    for (const [id, row] of rows) {
      let drawn = this.drawn.get(id);
      if (!drawn) {
        drawn = { element: this.make(), row: null };
        this.drawn.set(id, drawn);
      }
      if (drawn.row !== row) {
        this.draw(drawn.element, row, id);
        drawn.row = row;
      }
      if (drawn.element === at) at = this.next(at);
      else this.body.insertBefore(drawn.element, at);
    }
    this.scroller.hidden = !rows.length;
    this.empty.hidden = rows.length > 0;
  }

  next(element) {
    return element.nextElementSibling;
  }

  make() {
    const cells = this.columns.map((each, at) =>
      at ? el("td", { class: each.class || "" }) : el("th", { scope: "row", class: each.class || "" }),
    );
    return el("tr", {}, ...cells);
  }

  draw(element, row, id) {
    this.columns.forEach((each, at) => each.draw(element.cells[at], row, id));
  }
}
