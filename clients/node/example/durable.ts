// Makes a task that outlives this program, its connection and the kernel, and prints its text as it comes:
//
//     node build/example/durable.js smollm2 "Name the capital of France." [REQUEST_ID]
//
// Run it again with the same REQUEST_ID and it is the same task, told from its beginning. Ctrl-C cancels it.
import { chat, Client, InferdError } from "inferd-client";

const [model, prompt, requestId] = process.argv.slice(2);
if (!model || !prompt) throw new Error("give a model and what to say to it");

const client = await Client.connect(); // to $INFERD_ADDRESS, or to the kernel of this user or host
const interrupted = new AbortController();
process.once("SIGINT", () => interrupted.abort());
try {
  const task = await client.createTask(chat(model, prompt, { sampling: { maxTokens: 64, temperature: 0 } }), { requestId });
  console.error(`task ${task.taskId}`);
  interrupted.signal.addEventListener("abort", () => void client.cancelTask(task.taskId));
  for await (const { kind } of client.watch(task.taskId)) {
    if (kind.case === "queued" && kind.value.position > 0) console.error(`${kind.value.position} tasks before it`);
    if (kind.case === "output") process.stdout.write(kind.value.text);
    if (kind.case === "finished" && kind.value.error) throw InferdError.fromStatus(kind.value.error);
    if (kind.case === "finished") console.error(`\n${kind.value.usage?.outputTokens} tokens`);
  }
} catch (error) {
  if (!(error instanceof InferdError)) throw error;
  console.error(`${error.reason}: ${error.message}`);
  process.exitCode = 1;
} finally {
  client.close();
}
