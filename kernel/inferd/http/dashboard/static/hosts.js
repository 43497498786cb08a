// Hosts, their devices, and who holds the memory of each.

import { byId, el, mark, say } from "./dom.js";
import { bytes, counted, pairs, percent, short, span } from "./format.js";

const PARTS = [
  ["instances", "instances"],
  ["leases", "leases"],
  ["foreign", "other programs"],
  ["free", "free"],
];
const MOST_HOLDERS = 12;

export class Hosts {
  constructor(store) {
    this.store = store;
    this.place = byId("host-list");
    this.drawn = new Map();
  }

  render() {
    const hosts = [...this.store.section("hosts")].sort(([a], [b]) => (a === "local" ? -1 : b === "local" ? 1 : a < b ? -1 : 1));
    const kept = new Set(hosts.map(([id]) => id));
    for (const [id, card] of this.drawn) {
      if (!kept.has(id)) {
        card.element.remove();
        this.drawn.delete(id);
      }
    }
    const holders = this.holders();
    hosts.forEach(([id, host], at) => {
      let card = this.drawn.get(id);
      if (!card) {
        card = makeCard();
        this.drawn.set(id, card);
      }
      if (this.place.children[at] !== card.element) this.place.insertBefore(card.element, this.place.children[at] || null);
      drawCard(card, host, holders);
    });
    byId("no-hosts").hidden = hosts.length > 0;
  }

  /** By device: what of whom is there. */
  holders() {
    const found = new Map();
    const add = (device, text, size) => {
      if (!found.has(device)) found.set(device, []);
      found.get(device).push([text, size]);
    };
    for (const [id, each] of this.store.section("instances")) {
      const state = each.state === "ready" ? "" : `, ${each.state}${each.state === "loading" ? ` ${percent(each.fraction)}` : ""}`;
      each.devices.forEach((device) => add(device, `${each.model} (${short(id)}${state})`, each.reserved || each.memory));
    }
    for (const [id, each] of this.store.section("leases")) {
      if (each.state !== "active") continue;
      for (const claim of each.claims) if (claim.bytes) add(claim.device || "cpu:0", `lease ${short(id)}`, claim.bytes);
    }
    return found;
  }
}

function makeCard() {
  const card = { name: el("h3"), state: el("span", { class: "badge" }), facts: el("p", { class: "soft" }), why: el("p", { class: "warning" }), devices: el("div"), drawn: [] };
  card.element = el("article", { class: "card" }, el("div", { class: "row" }, card.name, card.state), card.facts, card.why, card.devices);
  return card;
}

function drawCard(card, host, holders) {
  say(card.name, host.name);
  const state = host.drained ? "drained" : host.state;
  say(card.state, state);
  mark(card.state, "data-state", state);
  const facts = [counted(host.instances, "instance"), `${host.placed} of ${counted(host.places, "place")} taken`, `inferd ${host.version}`];
  if (host.silence_s != null && host.silence_s > 5) facts.push(`silent for ${span(host.silence_s)}`);
  if (Object.keys(host.labels).length) facts.push(pairs(host.labels));
  say(card.facts, facts.join(" · "));
  say(card.why, host.why);
  card.why.hidden = !host.why;
  host.devices.forEach((device, at) => {
    if (!card.drawn[at]) {
      card.drawn[at] = makeDevice();
      card.devices.append(card.drawn[at].element);
    }
    drawDevice(card.drawn[at], device, holders.get(device.id) || []);
  });
  while (card.drawn.length > host.devices.length) card.drawn.pop().element.remove();
}

function makeDevice() {
  const device = { name: el("h4"), facts: el("span", { class: "soft" }), bar: el("div", { class: "bar", role: "img" }), parts: [], sizes: [], holders: el("ul", { class: "holders" }) };
  const legend = PARTS.map(([name, label]) => {
    const part = el("span", { class: `part ${name}` });
    const size = el("span", { class: "value" });
    device.parts.push(part);
    device.sizes.push(size);
    device.bar.append(part);
    return el("li", {}, el("span", { class: `key ${name}`, "aria-hidden": "true" }), `${label} `, size);
  });
  device.element = el("div", { class: "device" }, el("div", { class: "row" }, device.name, device.facts), device.bar, el("ul", { class: "legend" }, ...legend), device.holders);
  return device;
}

function drawDevice(drawn, device, holders) {
  say(drawn.name, device.id);
  const facts = [bytes(device.capacity)];
  if (device.cores) facts.push(`${device.leased_cores} of ${counted(device.cores, "core")} leased`);
  if (device.unmeasured) facts.push(`not measured: ${device.unmeasured}`);
  say(drawn.facts, facts.join(" · "));
  PARTS.forEach(([name], at) => {
    drawn.parts[at].style.flexGrow = String(device.capacity ? device[name] / device.capacity : 0);
    say(drawn.sizes[at], bytes(device[name]));
  });
  mark(drawn.bar, "aria-label", `Memory of ${device.id}: ${PARTS.map(([name, label]) => `${label} ${bytes(device[name])}`).join(", ")}`);
  const shown = holders.slice(0, MOST_HOLDERS).map(([text, size]) => `${text}: ${bytes(size)}`);
  if (holders.length > MOST_HOLDERS) shown.push(`and ${holders.length - MOST_HOLDERS} more`);
  shown.forEach((text, at) => {
    if (!drawn.holders.children[at]) drawn.holders.append(el("li"));
    say(drawn.holders.children[at], text);
  });
  while (drawn.holders.children.length > shown.length) drawn.holders.lastChild.remove();
}
