package inferd;

import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.ClientInterceptor;
import io.grpc.ForwardingClientCall.SimpleForwardingClientCall;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import java.time.Duration;
import java.util.concurrent.TimeUnit;
import java.util.function.Supplier;

/** What each call carries: who calls, for whom, under which lease, and a deadline where it answers at once. */
final class Carrying implements ClientInterceptor {
  static final CallOptions.Key<Lease> LEASE = CallOptions.Key.create("inferd-lease");
  private static final Metadata.Key<String> LOGIN = key("authorization");
  private static final Metadata.Key<String> OF_TENANT = key("inferd-tenant");
  private static final Metadata.Key<String> UNDER = key("inferd-lease");

  private final Supplier<String> secret;
  private final String tenant;
  private final Duration timeout;

  Carrying(Supplier<String> secret, String tenant, Duration timeout) {
    this.secret = secret;
    this.tenant = tenant;
    this.timeout = timeout;
  }

  private static Metadata.Key<String> key(String name) {
    return Metadata.Key.of(name, Metadata.ASCII_STRING_MARSHALLER);
  }

  @Override
  public <Q, A> ClientCall<Q, A> interceptCall(MethodDescriptor<Q, A> method, CallOptions options, Channel next) {
    Lease lease = options.getOption(LEASE);
    if (lease != null) {
      lease.check();
    }
    boolean atOnce = method.getType() == MethodDescriptor.MethodType.UNARY && options.getDeadline() == null;
    CallOptions limited = atOnce ? options.withDeadlineAfter(timeout.toMillis(), TimeUnit.MILLISECONDS) : options;
    String login = secret.get();
    return new SimpleForwardingClientCall<>(next.newCall(method, limited)) {
      @Override
      public void start(Listener<A> listener, Metadata headers) {
        if (!login.isEmpty()) {
          headers.put(LOGIN, "Bearer " + login);
        }
        if (!tenant.isEmpty()) {
          headers.put(OF_TENANT, tenant);
        }
        if (lease != null) {
          headers.put(UNDER, lease.id());
        }
        super.start(listener, headers);
      }
    };
  }
}
