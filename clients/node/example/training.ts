// Watches a training to its end; Ctrl-C leaves it alone:
//
//     node build/example/training.js TRAINING_ID
import { Client, InferdError } from "inferd-client";
import { TrainingState } from "inferd-client/v1/training";
import { TrainingService } from "inferd-client/v1/training_service";

const [trainingId] = process.argv.slice(2);
if (!trainingId) throw new Error("give the id of a training; inferd trainings tells them");

const client = await Client.connect(); // to $INFERD_ADDRESS, or to the kernel of this user or host
try {
  const calling = await client.calling({ timeoutMs: Infinity });
  for await (const { training } of client.stub(TrainingService).watchTraining({ trainingId }, calling)) {
    if (!training) continue;
    console.log(`${TrainingState[training.state]} step ${training.step} of ${training.steps}, loss ${training.loss.toFixed(3)}`);
    if (training.error) throw InferdError.fromStatus(training.error);
    if (training.result) console.log(`${training.result.kind} ${training.result.model} version ${training.result.version}`);
  }
} catch (error) {
  const failed = InferdError.from(error, client.address);
  console.error(`${failed.reason}: ${failed.message}`);
  process.exitCode = 1;
} finally {
  client.close();
}
