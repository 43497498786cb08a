package inferd;

import inferd.v1.TaskEvent;
import io.grpc.Context;
import io.grpc.Status;
import java.util.ArrayDeque;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.NoSuchElementException;
import java.util.Queue;

/**
 * The events of a task, {@code Finished} last; read by one thread, and closed by any. Where they are closed before the
 * last one, the call is cancelled, and with it a task that was run. Each can be gone through once.
 */
public final class Events implements Iterable<TaskEvent>, Iterator<TaskEvent>, AutoCloseable {
  /** Opens the call behind a sequence number. */
  interface Open {
    Iterator<List<TaskEvent>> behind(long after);
  }

  private final String address;
  private final Open open;
  private final Patience patience; // null: a call that breaks is not taken up again
  private final Queue<TaskEvent> waiting = new ArrayDeque<>();
  private Iterator<List<TaskEvent>> responses;
  private long after;
  private boolean finished;
  private boolean over;
  private volatile boolean closed;
  private volatile Context.CancellableContext context = Context.current().withCancellation();

  Events(String address, Open open, boolean goesOn, long after) {
    this.address = address;
    this.open = open;
    this.patience = goesOn ? new Patience() : null;
    this.after = after;
  }

  @Override
  public Iterator<TaskEvent> iterator() {
    return this;
  }

  /** Whether there is another one; waits for it. Throws {@link InferdException}. */
  @Override
  public boolean hasNext() {
    while (waiting.isEmpty() && !over) {
      try {
        if (responses == null) {
          dial();
        }
        if (responses.hasNext()) {
          waiting.addAll(responses.next());
          if (patience != null) {
            patience.heard();
          }
        } else {
          end();
        }
      } catch (RuntimeException error) {
        fail(InferdException.from(error, address));
      }
    }
    return !waiting.isEmpty();
  }

  @Override
  public TaskEvent next() {
    if (!hasNext()) {
      throw new NoSuchElementException("the task has ended");
    }
    TaskEvent event = waiting.remove();
    after = event.getSequence();
    finished = event.hasFinished();
    return event;
  }

  /** Ends the call, from any thread: who waits for an event gets CANCELLED. */
  @Override
  public void close() {
    closed = true;
    context.cancel(null);
  }

  private void dial() {
    context.cancel(null);
    context = Context.current().withCancellation();
    if (closed) {
      throw new InferdException("it was closed", "", Status.Code.CANCELLED, Map.of());
    }
    Context before = context.attach();
    try {
      responses = open.behind(after);
    } finally {
      context.detach(before);
    }
  }

  private void end() {
    if (!finished) {
      String message = address + " ended the call";
      throw new InferdException(message, InferdException.KERNEL_UNREACHABLE, Status.Code.UNAVAILABLE, Map.of());
    }
    over = true;
    context.cancel(null);
  }

  private void fail(InferdException error) {
    responses = null;
    over = true;
    if (patience == null || finished || closed) {
      context.cancel(null);
      boolean late = error.reason().isEmpty() && error.code() == Status.Code.DEADLINE_EXCEEDED;
      throw late ? new InferdException("the task's deadline passed", "TASK_EXPIRED", error.code(), Map.of()) : error;
    }
    patience.again(error);
    over = false;
  }
}
