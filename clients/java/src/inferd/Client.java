package inferd;

import inferd.v1.CancelTaskRequest;
import inferd.v1.Claim;
import inferd.v1.CreateLeaseRequest;
import inferd.v1.CreateTaskRequest;
import inferd.v1.Finished;
import inferd.v1.GetTaskRequest;
import inferd.v1.KeepAliveLeasesRequest;
import inferd.v1.KeepAliveLeasesResponse;
import inferd.v1.LeaseRenewal;
import inferd.v1.LeaseServiceGrpc;
import inferd.v1.LeaseSpec;
import inferd.v1.LeaseState;
import inferd.v1.ReleaseLeaseRequest;
import inferd.v1.RunTaskRequest;
import inferd.v1.Task;
import inferd.v1.TaskEvent;
import inferd.v1.TaskServiceGrpc;
import inferd.v1.TaskSpec;
import inferd.v1.WatchLeaseRequest;
import inferd.v1.WatchLeaseResponse;
import inferd.v1.WatchTaskRequest;
import io.grpc.Channel;
import io.grpc.ClientInterceptors;
import io.grpc.Context;
import io.grpc.stub.StreamObserver;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.function.Function;
import java.util.function.Supplier;

/**
 * A connection to a kernel. Safe to use from several threads. Close it at the end.
 *
 * <pre>
 * try (Client client = Client.connect(new Options())) {
 *   client.run(Specs.chat("smollm2", "Name the capital of France.").build(), new RunOptions())
 *       .forEach(event -> System.out.print(event.getOutput().getText()));
 * }
 * </pre>
 */
public final class Client implements AutoCloseable {
  private static final Duration GATHERED = Duration.ofSeconds(10);
  private static final long RELEASE_S = 5; // a lease that is not released ends by itself
  private static final long FAREWELL_S = 5; // how long closing waits

  private final Way way;
  private final Channel channel;
  private final TaskServiceGrpc.TaskServiceBlockingStub tasks;
  private final LeaseServiceGrpc.LeaseServiceBlockingStub leases;
  private final ScheduledExecutorService timer =
      Executors.newSingleThreadScheduledExecutor(
          work -> {
            Thread thread = new Thread(work, "keeper of leases");
            thread.setDaemon(true);
            return thread;
          });

  private Client(Way way, Options options) {
    this.way = way;
    this.channel =
        ClientInterceptors.intercept(way.channel(), new Carrying(way.secret(), options.tenant, options.timeout));
    this.tasks = TaskServiceGrpc.newBlockingStub(channel);
    this.leases = LeaseServiceGrpc.newBlockingStub(channel);
  }

  /** Finds the kernel that is meant, which the first call calls. Throws {@link IllegalArgumentException}. */
  public static Client connect(Options options) {
    return new Client(Way.find(options), options);
  }

  /** Of the kernel. */
  public String address() {
    return way.address();
  }

  /** What generated stubs of any service are made with; what they throw, {@link InferdException#from} makes typed. */
  public Channel channel() {
    return channel;
  }

  /** Ends calls under way, and tasks that hang on them. */
  @Override
  public void close() {
    timer.shutdownNow();
    way.channel().shutdownNow();
    try {
      way.channel().awaitTermination(FAREWELL_S, TimeUnit.SECONDS);
    } catch (InterruptedException interrupted) {
      Thread.currentThread().interrupt();
    }
    way.end().run();
  }

  /**
   * Runs a task. Closing its events cancels it, and so does a connection that breaks, unless it is detached. Where it does
   * not succeed, they throw {@link InferdException} behind its {@code Finished}.
   */
  public Events run(TaskSpec spec, RunOptions options) {
    RunTaskRequest.Builder request =
        RunTaskRequest.newBuilder()
            .setSpec(Specs.bounded(spec))
            .setRequestId(options.requestId)
            .setDetachOnDisconnect(options.detachOnDisconnect)
            .setSeveralEvents(true);
    if (options.outputInterval != null) {
      request.setOutputInterval(Specs.span(options.outputInterval));
    }
    Events.Open open =
        after -> {
          var stub = under(options.lease);
          if (options.timeout != null) {
            stub = stub.withDeadlineAfter(options.timeout.toMillis(), TimeUnit.MILLISECONDS);
          }
          return each(stub.runTask(request.build()), r -> all(r.getEvent(), r.getMoreEventsList()));
        };
    return new Events(address(), open, false, 0);
  }

  /** Runs a task and waits for all that it gives. As {@link #run}. */
  public Generation generate(TaskSpec spec, RunOptions options) {
    RunOptions gathered = new RunOptions().requestId(options.requestId).lease(options.lease).timeout(options.timeout);
    gathered.outputInterval(options.outputInterval == null ? GATHERED : options.outputInterval);
    gathered.detachOnDisconnect = options.detachOnDisconnect;
    List<StringBuilder> texts = new ArrayList<>(List.of(new StringBuilder()));
    List<String> pieces = new ArrayList<>();
    Finished finished = Finished.getDefaultInstance();
    String taskId = "";
    for (TaskEvent event : run(spec, gathered)) {
      taskId = event.getTaskId();
      finished = event.getFinished();
      while (texts.size() <= event.getOutput().getSample()) {
        texts.add(new StringBuilder());
      }
      if (event.getOutput().hasCall()) {
        pieces.add(event.getOutput().getCall().getJson());
      }
      texts.get(event.getOutput().getSample()).append(event.getOutput().getText());
    }
    return new Generation(taskId, texts.stream().map(StringBuilder::toString).toList(), List.copyOf(pieces), finished);
  }

  /**
   * Makes a task that outlives this program, its connection and the kernel: it is kept when this returns; see {@link
   * #watch}. Where the answer is lost it is asked for again with the same request id.
   */
  public Task createTask(TaskSpec spec, RunOptions options) {
    String requestId = options.requestId.isEmpty() ? UUID.randomUUID().toString() : options.requestId;
    CreateTaskRequest.Builder request =
        CreateTaskRequest.newBuilder().setSpec(Specs.bounded(spec)).setRequestId(requestId);
    if (options.timeout != null) {
      request.setTtl(Specs.span(options.timeout));
    }
    Patience patience = new Patience();
    while (true) {
      try {
        return asked(() -> under(options.lease).createTask(request.build())).getTask();
      } catch (InferdException error) {
        if (!error.isUnsent()) {
          patience.heard();
        }
        patience.again(error);
      }
    }
  }

  /**
   * The events of a task behind a sequence number, up to {@code Finished}, each once, over the end of connections and
   * kernels. The task is left alone; that it failed is told by {@code Finished} only.
   */
  public Events watch(String taskId, long afterSequence) {
    WatchTaskRequest.Builder request = WatchTaskRequest.newBuilder().setTaskId(taskId).setSeveralEvents(true);
    Events.Open open =
        after ->
            each(
                tasks.watchTask(request.setAfterSequence(after).build()),
                r -> all(r.getEvent(), r.getMoreEventsList()));
    return new Events(address(), open, true, afterSequence);
  }

  /** Reads a task. */
  public Task getTask(String taskId) {
    return asked(() -> tasks.getTask(GetTaskRequest.newBuilder().setTaskId(taskId).build())).getTask();
  }

  /** Ends a task now; one that has ended is returned as it is. */
  public Task cancelTask(String taskId) {
    return asked(() -> tasks.cancelTask(CancelTaskRequest.newBuilder().setTaskId(taskId).build())).getTask();
  }

  /** Claims capacity, all or nothing, waits for the grant, and keeps it alive until the lease is closed. */
  public Lease lease(LeaseOptions options, Claim... claims) {
    LeaseSpec.Builder spec = LeaseSpec.newBuilder().setWait(options.waits).putAllLabels(options.labels);
    spec.addAllClaims(List.of(claims));
    if (options.ttl != null) {
      spec.setTtl(Specs.span(options.ttl));
    }
    if (options.waitTimeout != null) {
      spec.setWaitTimeout(Specs.span(options.waitTimeout));
    }
    var request = CreateLeaseRequest.newBuilder().setSpec(spec).setRequestId(UUID.randomUUID().toString()).build();
    long sent = System.nanoTime();
    var lease = asked(() -> leases.createLease(request)).getLease();
    Lease held = new Lease(this, lease, sent, options.onLost, timer);
    try {
      held.grant(decided(lease));
      return held;
    } catch (InferdException error) {
      held.close();
      throw error;
    }
  }

  /** Waits until a lease is granted or refused. */
  private inferd.v1.Lease decided(inferd.v1.Lease lease) {
    Patience patience = new Patience();
    patience.heard();
    WatchLeaseRequest request = WatchLeaseRequest.newBuilder().setLeaseId(lease.getLeaseId()).build();
    inferd.v1.Lease now = lease;
    while (now.getState() == LeaseState.LEASE_STATE_PENDING) {
      try (Context.CancellableContext context = Context.current().withCancellation()) {
        Context before = context.attach();
        try {
          Iterator<WatchLeaseResponse> changes = leases.watchLease(request);
          while (now.getState() == LeaseState.LEASE_STATE_PENDING && changes.hasNext()) {
            now = changes.next().getLease();
            patience.heard();
          }
        } finally {
          context.detach(before);
        }
      } catch (RuntimeException error) {
        patience.again(InferdException.from(error, address()));
      }
    }
    return now;
  }

  CompletableFuture<LeaseRenewal> renew(String leaseId, Duration limit) {
    CompletableFuture<LeaseRenewal> answer = new CompletableFuture<>();
    StreamObserver<KeepAliveLeasesResponse> observer =
        new StreamObserver<>() {
          @Override
          public void onNext(KeepAliveLeasesResponse response) {
            response.getRenewalsList().forEach(answer::complete);
          }

          @Override
          public void onError(Throwable error) {
            answer.completeExceptionally(InferdException.from(error, address()));
          }

          @Override
          public void onCompleted() {
            answer.completeExceptionally(new IllegalStateException("the kernel said nothing of it"));
          }
        };
    try {
      var stub = LeaseServiceGrpc.newStub(channel).withDeadlineAfter(limit.toMillis(), TimeUnit.MILLISECONDS);
      var requests = stub.keepAliveLeases(observer);
      requests.onNext(KeepAliveLeasesRequest.newBuilder().addLeaseIds(leaseId).build());
      requests.onCompleted();
    } catch (RuntimeException error) {
      answer.completeExceptionally(InferdException.from(error, address()));
    }
    return answer;
  }

  void release(String leaseId) {
    var request = ReleaseLeaseRequest.newBuilder().setLeaseId(leaseId).build();
    asked(() -> leases.withDeadlineAfter(RELEASE_S, TimeUnit.SECONDS).releaseLease(request));
  }

  private TaskServiceGrpc.TaskServiceBlockingStub under(Lease lease) {
    return lease == null ? tasks : tasks.withOption(Carrying.LEASE, lease);
  }

  private <T> T asked(Supplier<T> call) {
    try {
      return call.get();
    } catch (RuntimeException error) {
      throw InferdException.from(error, address());
    }
  }

  private static List<TaskEvent> all(TaskEvent first, List<TaskEvent> more) {
    List<TaskEvent> events = new ArrayList<>(List.of(first));
    events.addAll(more);
    return events;
  }

  private static <T> Iterator<List<TaskEvent>> each(Iterator<T> responses, Function<T, List<TaskEvent>> events) {
    return new Iterator<>() {
      @Override
      public boolean hasNext() {
        return responses.hasNext();
      }

      @Override
      public List<TaskEvent> next() {
        return events.apply(responses.next());
      }
    };
  }
}
