import { durationMs, timestampDate } from "@bufbuild/protobuf/wkt";
import { setTimeout as sleep } from "node:timers/promises";
import { InferdError } from "./errors.js";
import { LeaseState, type Lease } from "./gen/inferd_api/v1/lease_pb.js";
import type { LeaseRenewal } from "./gen/inferd_api/v1/lease_service_pb.js";
import type { LeaseClaim } from "./specs.js";

const RENEWALS = 3; // keep-alives in a TTL: two may be lost
const PAUSE_MS = 200; // between two attempts to reach the kernel

/** What a lease is asked for with; as in `inferd.v1.LeaseSpec`. */
export interface LeaseOptions {
  /** How long it holds unless it is kept alive, in milliseconds; default the kernel's. */
  ttlMs?: number;
  /** Wait when there is no room now; default: refuse with LEASE_UNAVAILABLE. */
  wait?: boolean;
  /** Longest wait, in milliseconds. */
  waitTimeoutMs?: number;
  labels?: Record<string, string>;
  /** Ends the waiting, and the lease. */
  signal?: AbortSignal;
}
export type { LeaseClaim };

/** What keeps a lease alive, and what gives it back. */
export interface LeaseCalls {
  renew(leaseId: string, timeoutMs: number): Promise<LeaseRenewal | undefined>;
  release(leaseId: string): Promise<unknown>;
}

/**
 * A lease that this program keeps alive. The kernel counts its time from when it takes a keep-alive, and this client from
 * when it was sent, which is earlier, on its own clock: it never believes in one that the kernel has given to another.
 */
export class HeldLease {
  readonly leaseId: string;
  /** How long it holds from each keep-alive, in milliseconds. */
  readonly ttlMs: number;
  /** Rises with every grant of the kernel. */
  fencingToken: bigint;
  readonly #calls: LeaseCalls;
  readonly #lost = new AbortController();
  readonly #ended = new AbortController();
  #confirmed: number;
  #trouble = "";
  #timer?: NodeJS.Timeout;

  /** Begins to keep it alive; `sent` is when it was asked for, on `performance.now()`. */
  constructor(lease: Lease, sent: number, calls: LeaseCalls) {
    this.leaseId = lease.leaseId;
    this.ttlMs = lease.spec?.ttl ? durationMs(lease.spec.ttl) : 0;
    this.fencingToken = lease.fencingToken;
    this.#calls = calls;
    this.#confirmed = sent;
    this.#watch();
    void this.#keep();
  }

  /** Aborted, with the error, when the lease does not hold any more: give it to what needs the lease. */
  get signal(): AbortSignal {
    return this.#lost.signal;
  }

  /** How long it certainly holds, in milliseconds. */
  get remainingMs(): number {
    return this.#lost.signal.aborted ? 0 : Math.max(0, this.#confirmed + this.ttlMs - performance.now());
  }

  /** Throws LEASE_LOST where it does not hold any more, or nobody can tell. */
  check(): void {
    if (this.#ended.signal.aborted && !this.#lost.signal.aborted) throw this.#error("it was released");
    if (this.#lost.signal.aborted) throw this.#lost.signal.reason;
    if (this.remainingMs <= 0) throw this.#end(`the kernel has not confirmed it for its TTL of ${this.ttlMs} ms`);
  }

  /** Gives it back. One that the kernel cannot be told of ends by itself. */
  async release(): Promise<void> {
    if (this.#ended.signal.aborted) return;
    this.#over();
    await this.#calls.release(this.leaseId).catch(() => undefined);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.release();
  }

  #error(why: string, metadata: Readonly<Record<string, string>> = {}): InferdError {
    const brackets = this.#trouble && ` (${this.#trouble})`;
    return new InferdError(`lease ${this.leaseId} is lost: ${why}${brackets}`, {
      reason: "LEASE_LOST",
      code: "FAILED_PRECONDITION",
      metadata: { lease_id: this.leaseId, ...metadata },
    });
  }

  #end(why: string, metadata: Readonly<Record<string, string>> = {}): InferdError {
    const error = this.#error(why, metadata);
    const isFirst = !this.#ended.signal.aborted;
    this.#over();
    if (isFirst) this.#lost.abort(error);
    return error;
  }

  #over(): void {
    this.#ended.abort();
    clearTimeout(this.#timer);
  }

  /** Notices when its time is over. */
  #watch(): void {
    this.#timer = setTimeout(() => {
      if (this.remainingMs > 0) this.#watch();
      else this.#end(`the kernel has not confirmed it for its TTL of ${this.ttlMs} ms`);
    }, this.remainingMs);
  }

  async #keep(): Promise<void> {
    const every = this.ttlMs / RENEWALS;
    while (!this.#ended.signal.aborted) {
      const due = this.#confirmed + every - performance.now();
      await sleep(Math.max(this.#trouble ? PAUSE_MS : 0, due), undefined, { signal: this.#ended.signal }).catch(() => undefined);
      if (this.#ended.signal.aborted) return;
      const sent = performance.now();
      try {
        this.#take(await this.#calls.renew(this.leaseId, every), sent);
      } catch (error) {
        this.#trouble = InferdError.from(error).message.slice(0, 200);
      }
    }
  }

  #take(renewal: LeaseRenewal | undefined, sent: number): void {
    if (!renewal) throw new InferdError("the kernel said nothing of it");
    if (renewal.error) {
      const ended = InferdError.fromStatus(renewal.error);
      this.#trouble = "";
      this.#end(ended.message, ended.metadata);
    } else if (this.remainingMs > 0) {
      this.#confirmed = sent;
      this.#trouble = "";
      this.fencingToken = renewal.fencingToken;
    }
  }
}

/** Throws where a lease has ended before it was granted. */
export function checkGranted(lease: Lease): void {
  if (lease.state === LeaseState.ACTIVE || lease.state === LeaseState.PENDING) return;
  if (lease.error) throw InferdError.fromStatus(lease.error);
  const ended = lease.endTime ? ` at ${timestampDate(lease.endTime).toISOString()}` : "";
  throw new InferdError(`lease ${lease.leaseId} is ${LeaseState[lease.state]}${ended}, before it was granted`, {
    reason: "LEASE_LOST",
    code: "FAILED_PRECONDITION",
    metadata: { lease_id: lease.leaseId },
  });
}
