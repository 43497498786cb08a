// What a client on a shared socket says who it is by: tickets, taken from the socket beside it and renewed in time.
import { stat } from "node:fs/promises";
import { connect } from "node:net";
import { InferdError } from "./errors.js";

const FORM = /^(it_[0-9a-f]{64})\n([0-9]{1,6}(?:\.[0-9]{1,6})?)\n$/;
const MOST_BYTES = 4096;
const ASK_MS = 5000; // how long that socket is waited for
const RENEWED_AFTER = 2 / 3; // of the time that a ticket holds

/** The ticket of a client. */
export class Tickets {
  readonly #path: string;
  #ticket = "";
  #from = "";
  #renewAt = 0;

  /** For the socket at `path`. */
  constructor(path: string) {
    this.#path = `${path}.id`;
  }

  /** The ticket; "" where the socket is its owner's alone and needs none, or where no kernel is there. */
  async current(): Promise<string> {
    const stamp = await this.#stamp();
    if (!stamp || (stamp === this.#from && performance.now() < this.#renewAt)) return this.#ticket;
    const said = await this.#ask();
    const told = FORM.exec(said);
    if (told) {
      this.#ticket = told[1]!;
      this.#from = stamp;
      this.#renewAt = performance.now() + Number(told[2]) * 1000 * RENEWED_AFTER;
    } else if (said.startsWith("error: ")) {
      throw new InferdError(`no ticket: ${said.slice(7).trim()}`, { reason: "UNAUTHENTICATED", code: "UNAUTHENTICATED" });
    }
    return this.#ticket;
  }

  #ask(): Promise<string> {
    return new Promise((resolve, reject) => {
      const asked = connect(this.#path).setEncoding("utf8").setTimeout(ASK_MS);
      let said = "";
      asked.on("data", (part: string) => {
        said += part;
        if (said.length > MOST_BYTES) asked.destroy();
      });
      asked.once("timeout", () => {
        const message = `no ticket: ${this.#path} gave none in ${ASK_MS / 1000} s; try again, or use a key (credentialFile)`;
        reject(new InferdError(message, { reason: "KERNEL_UNREACHABLE", code: "UNAVAILABLE", retryAfterMs: 1000 }));
        asked.destroy();
      });
      asked.once("error", () => resolve("")); // nobody is there: the call that needs it says so
      asked.once("close", () => resolve(said));
    });
  }

  /** What tells one kernel's socket from the next one's; "" where there is none. */
  async #stamp(): Promise<string> {
    try {
      const found = await stat(this.#path, { bigint: true });
      return `${found.ino} ${found.ctimeNs}`;
    } catch {
      return "";
    }
  }
}
