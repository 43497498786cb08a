import type { DescService } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { type CallOptions, type Client as Stub, createClient, type Transport } from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";
import { randomUUID } from "node:crypto";
import { type Connecting, findWay, type Way } from "./connecting.js";
import { InferdError } from "./errors.js";
import { LeaseService } from "./gen/inferd_api/v1/lease_service_pb.js";
import { type Lease, LeaseState } from "./gen/inferd_api/v1/lease_pb.js";
import { Priority } from "./gen/inferd_api/v1/priority_pb.js";
import { FinishReason, type Finished, type Task, type TaskEvent } from "./gen/inferd_api/v1/task_pb.js";
import { TaskService } from "./gen/inferd_api/v1/task_service_pb.js";
import { checkGranted, HeldLease, type LeaseOptions } from "./leases.js";
import { Patience } from "./patience.js";
import { bounded, type LeaseClaim, type TaskSpec } from "./specs.js";

const CALL_TIMEOUT_MS = 30_000;
const RELEASE_TIMEOUT_MS = 5_000; // a lease that is not released ends by itself
const MOST_BYTES = 64 << 20;
const PING_MS = 310_000; // a server that states no rule of its own takes one ping in five minutes

/** Options of each call. */
export interface Calling {
  /** Ends the call. */
  signal?: AbortSignal;
  /** The lease that it runs under. */
  lease?: HeldLease;
  /** Deadline, in milliseconds. */
  timeoutMs?: number;
}

/** Options of a task that is run; `timeoutMs` is its deadline, by default none. */
export interface Running extends Calling {
  /** Makes the call idempotent; to 128 characters. */
  requestId?: string;
  /** Keep the task running when the stream closes; come back with `watch`. */
  detachOnDisconnect?: boolean;
  /** Least time between two events with output, in milliseconds. */
  outputIntervalMs?: number;
}

/** What a task gave, once it has ended. */
export interface Generation {
  taskId: string;
  /** The first output. */
  text: string;
  /** All of them: one, unless `n` asked for more. */
  texts: string[];
  /** What a function gave; several of one that streams. */
  pieces: unknown[];
  /** Why the task ended: "END_OF_TEXT", "STOP_STRING" or "MAX_TOKENS". */
  finishReason: string;
  /** How it ended, with what it cost. */
  finished: Finished;
}

/** A connection to a kernel. Close it at the end. */
export class Client {
  /** Of the kernel. */
  readonly address: string;
  readonly #way: Way;
  readonly #options: Connecting;
  readonly #manager: Http2SessionManager;
  readonly #transport: Transport;
  readonly #tasks: Stub<typeof TaskService>;
  readonly #leases: Stub<typeof LeaseService>;

  private constructor(way: Way, options: Connecting) {
    this.address = way.address;
    this.#way = way;
    this.#options = options;
    this.#manager = new Http2SessionManager(way.url, { pingIntervalMs: PING_MS }, way.session);
    this.#transport = createGrpcTransport({
      baseUrl: way.url,
      sessionManager: this.#manager,
      readMaxBytes: MOST_BYTES,
      writeMaxBytes: MOST_BYTES,
    });
    this.#tasks = this.stub(TaskService);
    this.#leases = this.stub(LeaseService);
  }

  /** Finds the kernel that is meant. It is called for the first time by the first call. */
  static async connect(options: Connecting = {}): Promise<Client> {
    return new Client(await findWay(options), options);
  }

  /** Closes the connection; calls under way end, and tasks that hang on them. */
  close(): void {
    this.#manager.abort(new InferdError(`this client of ${this.address} is closed`, { code: "CANCELLED" }));
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** The generated stub of any service: give its calls `await client.calling()`, and its errors to `InferdError.from`. */
  stub<S extends DescService>(service: S): Stub<S> {
    return createClient(service, this.#transport);
  }

  /** What each call carries: who calls, for whom, and under which lease. */
  async calling({ signal, lease, timeoutMs = this.#options.timeoutMs ?? CALL_TIMEOUT_MS }: Calling = {}): Promise<CallOptions> {
    lease?.check();
    const headers: Record<string, string> = {};
    const secret = this.#way.credential || (await this.#way.tickets?.current());
    if (secret) headers.authorization = `Bearer ${secret}`;
    if (this.#options.tenant) headers["inferd-tenant"] = this.#options.tenant;
    if (lease) headers["inferd-lease"] = lease.leaseId;
    return { headers, signal, timeoutMs: Number.isFinite(timeoutMs) ? Math.max(1, Math.ceil(timeoutMs)) : undefined };
  }

  /**
   * Runs a task and gives its events; `Finished` is the last one. Leaving the loop, or `signal`, cancels the task, and so
   * does a connection that breaks, unless `detachOnDisconnect`. Throws where it was refused or did not succeed: then
   * behind its `Finished`.
   */
  async *run(spec: TaskSpec, options: Running = {}): AsyncGenerator<TaskEvent, void, undefined> {
    const { requestId, detachOnDisconnect, timeoutMs = Infinity } = options;
    const request = { spec: bounded(spec), requestId, detachOnDisconnect, outputInterval: span(options.outputIntervalMs), severalEvents: true };
    try {
      yield* this.#events((calling) => this.#tasks.runTask(request, calling), { ...options, timeoutMs });
    } catch (error) {
      if (!(error instanceof InferdError) || error.reason || error.code !== "DEADLINE_EXCEEDED") throw error;
      throw new InferdError("the task's deadline passed", { reason: "TASK_EXPIRED", code: error.code, cause: error });
    }
  }

  /** Runs a task and gives its text as it comes. As `run`. */
  async *stream(spec: TaskSpec, options: Running = {}): AsyncGenerator<string, void, undefined> {
    for await (const { kind } of this.run(spec, options)) {
      if (kind.case === "output" && kind.value.text) yield kind.value.text;
    }
  }

  /** Runs a task and waits for all that it gives. As `run`. */
  async generate(spec: TaskSpec, options: Running = {}): Promise<Generation> {
    const texts = [""];
    const pieces: unknown[] = [];
    let last: TaskEvent | undefined;
    for await (const event of this.run(spec, { outputIntervalMs: 10_000, ...options })) {
      last = event;
      if (event.kind.case !== "output") continue;
      const { sample, text, call } = event.kind.value;
      if (call) pieces.push(JSON.parse(call.json));
      while (texts.length <= sample) texts.push("");
      texts[sample] += text;
    }
    if (last?.kind.case !== "finished") throw this.#endedEarly();
    const finished = last.kind.value;
    return { taskId: last.taskId, text: texts[0]!, texts, pieces, finishReason: FinishReason[finished.reason]!, finished };
  }

  /**
   * Makes a task that outlives this program, its connection and the kernel: it is kept when this returns; see `watch`.
   * Where the answer is lost it is asked for again with the same `requestId`. It expires after `timeoutMs`, by default
   * after a day.
   */
  async createTask(spec: TaskSpec, options: Omit<Running, "detachOnDisconnect" | "outputIntervalMs"> = {}): Promise<Task> {
    const { signal, lease, timeoutMs, requestId = randomUUID() } = options;
    const ttl = timeoutMs === undefined ? undefined : { case: "ttl" as const, value: durationFromMs(timeoutMs) };
    const request = { spec: bounded(spec), requestId, expiration: ttl };
    const patience = new Patience();
    for (;;) {
      try {
        return (await this.#call((calling) => this.#tasks.createTask(request, calling), { signal, lease })).task!;
      } catch (error) {
        if (error instanceof InferdError && !error.unsent) patience.heard();
        await patience.again(error, signal);
      }
    }
  }

  /**
   * The events of a task behind the number `after`, up to `Finished`, each once, over the end of connections and kernels.
   * The task is left alone; that it failed is told by `Finished` only.
   */
  async *watch(
    taskId: string,
    { after = 0n, signal, outputIntervalMs }: { after?: bigint; signal?: AbortSignal; outputIntervalMs?: number } = {},
  ): AsyncGenerator<TaskEvent, void, undefined> {
    const patience = new Patience();
    for (;;) {
      const request = { taskId, afterSequence: after, outputInterval: span(outputIntervalMs), severalEvents: true };
      try {
        for await (const event of this.#events((calling) => this.#tasks.watchTask(request, calling), { signal, timeoutMs: Infinity })) {
          patience.heard();
          after = event.sequence;
          yield event;
          if (event.kind.case === "finished") return;
        }
        throw this.#endedEarly();
      } catch (error) {
        await patience.again(error, signal);
      }
    }
  }

  /** Reads a task. */
  async getTask(taskId: string, options: Calling = {}): Promise<Task> {
    return (await this.#call((calling) => this.#tasks.getTask({ taskId }, calling), options)).task!;
  }

  /** Ends a task now; one that has ended is returned as it is. */
  async cancelTask(taskId: string, options: Calling = {}): Promise<Task> {
    return (await this.#call((calling) => this.#tasks.cancelTask({ taskId }, calling), options)).task!;
  }

  /** Holds capacity: waits for the grant, and keeps it alive until `release`. */
  async lease(claims: LeaseClaim[], options: LeaseOptions = {}): Promise<HeldLease> {
    const { ttlMs, wait, waitTimeoutMs, labels, signal } = options;
    const spec = { claims, wait, labels, ttl: span(ttlMs), waitTimeout: span(waitTimeoutMs), priority: Priority.UNSPECIFIED };
    const sent = performance.now();
    const { lease } = await this.#call((calling) => this.#leases.createLease({ spec, requestId: randomUUID() }, calling), { signal });
    const held = new HeldLease(lease!, sent, {
      renew: (leaseId, timeoutMs) => this.#renew(leaseId, timeoutMs),
      release: (leaseId) => this.#call((calling) => this.#leases.releaseLease({ leaseId }, calling), { timeoutMs: RELEASE_TIMEOUT_MS }),
    });
    try {
      const decided = await this.#decided(lease!, signal);
      checkGranted(decided);
      held.fencingToken = decided.fencingToken;
      return held;
    } catch (error) {
      await held.release();
      throw error;
    }
  }

  async #decided(lease: Lease, signal?: AbortSignal): Promise<Lease> {
    const patience = new Patience();
    patience.heard();
    while (lease.state === LeaseState.PENDING) {
      try {
        const calling = await this.calling({ signal, timeoutMs: Infinity });
        for await (const changed of this.#leases.watchLease({ leaseId: lease.leaseId }, calling)) {
          patience.heard();
          lease = changed.lease!;
          if (lease.state !== LeaseState.PENDING) return lease;
        }
      } catch (error) {
        signal?.throwIfAborted();
        await patience.again(InferdError.from(error, this.address), signal);
      }
    }
    return lease;
  }

  async #renew(leaseId: string, timeoutMs: number) {
    const asked = (async function* () {
      yield { leaseIds: [leaseId] };
    })();
    for await (const answer of this.#leases.keepAliveLeases(asked, await this.calling({ timeoutMs }))) {
      return answer.renewals[0];
    }
    return undefined;
  }

  #endedEarly(): InferdError {
    return new InferdError(`${this.address} ended the call`, { reason: "KERNEL_UNREACHABLE", code: "UNAVAILABLE" });
  }

  async #call<T>(make: (calling: CallOptions) => Promise<T>, options: Calling): Promise<T> {
    try {
      return await make(await this.calling(options));
    } catch (error) {
      options.signal?.throwIfAborted();
      throw InferdError.from(error, this.address);
    }
  }

  /** The events of a call, which ends when its reader leaves. */
  async *#events(
    make: (calling: CallOptions) => AsyncIterable<{ event?: TaskEvent; moreEvents: TaskEvent[] }>,
    options: Calling,
  ): AsyncGenerator<TaskEvent, void, undefined> {
    const left = new AbortController();
    const signal = options.signal ? AbortSignal.any([left.signal, options.signal]) : left.signal;
    try {
      for await (const { event, moreEvents } of make(await this.calling({ ...options, signal }))) {
        if (event) yield event;
        yield* moreEvents;
      }
    } catch (error) {
      options.signal?.throwIfAborted();
      throw InferdError.from(error, this.address);
    } finally {
      left.abort();
    }
  }
}

function span(ms: number | undefined) {
  return ms === undefined || !Number.isFinite(ms) ? undefined : durationFromMs(ms);
}
