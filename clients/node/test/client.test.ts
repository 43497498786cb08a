// Against a real kernel: tests/system/client_ground.py says what is there. Run by `make test-clients`.
import assert from "node:assert/strict";
import { connect as dial } from "node:net";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { chat, Client, InferdError, memory, model, text } from "inferd-client";
import { TaskState } from "inferd-client/v1/task";
import { LeaseService } from "inferd-client/v1/lease_service";
import { LeaseState } from "inferd-client/v1/lease";

const { INFERD_TEST_TCP, INFERD_TEST_TLS, INFERD_TEST_KEY, INFERD_TEST_CA, INFERD_TEST_PROXY, INFERD_TEST_CONTROL } = process.env;
const LONG = { sampling: { maxTokens: 400 } };
const TTL_MS = 6000; // a keep-alive has a third of it, on a machine that is busy
let client: Client;

before(async () => {
  client = await Client.connect();
});
after(() => client.close());

/** Has the ground do something: "cut" connections through the proxy, "kill" the kernel. */
function ask(order: string): Promise<void> {
  const [host, port] = INFERD_TEST_CONTROL!.split(":");
  return new Promise((resolve, reject) => {
    const asked = dial(Number(port), host);
    asked.once("close", resolve).once("error", reject).resume().write(`${order}\n`);
  });
}

async function textOf(events: AsyncIterable<{ kind: { case?: string; value?: unknown } }>): Promise<string> {
  let all = "";
  for await (const { kind } of events) if (kind.case === "output") all += (kind.value as { text: string }).text;
  return all;
}

test("the kernel of this user is found, and streams exactly what there is", async () => {
  let all = "";
  for await (const part of client.stream(chat("fake", "Grüße, 世界 🐢"))) all += part;
  assert.equal(all, "Grüße, 世界 🐢");
  const made = await client.generate(text("fake", "la"), {});
  assert.equal(made.text, "la".repeat(256));
  assert.equal(made.finishReason, "MAX_TOKENS");
});

test("a key logs in over TCP, and nothing else does", async () => {
  const keyed = await Client.connect({ address: INFERD_TEST_TCP, credentialFile: INFERD_TEST_KEY });
  assert.equal((await keyed.generate(chat("fake", "key"))).text, "key");
  keyed.close();
  const bare = await Client.connect({ address: INFERD_TEST_TCP });
  await assert.rejects(bare.generate(chat("fake", "no")), { reason: "UNAUTHENTICATED", code: "UNAUTHENTICATED" });
  bare.close();
  await assert.rejects(Client.connect({ address: "192.0.2.1:1", credential: "ik" }), /use an address with TLS/);
});

test("TLS is spoken with who has a certificate of the right authority, and with nobody else", async () => {
  const secure = { address: INFERD_TEST_TLS, credentialFile: INFERD_TEST_KEY };
  const trusting = await Client.connect({ ...secure, caFile: INFERD_TEST_CA });
  assert.equal((await trusting.generate(chat("fake", "tls"))).text, "tls");
  trusting.close();
  const doubting = await Client.connect(secure);
  await assert.rejects(doubting.generate(chat("fake", "no")), { reason: "TLS_FAILED" });
  doubting.close();
});

test("a signal cancels the task, and so does leaving its loop", async () => {
  for (const leave of ["signal", "loop"]) {
    const left = new AbortController();
    let taskId = "";
    const reading = (async () => {
      for await (const event of client.run(text("slow", "la", LONG), { signal: left.signal })) {
        taskId = event.taskId;
        if (event.kind.case !== "output") continue;
        if (leave === "loop") break;
        left.abort();
      }
    })();
    if (leave === "signal") await assert.rejects(reading, { name: "AbortError" });
    else await reading;
    assert.equal(await stateOf(taskId), TaskState.CANCELLED);
  }
});

/** How a task has ended, once it has. */
async function stateOf(taskId: string): Promise<TaskState | undefined> {
  for await (const { kind } of client.watch(taskId)) if (kind.case === "finished") return kind.value.state;
  return undefined;
}

test("a deadline ends the task", async () => {
  await assert.rejects(client.generate(text("slow", "la", LONG), { timeoutMs: 200 }), { reason: "TASK_EXPIRED", code: "DEADLINE_EXCEEDED" });
});

for (const trouble of ["cut", "kill"]) {
  test(`a durable task is watched on behind its last event: ${trouble}`, async () => {
    const proxied = await Client.connect({ address: INFERD_TEST_PROXY, credentialFile: INFERD_TEST_KEY });
    const task = await proxied.createTask(text("slow", "la", LONG), { requestId: `node ${trouble}` });
    assert.equal((await proxied.createTask(text("slow", "la", LONG), { requestId: `node ${trouble}` })).taskId, task.taskId);
    const sequences: bigint[] = [];
    let all = "";
    let first = 0n;
    for await (const { kind, sequence } of proxied.watch(task.taskId)) {
      sequences.push(sequence);
      if (kind.case === "output") all += kind.value.text;
      if (first || !all) continue;
      first = sequence;
      await ask(trouble);
    }
    assert.equal(all, "la".repeat(200));
    assert.ok(sequences.every((each, i) => i === 0 || each > sequences[i - 1]!), String(sequences));
    const rest = await textOf(client.watch(task.taskId, { after: first }));
    assert.ok(rest && all.endsWith(rest) && rest.length < all.length);
    proxied.close();
  });
}

test("a lease holds beyond its TTL, for calls under it, and is given back", async () => {
  const lease = await client.lease([memory(1 << 20), model("fake", { sequences: 1, kvTokens: 512 })], { ttlMs: TTL_MS, wait: true });
  const lived = performance.now();
  while (performance.now() - lived < 2 * TTL_MS) {
    assert.equal((await client.generate(chat("fake", "held", { sampling: { maxTokens: 16 } }), { lease })).text, "held");
    await sleep(100);
  }
  lease.check();
  assert.ok(lease.fencingToken > 0n);
  await lease.release();
  const { lease: ended } = await client.stub(LeaseService).getLease({ leaseId: lease.leaseId }, await client.calling());
  assert.equal(ended?.state, LeaseState.RELEASED);
});

test("a lease that somebody else has ended is lost at once", async () => {
  const lease = await client.lease([memory(1 << 20)], { ttlMs: TTL_MS });
  const lost = new Promise((resolve) => lease.signal.addEventListener("abort", resolve));
  await client.stub(LeaseService).releaseLease({ leaseId: lease.leaseId }, await client.calling());
  await lost;
  assert.match(String(lease.signal.reason), /RELEASED/);
  assert.throws(() => lease.check(), { reason: "LEASE_LOST" });
  await assert.rejects(client.generate(chat("fake", "no"), { lease }), { reason: "LEASE_LOST" });
});

test("errors have the kernel's reason", async () => {
  const error = await client.generate(chat("fak", "hello")).then(() => assert.fail(), (error: unknown) => error);
  assert.ok(error instanceof InferdError);
  assert.equal(error.reason, "MODEL_NOT_FOUND");
  assert.equal(error.code, "NOT_FOUND");
  assert.equal(error.metadata.suggestion, "fake");
  assert.match(error.message, /did you mean/);
  await assert.rejects(client.generate({ model: "fake" }), { reason: "INVALID_FIELD", code: "INVALID_ARGUMENT", field: /spec/ });
  const nobody = await Client.connect({ address: "unix:/nonexistent/inferd.sock" });
  await assert.rejects(nobody.generate(chat("fake", "no")), { reason: "KERNEL_UNREACHABLE", unsent: true });
  nobody.close();
});
