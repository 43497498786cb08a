// Creates a task that outlives this program, its connection and the kernel, and prints its text as it comes.
//
//   npm install
//   node watch.mjs unix:$XDG_RUNTIME_DIR/inferd/inferd.sock MODEL "Once upon a time" [REQUEST_ID]
//
// That is the socket of a kernel of the same user, which needs no login; calls over TCP need a key or a token.
//
// Two things make it whole whatever breaks. The same `request_id` makes one task, however often it is sent. And each
// event has a number: who asks for what comes behind the last one that it has seen gets each event once.
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const PROTOS = fileURLToPath(new URL("../../protos", import.meta.url));
const PAUSE_MS = 100; // from a connection that broke to the next try
const PATIENCE_MS = 120_000; // a kernel that is started again has so long to be there

// What says that the kernel is away, or is about to be: all else is an answer.
const AWAY = new Set([grpc.status.UNAVAILABLE, grpc.status.CANCELLED]);

const definition = loader.loadSync("inferd_api/v1/task_service.proto", {
  includeDirs: [PROTOS],
  keepCase: true,
  longs: String,
  enums: String,
  oneofs: true,
});
const { TaskService } = grpc.loadPackageDefinition(definition).inferd.v1;

// Calls `attempt` until it is answered, or the kernel has been away for too long.
async function patiently(attempt) {
  let since = Date.now();
  for (;;) {
    try {
      return await attempt(() => (since = Date.now()));
    } catch (error) {
      if (!AWAY.has(error.code) || Date.now() - since > PATIENCE_MS) throw error;
      console.error(`the kernel is away (${error.details}); trying again`);
      await sleep(PAUSE_MS);
    }
  }
}

function create(client, request) {
  return patiently(
    () =>
      new Promise((resolve, reject) =>
        client.CreateTask(request, (error, answer) => (error ? reject(error) : resolve(answer.task))),
      ),
  );
}

// Gives each event of a task once, in order, from behind number `after` to the end.
async function watch(client, taskId, take, after = "0") {
  let ended = false;
  await patiently(async (heard) => {
    const call = client.WatchTask({ task_id: taskId, after_sequence: after });
    for await (const { event } of call) {
      heard();
      take(event);
      after = event.sequence; // behind it, for what is seen counts, not what was sent
      ended = event.kind === "finished";
    }
    if (!ended) throw Object.assign(new Error("ended early"), { code: grpc.status.UNAVAILABLE, details: "no end" });
  });
}

const [address, model, prompt, requestId = randomUUID()] = process.argv.slice(2);
if (!address || !model || !prompt) {
  console.error("usage: node watch.mjs ADDRESS MODEL PROMPT [REQUEST_ID]");
  process.exit(2);
}
const client = new TaskService(address, grpc.credentials.createInsecure(), { "grpc.max_reconnect_backoff_ms": 1000 });
let end;
const task = await create(client, { request_id: requestId, spec: { model, prompt } });
console.error(`task ${task.task_id}`);
await watch(client, task.task_id, (event) => {
  if (event.output) process.stdout.write(event.output.text);
  if (event.finished) end = event.finished;
});
process.stdout.write("\n");
client.close();
if (end.error) console.error(`${end.state}: ${end.error.message}`);
process.exitCode = end.error ? 1 : 0;
