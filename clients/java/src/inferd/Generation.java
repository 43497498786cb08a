package inferd;

import inferd.v1.Finished;
import java.util.List;

/**
 * What a task gave, once it has ended.
 *
 * @param taskId the task
 * @param texts its outputs: one, unless {@code n} asked for more
 * @param pieces what a function gave, as JSON; several of one that streams
 * @param finished how it ended, and what it cost
 */
public record Generation(String taskId, List<String> texts, List<String> pieces, Finished finished) {
  /** The first output. */
  public String text() {
    return texts.get(0);
  }
}
