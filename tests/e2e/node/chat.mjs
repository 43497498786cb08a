// Streams the answer to one message: node chat.mjs ADDRESS MODEL MESSAGE INCLUDE...
// Each INCLUDE is a folder of proto files: the folder protos has all that is needed.

import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const [address, model, message, ...includeDirs] = process.argv.slice(2);
const options = { includeDirs, keepCase: true, defaults: true, oneofs: true, enums: String, longs: String };
const definition = await protoLoader.load("inferd_api/v1/task_service.proto", options);
const { TaskService } = grpc.loadPackageDefinition(definition).inferd.v1;

const tasks = new TaskService(address, grpc.credentials.createInsecure());
const spec = {
  model,
  chat: { messages: [{ role: "user", content: message }] },
  sampling: { max_tokens: 64, temperature: 0 },
};
try {
  for await (const { event } of tasks.RunTask({ spec })) {
    if (event.kind === "output") process.stdout.write(event.output.text);
    if (event.kind === "finished") {
      const { state, reason, usage } = event.finished;
      console.error(state, reason, usage?.output_tokens ?? 0, "tokens");
    }
  }
} catch (error) {
  console.error(grpc.status[error.code] ?? error.name, error.details ?? error.message);
  process.exitCode = 1;
} finally {
  tasks.close();
}
