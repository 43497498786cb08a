package inferd;

import java.time.Duration;
import java.util.Map;
import java.util.function.Consumer;

/** What a lease is asked for with; as in {@code inferd.v1.LeaseSpec}. */
public final class LeaseOptions {
  Duration ttl;
  boolean waits;
  Duration waitTimeout;
  Map<String, String> labels = Map.of();
  Consumer<InferdException> onLost = error -> {};

  /** How long it holds unless it is kept alive; default the kernel's. */
  public LeaseOptions ttl(Duration value) {
    ttl = value;
    return this;
  }

  /** Wait when there is no room now, for so long at most, or null without end; default: refuse. */
  public LeaseOptions waits(Duration most) {
    waits = true;
    waitTimeout = most;
    return this;
  }

  /** The client's own marks. */
  public LeaseOptions labels(Map<String, String> value) {
    labels = value;
    return this;
  }

  /** Called, by a thread of the client, when the lease does not hold any more. */
  public LeaseOptions onLost(Consumer<InferdException> value) {
    onLost = value;
    return this;
  }
}
