// Calls a function: node call.mjs ADDRESS FUNCTION INPUT INCLUDE...
// INPUT is JSON of its parameters; each piece that it gives is a line.

import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const [address, name, input, ...includeDirs] = process.argv.slice(2);
const options = { includeDirs, keepCase: true, defaults: true, oneofs: true, enums: String, longs: String };
const definition = await protoLoader.load("inferd_api/v1/task_service.proto", options);
const { TaskService } = grpc.loadPackageDefinition(definition).inferd.v1;

const tasks = new TaskService(address, grpc.credentials.createInsecure());
try {
  for await (const { event } of tasks.RunTask({ spec: { model: `functions@${name}`, call: { input } } })) {
    if (event.kind === "output") console.log(event.output.call.json);
    if (event.kind === "finished") console.error(event.finished.state, event.finished.receipt.asked?.tasks ?? 0, "asked");
  }
} catch (error) {
  console.error(grpc.status[error.code] ?? error.name, error.details ?? error.message);
  process.exitCode = 1;
} finally {
  tasks.close();
}
