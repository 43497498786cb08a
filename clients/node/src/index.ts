/**
 * The client of inferd for Node.
 *
 *     const client = await Client.connect();
 *     for await (const text of client.stream(chat("smollm2", "Name the capital of France."))) process.stdout.write(text);
 *
 * Messages of the wire are in "inferd-client/v1/task" and its neighbours.
 */
export { type Calling, Client, type Generation, type Running } from "./client.js";
export type { Connecting } from "./connecting.js";
export { type Facts, InferdError, type Reason } from "./errors.js";
export { HeldLease, type LeaseOptions } from "./leases.js";
export { call, type ChatMessage, chat, cores, type LeaseClaim, memory, model, type TaskSpec, text } from "./specs.js";
