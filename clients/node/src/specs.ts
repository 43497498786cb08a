import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Claim, ClaimSchema } from "./gen/inferd_api/v1/lease_pb.js";
import type { ChatMessageSchema, TaskSpecSchema } from "./gen/inferd_api/v1/task_pb.js";

/** What a task is to do, as an object with the fields of `inferd.v1.TaskSpec`. */
export type TaskSpec = MessageInitShape<typeof TaskSpecSchema>;
/** One message of a conversation. */
export type ChatMessage = MessageInitShape<typeof ChatMessageSchema>;
/** What a lease claims. */
export type LeaseClaim = MessageInitShape<typeof ClaimSchema> | Claim;
type More = Omit<Exclude<TaskSpec, { $typeName: string }>, "model" | "input">;

const DEFAULT_MAX_TOKENS = 512;

/** A text that the model goes on with. */
export function text(model: string, prompt: string, more: More = {}): TaskSpec {
  return { ...more, model, input: { case: "prompt", value: prompt } };
}

/** A conversation that the model answers; a string is what a user says. */
export function chat(model: string, messages: string | ChatMessage[], more: More = {}): TaskSpec {
  const said = typeof messages === "string" ? [{ role: "user", content: messages }] : messages;
  return { ...more, model, input: { case: "chat", value: { messages: said } } };
}

/** A call of a function, with values of its parameters by name; `generate` gives its `pieces`. */
export function call(name: string, input: Record<string, unknown>, more: More = {}): TaskSpec {
  return { ...more, model: `functions@${name}`, input: { case: "call", value: { input: JSON.stringify(input) } } };
}

/** Memory of a device (default "cpu:0"), in bytes. */
export function memory(bytes: bigint | number, deviceId = ""): LeaseClaim {
  return { kind: { case: "memory", value: { bytes: BigInt(bytes), deviceId } } };
}

/** A model that stays loaded, with places for so many tasks and room for so many tokens of theirs. */
export function model(name: string, { sequences = 0, kvTokens = 0 } = {}): LeaseClaim {
  return { kind: { case: "model", value: { model: name, sequences, kvTokens } } };
}

/** Processor cores of a device (default "cpu:0"). */
export function cores(count: number, deviceId = ""): LeaseClaim {
  return { kind: { case: "cores", value: { cores: count, deviceId } } };
}

/** The same, with no more output than the clients of inferd ask for unless they are told. */
export function bounded(spec: TaskSpec): TaskSpec {
  const generates = !spec.embedding && spec.input?.case !== "infer" && spec.input?.case !== "call";
  if (!generates || spec.sampling?.maxTokens !== undefined) return spec;
  return { ...spec, sampling: { ...spec.sampling, maxTokens: DEFAULT_MAX_TOKENS, fitMaxTokens: true } } as TaskSpec;
}
