package inferd;

import inferd.v1.ErrorReason;
import io.grpc.Status;
import java.util.Map;

/** How long a kernel that is away is waited for: asked after each failure. */
final class Patience {
  private static final long PAUSE_MS = 100;
  private static final long PATIENCE_NS = 30_000_000_000L; // from when it was found away

  private boolean waits;
  private long lostAt;
  private boolean lost;

  /** The kernel has said something. */
  void heard() {
    waits = true;
    lost = false;
  }

  /** Pauses before another try; throws the error where another one is no use, or they have gone on for long. */
  void again(InferdException error) {
    long now = System.nanoTime();
    if (!lost) {
      lost = true;
      lostAt = now;
    }
    boolean passes =
        error.reason().equals(InferdException.KERNEL_UNREACHABLE)
            || error.is(ErrorReason.ERROR_REASON_NOT_LEADER)
            || error.is(ErrorReason.ERROR_REASON_SHUTTING_DOWN);
    if (!waits || !passes || now - lostAt > PATIENCE_NS) {
      throw error;
    }
    try {
      Thread.sleep(PAUSE_MS);
    } catch (InterruptedException interrupted) {
      Thread.currentThread().interrupt();
      throw new InferdException("it was interrupted", "", Status.Code.CANCELLED, Map.of());
    }
  }
}
