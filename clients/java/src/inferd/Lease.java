package inferd;

import inferd.v1.LeaseRenewal;
import inferd.v1.LeaseState;
import io.grpc.Status;
import java.time.Duration;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;

/**
 * A lease that this program keeps alive until it is closed. The kernel counts its time from when it takes a keep-alive,
 * and this client from when it was sent, which is earlier, on its own clock: it never believes in one that the kernel has
 * given to another. Safe to use from several threads.
 */
public final class Lease implements AutoCloseable {
  private static final int RENEWALS = 3; // keep-alives in a TTL: two may be lost
  private static final long PAUSE_NS = 200_000_000;
  private static final int TROUBLE_CHARACTERS = 200;

  private final Client client;
  private final String id;
  private final Duration ttl;
  private final Consumer<InferdException> onLost;
  private final ScheduledExecutorService timer;
  private long token;
  private long confirmed; // on System.nanoTime()
  private String trouble = "";
  private InferdException lost;
  private boolean released;

  Lease(
      Client client, inferd.v1.Lease lease, long sent, Consumer<InferdException> onLost, ScheduledExecutorService timer) {
    this.client = client;
    this.id = lease.getLeaseId();
    this.ttl = Duration.ofSeconds(lease.getSpec().getTtl().getSeconds(), lease.getSpec().getTtl().getNanos());
    this.onLost = onLost;
    this.timer = timer;
    this.token = lease.getFencingToken();
    this.confirmed = sent;
    keep();
  }

  /** Its id, which travels with each call under it. */
  public String id() {
    return id;
  }

  /** How long it holds from each keep-alive. */
  public Duration ttl() {
    return ttl;
  }

  /** Rises with every grant of the kernel. */
  public synchronized long fencingToken() {
    return token;
  }

  /** Throws LEASE_LOST where it does not hold any more, or nobody can tell. */
  public void check() {
    expire();
    synchronized (this) {
      if (released) {
        throw error("it was released", Map.of());
      }
      if (lost != null) {
        throw lost;
      }
    }
  }

  /** Gives it back. One that the kernel cannot be told of ends by itself. */
  @Override
  public void close() {
    synchronized (this) {
      if (released) {
        return;
      }
      released = true;
      if (lost != null) {
        return;
      }
    }
    try {
      client.release(id);
    } catch (InferdException error) {
      return; // it ends by itself
    }
  }

  void grant(inferd.v1.Lease lease) {
    if (lease.getState() != LeaseState.LEASE_STATE_ACTIVE) {
      throw lease.hasError() ? InferdException.from(lease.getError()) : error("it is " + lease.getState(), Map.of());
    }
    synchronized (this) {
      token = lease.getFencingToken();
    }
  }

  private InferdException error(String why, Map<String, String> facts) {
    Map<String, String> metadata = new HashMap<>(facts);
    metadata.put("lease_id", id);
    String message = "lease " + id + " is lost: " + why + (trouble.isEmpty() ? "" : " (" + trouble + ")");
    return new InferdException(message, InferdException.LEASE_LOST, Status.Code.FAILED_PRECONDITION, metadata);
  }

  private void lose(String why, Map<String, String> facts) {
    synchronized (this) {
      if (lost != null || released) {
        return;
      }
      lost = error(why, facts);
    }
    onLost.accept(lost);
  }

  private void expire() {
    boolean late;
    synchronized (this) {
      late = System.nanoTime() - confirmed >= ttl.toNanos();
    }
    if (late) {
      lose("the kernel has not confirmed it for its TTL of " + ttl, Map.of());
    }
  }

  /** Has it kept alive when that is due, or notices that its time is over. */
  private synchronized void keep() {
    if (released || lost != null || timer.isShutdown()) {
      return;
    }
    long now = System.nanoTime();
    long end = confirmed + ttl.toNanos();
    long due = Math.max(confirmed + ttl.toNanos() / RENEWALS, trouble.isEmpty() ? now : now + PAUSE_NS);
    if (due - end < 0) {
      timer.schedule(this::renew, due - now, TimeUnit.NANOSECONDS);
    } else {
      timer.schedule(this::expire, end - now, TimeUnit.NANOSECONDS);
    }
  }

  private void renew() {
    long sent = System.nanoTime();
    synchronized (this) {
      if (released || lost != null) {
        return;
      }
    }
    client
        .renew(id, ttl.dividedBy(RENEWALS))
        .whenComplete(
            (renewal, failed) -> {
              take(renewal, failed, sent);
              keep();
            });
  }

  private void take(LeaseRenewal renewal, Throwable failed, long sent) {
    if (failed != null) {
      String said = InferdException.from(failed, client.address()).getMessage();
      synchronized (this) {
        trouble = said.substring(0, Math.min(said.length(), TROUBLE_CHARACTERS));
      }
      return;
    }
    synchronized (this) {
      trouble = "";
      if (!renewal.hasError() && System.nanoTime() - confirmed < ttl.toNanos()) {
        confirmed = sent;
        token = renewal.getFencingToken();
      }
    }
    if (renewal.hasError()) {
      InferdException ended = InferdException.from(renewal.getError());
      lose(ended.getMessage(), ended.metadata());
    }
  }
}
