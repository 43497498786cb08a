import { setTimeout as sleep } from "node:timers/promises";
import { InferdError } from "./errors.js";

/** Ends of a call, behind which there may be another kernel. */
const PASSING = new Set(["KERNEL_UNREACHABLE", "NOT_LEADER", "SHUTTING_DOWN"]);
const PAUSE_MS = 100; // between two tries
const PATIENCE_MS = 30_000; // from when it was found away

/** How long a kernel that is away is waited for: asked after each failure. */
export class Patience {
  #waits = false;
  #lostAt?: number;

  /** The kernel has said something. */
  heard(): void {
    this.#waits = true;
    this.#lostAt = undefined;
  }

  /** Pauses before another try; throws the error where another one is no use, or they have gone on for long. */
  async again(error: unknown, signal?: AbortSignal): Promise<void> {
    const now = performance.now();
    this.#lostAt ??= now;
    const passes = error instanceof InferdError && PASSING.has(error.reason);
    if (!this.#waits || !passes || now - this.#lostAt > PATIENCE_MS) throw error;
    await sleep(PAUSE_MS, undefined, { signal });
  }
}
