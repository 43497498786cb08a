package inferd;

import java.time.Duration;

/** Options of a task. */
public final class RunOptions {
  String requestId = "";
  boolean detachOnDisconnect;
  Duration outputInterval;
  Duration timeout;
  Lease lease;

  /** Makes the call idempotent; to 128 characters. */
  public RunOptions requestId(String value) {
    requestId = value;
    return this;
  }

  /** Keep the task running when the stream closes; come back with {@link Client#watch}. Of {@link Client#run} alone. */
  public RunOptions detachOnDisconnect() {
    detachOnDisconnect = true;
    return this;
  }

  /** Least time between two events with output. */
  public RunOptions outputInterval(Duration value) {
    outputInterval = value;
    return this;
  }

  /** Deadline of a task; of one that is created when it expires. Default: none, and a day. */
  public RunOptions timeout(Duration value) {
    timeout = value;
    return this;
  }

  /** The lease that it runs under. */
  public RunOptions lease(Lease value) {
    lease = value;
    return this;
  }
}
