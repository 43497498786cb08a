// The page: takes in what the stream tells, and draws what has changed once a frame.

import { login, stream, takenOfAddress } from "./api.js";
import { byId, el, mark, say } from "./dom.js";
import { counted, number, span } from "./format.js";
import { Following } from "./following.js";
import { Hosts } from "./hosts.js";
import { Lists } from "./lists.js";
import { Models } from "./models.js";
import { Playground } from "./playground.js";
import { Plots } from "./plots.js";
import { Store } from "./store.js";
import { Tasks } from "./tasks.js";
import { startTheme } from "./theme.js";

const TOLD_MS = 8000;
const SECTIONS = { quotas: "quotas", flagged: "flagged", evaluations: "evaluations", trainings: "trainings", pipelines: "pipelines", leases: "leases", tasks: "tasks", models: "models", hosts: "hosts", host: "overview" };
const FOR_FEW = ["flagged"]; // what administrators look at
const TILES = { "tile-speed": "tokens_per_second", "tile-running": "running", "tile-queued": "queued", "tile-leases": "leases" };

const store = new Store();
const hosts = new Hosts(store);
const models = new Models(store, tell);
const tasks = new Tasks(store, tell);
const lists = new Lists(store);
const plots = new Plots();
const playground = new Playground(store);
let due = false;
let shown = false; // what a login sees
let left = false; // by the login that saw it
let forgetting = 0;

/** Say what came of something, for a while. */
function tell(text, bad = false) {
  if (left) return;
  const place = byId("told");
  say(place, text);
  mark(place, "data-bad", bad);
  clearTimeout(forgetting);
  forgetting = setTimeout(() => say(place, ""), TOLD_MS);
}

/** How the stream stands. */
function connection(state, text) {
  const place = byId("connection");
  mark(place, "data-state", state);
  say(place, text);
}

function drawOverview() {
  const host = store.row("host", "local");
  const own = store.row("kernel", "identity");
  say(byId("identity"), own ? `${own.name} · tenant ${own.tenant || "default"}` : "");
  say(byId("kernel-name"), host ? `inferd ${host.version} on ${host.name}` : "");
  for (const [id, name] of Object.entries(TILES)) say(byId(id), host ? number(host[name]) : "–");
  const all = [...store.section("models").values()];
  say(byId("tile-models"), `${number(all.filter((each) => each.state === "ready").length)} of ${number(all.length)}`);
  say(byId("tile-hosts"), number(store.section("hosts").size));
  drawFlags(host);
}

/** What somebody has to look at. */
function drawFlags(host) {
  const found = [];
  if (store.row("kernel", "state")?.away) found.push(`The kernel does not answer: ${store.row("kernel", "state").why}`);
  for (const each of host?.warnings || []) found.push(each);
  for (const each of host?.standbys || []) if (each.silent_s > 10) found.push(`The standby on ${each.host} is silent for ${span(each.silent_s)}.`);
  for (const [id, each] of store.section("hosts")) {
    if (["lost", "draining", "cordoned"].includes(each.state)) found.push(`Host ${each.name || id} is ${each.state}${each.why ? `: ${each.why}` : "."}`);
    for (const device of each.devices) if (device.unmeasured) found.push(`The memory of ${device.id} cannot be measured: ${device.unmeasured}`);
  }
  for (const [name, each] of store.section("models")) {
    if (each.state === "failed") found.push(`${name} cannot be loaded: ${each.error}`);
    else if (each.queue_reason) found.push(`Tasks of ${name} wait: ${each.queue_reason}`);
  }
  const place = byId("flags");
  found.slice(0, 20).forEach((text, at) => {
    if (!place.children[at]) place.append(el("li"));
    say(place.children[at], text);
  });
  while (place.children.length > Math.min(found.length, 20)) place.lastChild.remove();
  byId("no-flags").hidden = found.length > 0;
}

/** Sections that may not be read say so, and not that there is nothing; those for few are left out for others. */
function drawNotes() {
  for (const [name, id] of Object.entries(SECTIONS)) {
    const note = store.row("notes", name);
    const denied = note?.kind === "denied";
    if (FOR_FEW.includes(name)) for (const each of [byId(id), document.querySelector(`a[href="#${id}"]`).parentElement]) each.hidden = denied;
    const place = byId(id).querySelector(".section-note");
    if (place) {
      if (place.nextElementSibling) place.nextElementSibling.hidden = denied;
      say(place, note ? note.why : "");
      place.hidden = !note;
    }
  }
}

function draw(received) {
  due = false;
  if (left) return;
  const changed = store.takeChanged();
  const any = (...names) => names.some((name) => changed.has(name));
  if (any("host", "kernel", "models", "hosts")) drawOverview();
  if (any("hosts", "instances", "leases")) hosts.render();
  if (any("models", "instances")) models.render();
  if (any("models")) playground.render();
  if (any("tasks", "ended")) tasks.render();
  lists.render(changed);
  if (any("notes")) drawNotes();
  const clock = store.row("clock", "now");
  if (any("clock") && clock) {
    plots.add(clock.second, clock.point);
    tasks.tick();
    lists.tick();
  } else if (any("clock")) plots.forget();
  document.dispatchEvent(new CustomEvent("inferd:drawn", { detail: { received, drawn: performance.now() } }));
}

function schedule() {
  if (due) return;
  due = true;
  const received = performance.now();
  requestAnimationFrame(() => draw(received));
}

function heard(told) {
  store.apply(told);
  const away = store.row("kernel", "state")?.away;
  connection(away ? "away" : "live", away ? "Kernel away" : "Live");
  if (told.whole) plots.read();
  schedule();
}

const following = new Following((signal, each) => stream("events", { signal }, each), {
  told(told) {
    if (told.whole) showPage();
    heard(told);
  },
  away(error) {
    connection("away", error?.status === 503 ? "Too many pages" : "Gateway away");
    if (error) tell(error.status ? error.message : "the gateway does not answer; trying again", true);
  },
  refused(error) {
    const why = error.status !== 401 || login.key ? error.message : "";
    login.clear();
    if (shown) leave(why);
    else showLogin(why);
  },
});

function showPage() {
  shown = true;
  const signedIn = !byId("login").hidden;
  byId("login").hidden = true;
  byId("main").hidden = false;
  byId("sections").hidden = false;
  byId("sign-out").hidden = !login.key;
  if (signedIn) beginAtTop();
}

/** The keyboard goes on from where the form was, in the middle of the page; it is to begin as on a new one. */
function beginAtTop() {
  document.body.tabIndex = -1;
  document.body.focus({ preventScroll: true });
  document.body.removeAttribute("tabindex");
}

function showLogin(why) {
  connection("away", "Not signed in");
  byId("main").hidden = true;
  byId("sections").hidden = true;
  byId("sign-out").hidden = true;
  byId("login").hidden = false;
  say(byId("login-error"), why);
  byId("login-key").focus();
}

/** Nothing of a login that has ended stays on the page, and nothing of it is sent by the next, which begins with a new page. */
function leave(why) {
  following.end();
  playground.stop();
  tasks.stop();
  login.clear();
  store.clear();
  tell("");
  for (const id of ["kernel-name", "identity"]) say(byId(id), "");
  left = true;
  byId("main").replaceChildren();
  showLogin(why);
}

/** A key of the address signs nobody in by itself: any page can have a link with a key of its own. */
function offer({ key, tenant }) {
  byId("login-key").value = key;
  byId("login-tenant").value = tenant;
  showLogin("The address had this key. Sign in with it only if you expect that: whose key it is sees what you ask.");
  byId("login-submit").focus();
}

async function signIn(key, tenant) {
  say(byId("login-error"), "");
  if (!left) {
    login.set(key, tenant);
    byId("login-key").value = "";
    following.begin();
    return;
  }
  try {
    await fetch("index.html", { cache: "no-store", credentials: "omit" });
  } catch {
    say(byId("login-error"), "the gateway does not answer; try again");
    return;
  }
  login.set(key, tenant);
  byId("login-key").value = "";
  location.reload();
}

function start() {
  const given = takenOfAddress();
  startTheme(() => left || plots.redraw());
  byId("login-form").addEventListener("submit", (event) => {
    event.preventDefault();
    signIn(byId("login-key").value.trim(), byId("login-tenant").value.trim());
  });
  byId("sign-out").addEventListener("click", () => leave(""));
  addEventListener("pagehide", () => following.end());
  addEventListener("pageshow", (event) => event.persisted && byId("login").hidden && following.begin());
  say(byId("task-count"), counted(0, "task"));
  if (given?.key && (given.key !== login.key || given.tenant !== login.tenant)) offer(given);
  else following.begin();
}

start();
