// A conversation with a model, by the same interface that programs use.

import { stream } from "./api.js";
import { byId, el, mark, say } from "./dom.js";
import { number, span } from "./format.js";

const MOST_TURNS = 100;
const MOST_CHARS = 100000;

export class Playground {
  constructor(store) {
    this.store = store;
    this.turns = [];
    this.form = byId("playground-form");
    this.model = byId("playground-model");
    this.text = byId("playground-text");
    this.log = byId("playground-log");
    this.stopper = byId("playground-stop");
    this.status = byId("playground-status");
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    this.text.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        this.send();
      }
    });
    this.stopper.addEventListener("click", () => this.running?.abort());
    byId("playground-clear").addEventListener("click", () => {
      this.stop();
      this.log.replaceChildren();
      say(this.status, "");
      this.text.focus();
    });
  }

  /** Ask no more, and have nothing of what was said go on: an answer that still comes is of a conversation that is over. */
  stop() {
    this.running?.abort();
    this.running = null;
    this.stopper.disabled = true;
    this.turns = [];
  }

  render() {
    const names = [...this.store.section("models").keys()].sort();
    const now = [...this.model.options].map((each) => each.value);
    if (names.join("\n") === now.join("\n")) return;
    const chosen = this.model.value;
    this.model.replaceChildren(...names.map((name) => el("option", { value: name, text: name })));
    if (names.includes(chosen)) this.model.value = chosen;
    mark(byId("playground-send"), "disabled", !names.length);
  }

  add(role, who) {
    const text = el("div", { class: "said" });
    this.log.append(el("div", { class: `turn ${role}` }, el("p", { class: "who", text: who }), text));
    while (this.log.children.length > MOST_TURNS) this.log.firstChild.remove();
    this.log.scrollTop = this.log.scrollHeight;
    return text;
  }

  async send() {
    const asked = this.text.value.trim();
    const model = this.model.value;
    if (!asked || !model || this.running) return;
    const turns = this.turns;
    const tell = (text) => turns === this.turns && say(this.status, text);
    this.text.value = "";
    turns.push({ role: "user", content: asked });
    say(this.add("user", "You"), asked);
    const place = this.add("assistant", model);
    const running = (this.running = new AbortController());
    this.stopper.disabled = false;
    tell(`${model} has been asked.`);
    const began = performance.now();
    let answer = "";
    let first = null;
    let usage = null;
    const body = { model, messages: turns.slice(-MOST_TURNS), stream: true, stream_options: { include_usage: true } };
    for (const [name, id] of [["max_tokens", "playground-most"], ["temperature", "playground-temperature"]]) {
      if (byId(id).value !== "") body[name] = Number(byId(id).value);
    }
    try {
      await stream("/v1/chat/completions", { body, signal: running.signal }, (told) => {
        usage = told.usage || usage;
        const delta = told.choices?.[0]?.delta || {};
        const piece = (delta.reasoning_content || "") + (delta.content || "");
        if (!piece) return;
        first ??= performance.now() - began;
        answer = (answer + piece).slice(-MOST_CHARS);
        say(place, answer);
        this.log.scrollTop = this.log.scrollHeight;
      });
      const took = (performance.now() - began) / 1000;
      tell(`${usage ? `${number(usage.completion_tokens)} tokens in ` : ""}${span(took)}; the first after ${span(first == null ? null : first / 1000)}.`);
    } catch (error) {
      if (running.signal.aborted) tell("Stopped.");
      else {
        tell(error.message);
        place.parentElement.classList.add("failed");
      }
    } finally {
      if (answer) turns.push({ role: "assistant", content: answer });
      else turns.pop();
      turns.splice(0, Math.max(0, turns.length - MOST_TURNS));
      if (this.running === running) {
        this.running = null;
        this.stopper.disabled = true;
      }
    }
  }
}
