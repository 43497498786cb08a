// What the kernel told, as rows by section and id; and which sections have changed since they were drawn.

export class Store {
  constructor() {
    /** @type {Map<string, Map<string, Object<string, any>>>} */
    this.sections = new Map();
    /** @type {Set<string>} */
    this.changed = new Set();
    this.offsetMs = 0; // of this clock before the gateway's
  }

  /**
   * Take in a message of the stream.
   * @param {{whole: boolean, set: Object, gone: Object}} told
   */
  apply(told) {
    if (told.whole) {
      for (const name of this.sections.keys()) this.changed.add(name);
      this.sections.clear();
    }
    for (const [name, rows] of Object.entries(told.set)) {
      const section = this.section(name);
      for (const [id, row] of Object.entries(rows)) section.set(id, row);
      this.changed.add(name);
    }
    for (const [name, ids] of Object.entries(told.gone)) {
      const section = this.section(name);
      for (const id of ids) section.delete(id);
      this.changed.add(name);
    }
    if (told.set.clock) this.offsetMs = Date.now() - told.set.clock.now.second * 1000;
  }

  /** The rows of a section, the oldest first. */
  section(name) {
    let found = this.sections.get(name);
    if (!found) this.sections.set(name, (found = new Map()));
    return found;
  }

  /** A row; undefined where there is none. */
  row(name, id) {
    return this.sections.get(name)?.get(id);
  }

  /** Forget all, as another identity sees something else. */
  clear() {
    this.apply({ whole: true, set: {}, gone: {} });
  }

  /** What has changed since this was asked last. */
  takeChanged() {
    const changed = this.changed;
    this.changed = new Set();
    return changed;
  }

  /** For how long something has been, in seconds. */
  ageS(ms) {
    return ms ? Math.max(0, (Date.now() - this.offsetMs - ms) / 1000) : null;
  }
}
