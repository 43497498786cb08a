import inferd.Client;
import inferd.InferdException;
import inferd.Options;
import inferd.v1.TrainingServiceGrpc;
import inferd.v1.WatchTrainingRequest;

/**
 * Watches a training to its end; Ctrl-C leaves it alone:
 *
 * <pre>Training TRAINING_ID</pre>
 */
public final class Training {
  private Training() {}

  /** Does it. */
  public static void main(String[] words) {
    if (words.length < 1) {
      System.err.println("give the id of a training; inferd trainings tells them");
      System.exit(2);
    }
    Client client = Client.connect(new Options()); // to $INFERD_ADDRESS, or to the kernel of this user or host
    try (client) {
      var request = WatchTrainingRequest.newBuilder().setTrainingId(words[0]).build();
      var told = TrainingServiceGrpc.newBlockingStub(client.channel()).watchTraining(request);
      while (told.hasNext()) {
        var training = told.next().getTraining();
        System.out.printf("%s step %d of %d, loss %.3f%n",
            training.getState(), training.getStep(), training.getSteps(), training.getLoss());
        if (training.hasError()) {
          throw InferdException.from(training.getError());
        }
        if (training.hasResult()) {
          System.out.println(training.getResult().getModel() + " version " + training.getResult().getVersion());
        }
      }
    } catch (RuntimeException error) {
      InferdException failed = InferdException.from(error, client.address());
      System.err.println(failed.reason() + ": " + failed.getMessage());
      System.exit(1);
    }
  }
}
