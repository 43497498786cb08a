// Lists that need no more than a table: queues, leases, rollouts, quotas, flags of moderation, evaluations, trainings, pipelines.

import { byId, el, mark, say } from "./dom.js";
import { bytes, counted, number, percent, short, span } from "./format.js";
import { Table } from "./table.js";

const CLASSES = { high: 0, normal: 1, low: 2 };

const badge = (name) => (cell, row) => {
  if (!cell.firstChild) cell.append(el("span", { class: "badge" }));
  say(cell.firstChild, row[name]);
  mark(cell.firstChild, "data-state", row[name]);
};
const text = (of) => (cell, row, id) => say(cell, of(row, id));

function claimed(claim) {
  if (claim.bytes) return `${bytes(claim.bytes)} of ${claim.device || "cpu:0"}`;
  if (claim.cores) return `${counted(claim.cores, "core")} of ${claim.device || "cpu:0"}`;
  const parts = [claim.places && counted(claim.places, "place"), claim.tokens && counted(claim.tokens, "token")].filter(Boolean);
  return parts.length ? `${claim.model} (${parts.join(", ")})` : claim.model;
}

function measure([name, used, limit]) {
  const size = name.endsWith("_bytes") ? bytes : number;
  return `${name.replaceAll("_", " ")}: ${size(used)} of ${size(limit)}`;
}

function figures(row) {
  return row.error || row.figures.map(([name, value]) => `${name} ${value ?? "–"}`).join(", ") || "–";
}

function training(row) {
  if (row.error) return row.error;
  if (row.waits) return row.waits;
  return row.state === "running" ? `${number(row.rate)} tokens a second, ${span(row.left)} left` : "–";
}

function canary(row) {
  if (row.error) return row.error;
  if (!row.canary) return "–";
  const { step, steps, share, tasks, failed } = row.canary;
  return `step ${step} of ${steps}, ${percent(share)} of new tasks; ${number(tasks)} ended, ${number(failed)} failed`;
}

export class Lists {
  constructor(store) {
    this.store = store;
    const table = (id, caption, empty, columns) => new Table(byId(id), { caption, empty, columns });
    this.queues = table("queue-table", "Queues by tenant and class", "Nobody waits, and nothing runs.", [
      { head: "Tenant", draw: text((row) => row.tenant) },
      { head: "Class", draw: text((row) => row.class) },
      { head: "Waiting", class: "figure", draw: text((row) => number(row.queued)) },
      { head: "Running", class: "figure", draw: text((row) => number(row.running)) },
    ]);
    this.leases = table("lease-table", "Leases", "No lease is held or waits.", [
      { head: "Lease", class: "id", draw: text((row, id) => short(id)) },
      { head: "State", draw: badge("state") },
      { head: "Holds", class: "wide", draw: text((row) => row.claims.map(claimed).join(", ")) },
      { head: "Class", class: "minor", draw: text((row) => row.class) },
      { head: "Left", class: "figure left", draw: (cell, row) => this.drawLeft(cell, row.expires) },
      { head: "Tasks", class: "figure minor", draw: text((row) => number(row.tasks)) },
      { head: "Waits for", class: "wide minor", draw: text((row) => row.waits_for || "–") },
    ]);
    this.rollouts = table("rollout-table", "Rollouts", "No model changes its version.", [
      { head: "Model", draw: text((row, id) => id) },
      { head: "Version", class: "figure", draw: text((row) => number(row.number)) },
      { head: "State", draw: badge("state") },
      { head: "How far", class: "wide", draw: text(canary) },
      { head: "By", class: "minor", draw: text((row) => row.by) },
    ]);
    this.quotas = table("quota-table", "Quotas", "No quota is set.", [
      { head: "Tenant", draw: text((row) => row.tenant) },
      { head: "Models", draw: text((row) => row.models || "all") },
      { head: "Used", class: "wide", draw: text((row) => row.measures.map(measure).join("; ")) },
    ]);
    this.flagged = table("flagged-table", "What rules of moderation have flagged, and nobody has decided", "Nothing is flagged.", [
      { head: "Rule", draw: text((row) => row.rule) },
      { head: "Tenant", draw: text((row) => row.tenant) },
      { head: "Model", draw: text((row) => row.model) },
      { head: "Where", class: "minor", draw: text((row) => (row.input ? "asked" : "answered")) },
      { head: "Excerpt", class: "wide", draw: text((row) => row.excerpt || "–") },
    ]);
    this.evaluations = table("evaluation-table", "Evaluations", "No evaluation is known.", [
      { head: "Evaluation", draw: text((row, id) => row.title || short(id)) },
      { head: "Model", draw: text((row) => row.model) },
      { head: "State", draw: badge("state") },
      { head: "Lines", class: "figure", draw: text((row) => `${number(row.done)} of ${number(row.lines)}`) },
      { head: "Figures", class: "wide", draw: text(figures) },
    ]);
    this.trainings = table("training-table", "Trainings", "No training is known.", [
      { head: "Training", draw: text((row, id) => row.name || short(id)) },
      { head: "Model", draw: text((row) => row.model || "–") },
      { head: "State", draw: badge("state") },
      { head: "Steps", class: "figure", draw: text((row) => `${number(row.step)} of ${number(row.steps)}`) },
      { head: "Loss", class: "figure", draw: text((row) => (row.step ? String(row.loss) : "–")) },
      { head: "How far", class: "wide", draw: text(training) },
    ]);
    this.pipelines = table("pipeline-table", "Runs of pipelines", "No run of a pipeline is known.", [
      { head: "Run", draw: text((row, id) => row.name || short(id)) },
      { head: "State", draw: badge("state") },
      { head: "Steps", class: "wide", draw: text((row) => row.error || row.steps.map((each) => `${each.name} ${each.done} of ${each.items}`).join(", ")) },
    ]);
    this.rolling = new Map();
  }

  /** Draw those whose section is among the changed ones. */
  render(changed) {
    const has = (name) => changed.has(name);
    if (has("loads")) {
      const order = ([, a], [, b]) => (a.tenant < b.tenant ? -1 : a.tenant > b.tenant ? 1 : CLASSES[a.class] - CLASSES[b.class]);
      this.queues.render([...this.store.section("loads")].sort(order));
    }
    if (has("leases")) this.leases.render([...this.store.section("leases")]);
    if (has("models")) {
      this.rollouts.render([...this.store.section("models")].filter(([, model]) => model.rolling).map(([id, model]) => [id, model.rolling]));
    }
    if (has("quotas")) this.quotas.render([...this.store.section("quotas")]);
    if (has("flagged")) this.flagged.render([...this.store.section("flagged")]);
    if (has("evaluations")) this.evaluations.render([...this.store.section("evaluations")]);
    if (has("trainings")) this.trainings.render([...this.store.section("trainings")]);
    if (has("pipelines")) this.pipelines.render([...this.store.section("pipelines")]);
  }

  /** The time that is left goes on by itself. */
  tick() {
    for (const cell of this.leases.body.querySelectorAll(".left")) this.drawLeft(cell, Number(cell.dataset.expires));
  }

  drawLeft(cell, expires) {
    cell.dataset.expires = expires;
    const left = this.store.ageS(1) - (expires - 1) / 1000;
    say(cell, expires ? span(Math.max(0, -left)) : "–");
  }
}
