import inferd.Client;
import inferd.InferdException;
import inferd.Options;
import inferd.RunOptions;
import inferd.Specs;
import inferd.v1.SamplingParams;
import inferd.v1.TaskEvent;

/**
 * Makes a task that outlives this program, its connection and the kernel, and prints its text as it comes:
 *
 * <pre>Durable smollm2 "Name the capital of France." [REQUEST_ID]</pre>
 *
 * Run it again with the same REQUEST_ID and it is the same task, told from its beginning.
 */
public final class Durable {
  private Durable() {}

  /** Does it. */
  public static void main(String[] words) {
    if (words.length < 2) {
      System.err.println("give a model and what to say to it");
      System.exit(2);
    }
    var sampling = SamplingParams.newBuilder().setMaxTokens(64).setTemperature(0);
    var spec = Specs.chat(words[0], words[1]).setSampling(sampling).build();
    var options = new RunOptions().requestId(words.length > 2 ? words[2] : "");
    // To $INFERD_ADDRESS, or to the kernel of this user or host.
    try (Client client = Client.connect(new Options())) {
      var task = client.createTask(spec, options);
      System.err.println("task " + task.getTaskId());
      for (TaskEvent event : client.watch(task.getTaskId(), 0)) {
        System.out.print(event.getOutput().getText());
        System.out.flush();
        if (event.getFinished().hasError()) {
          throw InferdException.from(event.getFinished().getError());
        }
        if (event.hasFinished()) {
          System.err.println("\n" + event.getFinished().getUsage().getOutputTokens() + " tokens");
        }
      }
    } catch (InferdException error) {
      System.err.println(error.reason() + ": " + error.getMessage());
      System.exit(1);
    }
  }
}
