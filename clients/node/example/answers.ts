// Answers a question from files, with citations. Each text goes through the function `clean` and into an index, which is
// searched and asked; it is kept, so that files need not be named again:
//
//     node build/example/answers.js INDEX smollm2 "What outlives the kernel?" notes.md more.md
import { readFileSync } from "node:fs";
import { call, Client, InferdError } from "inferd-client";
import { IndexService } from "inferd-client/v1/index_service";

const [name, model, question, ...files] = process.argv.slice(2);
if (!name || !model || !question) throw new Error("give an index, a model, a question, and files that are not in it yet");

const client = await Client.connect(); // to $INFERD_ADDRESS, or to the kernel of this user or host
const indexes = client.stub(IndexService);
const long = async () => client.calling({ timeoutMs: Infinity });
try {
  // One of this name and for the same is taken as it is.
  await indexes.createIndex({ spec: { name } }, await client.calling());
  const documents = [];
  for (const file of files) {
    const { pieces } = await client.generate(call("clean", { text: readFileSync(file, "utf8") }));
    documents.push({ id: file, content: { case: "text" as const, value: pieces[0] as string } });
  }
  if (documents.length) {
    for await (const { index } of indexes.addDocuments({ index: name, documents }, await long())) {
      if (index) console.error(`${index.documents} documents, ${index.chunks} chunks`);
    }
  }
  const query = { index: name, text: question };
  for (const { documentId, start, end, score } of (await indexes.searchIndex({ query }, await long())).chunks) {
    console.error(`${score.toFixed(2)} ${documentId} ${start}-${end}`);
  }
  for await (const { event } of indexes.answerQuestion({ query, model, mostTokens: 128 }, await long())) {
    if (event.case === "text") process.stdout.write(event.value);
    if (event.case !== "ended") continue;
    console.log(event.value.noAnswer ? "they have no answer" : "");
    for (const { documentId, start, end, quote } of event.value.citations) console.log(`[${documentId} ${start}-${end}] ${quote}`);
  }
} catch (error) {
  const failed = InferdError.from(error, client.address);
  console.error(`${failed.reason}: ${failed.message}`);
  process.exitCode = 1;
} finally {
  client.close();
}
