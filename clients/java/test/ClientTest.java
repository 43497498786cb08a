import inferd.Client;
import inferd.Events;
import inferd.InferdException;
import inferd.Lease;
import inferd.LeaseOptions;
import inferd.Options;
import inferd.RunOptions;
import inferd.Specs;
import inferd.v1.ErrorReason;
import inferd.v1.GetLeaseRequest;
import inferd.v1.LeaseServiceGrpc;
import inferd.v1.LeaseState;
import inferd.v1.ReleaseLeaseRequest;
import inferd.v1.SamplingParams;
import inferd.v1.TaskEvent;
import inferd.v1.TaskSpec;
import inferd.v1.TaskState;
import io.grpc.Status;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;

/** Against a real kernel: tests/system/client_ground.py says what is there. Run by {@code make test-clients}. */
public final class ClientTest {
  private static final Duration TTL = Duration.ofSeconds(6); // a keep-alive has a third of it, on a machine that is busy

  private interface Test {
    void run() throws Exception;
  }

  private ClientTest() {}

  private static void expect(boolean what, Object... told) {
    if (!what) {
      throw new AssertionError(List.of(told).toString());
    }
  }

  private static Client at(String address) {
    return Client.connect(new Options().address(address));
  }

  private static Client found() {
    return Client.connect(new Options());
  }

  private static String told(String name) {
    return System.getenv("INFERD_TEST_" + name);
  }

  private static TaskSpec chat(String model, String said) {
    return Specs.chat(model, said).build();
  }

  private static TaskSpec lengthy() {
    return Specs.text("slow", "la").setSampling(SamplingParams.newBuilder().setMaxTokens(400)).build();
  }

  /** Has the ground do something: "cut" connections through the proxy, "kill" the kernel. */
  private static void ask(String order) throws Exception {
    String[] control = told("CONTROL").split(":");
    try (Socket asked = new Socket(control[0], Integer.parseInt(control[1]))) {
      asked.getOutputStream().write((order + "\n").getBytes(StandardCharsets.UTF_8));
      expect(asked.getInputStream().read() > 0);
    }
  }

  private static String generated(Client client, TaskSpec spec, RunOptions options) {
    return client.generate(spec, options).text();
  }

  private static InferdException refusal(Test call) throws Exception {
    try {
      call.run();
    } catch (InferdException error) {
      return error;
    }
    throw new AssertionError("it was not refused");
  }

  private static TaskState stateOf(Client client, String taskId) {
    TaskState found = TaskState.TASK_STATE_UNSPECIFIED;
    for (TaskEvent event : client.watch(taskId, 0)) {
      found = event.getFinished().getState();
    }
    return found;
  }

  /** The kernel of this user is found, and streams exactly what there is. */
  private static void finds() {
    try (Client client = found()) {
      StringBuilder all = new StringBuilder();
      client.run(chat("fake", "Grüße, 世界 🐢"), new RunOptions()).forEach(e -> all.append(e.getOutput().getText()));
      expect(all.toString().equals("Grüße, 世界 🐢"), all);
      expect(generated(client, Specs.text("fake", "la").build(), new RunOptions()).equals("la".repeat(256)));
    }
  }

  /** A key logs in over TCP, and nothing else does. */
  private static void key() throws Exception {
    try (Client client = Client.connect(new Options().address(told("TCP")).credentialFile(told("KEY")));
        Client bare = at(told("TCP"))) {
      expect(generated(client, chat("fake", "key"), new RunOptions()).equals("key"));
      expect(refusal(() -> bare.generate(chat("fake", "no"), new RunOptions())).is(ErrorReason.ERROR_REASON_UNAUTHENTICATED));
    }
    try {
      Client.connect(new Options().address("192.0.2.1:1").credential("ik"));
      throw new AssertionError("it was not refused");
    } catch (IllegalArgumentException error) {
      expect(error.getMessage().contains("use an address with TLS"), error.getMessage());
    }
  }

  /** TLS is spoken with who has a certificate of the right authority, and with nobody else. */
  private static void tls() throws Exception {
    Options secure = new Options().address(told("TLS")).credentialFile(told("KEY"));
    try (Client doubting = Client.connect(secure); Client client = Client.connect(secure.caFile(told("CA")))) {
      expect(generated(client, chat("fake", "tls"), new RunOptions()).equals("tls"));
      InferdException error = refusal(() -> doubting.generate(chat("fake", "no"), new RunOptions()));
      expect(error.reason().equals(InferdException.TLS_FAILED), error.reason(), error.getMessage());
    }
  }

  /** Closing events cancels the task, whoever does it. */
  private static void cancel() throws Exception {
    try (Client client = found()) {
      List<String> ids = new ArrayList<>();
      try (Events events = client.run(lengthy(), new RunOptions())) {
        while (!events.next().hasOutput()) {
          continue;
        }
        ids.add(events.next().getTaskId());
      }
      Events events = client.run(lengthy(), new RunOptions());
      InferdException error =
          refusal(
              () -> {
                for (TaskEvent event : events) {
                  if (event.hasOutput() && ids.size() == 1) {
                    ids.add(event.getTaskId());
                    new Thread(events::close).start();
                  }
                }
              });
      expect(error.code() == Status.Code.CANCELLED, error.code(), error.getMessage());
      for (String id : ids) {
        expect(stateOf(client, id) == TaskState.TASK_STATE_CANCELLED, id);
      }
    }
  }

  /** A deadline ends the task. */
  private static void deadline() throws Exception {
    try (Client client = found()) {
      RunOptions soon = new RunOptions().timeout(Duration.ofMillis(200));
      InferdException error = refusal(() -> client.generate(lengthy(), soon));
      expect(error.is(ErrorReason.ERROR_REASON_TASK_EXPIRED), error.reason(), error.getMessage());
    }
  }

  /** A durable task is watched on behind its last event, whatever breaks. */
  private static void reattach(String trouble) throws Exception {
    Options cut = new Options().address(told("PROXY")).credentialFile(told("KEY"));
    try (Client client = found(); Client proxied = Client.connect(cut)) {
      RunOptions options = new RunOptions().requestId("java " + trouble);
      String taskId = proxied.createTask(lengthy(), options).getTaskId();
      expect(proxied.createTask(lengthy(), options).getTaskId().equals(taskId));
      List<Long> seen = new ArrayList<>();
      StringBuilder all = new StringBuilder();
      long first = 0;
      for (TaskEvent event : proxied.watch(taskId, 0)) {
        expect(seen.isEmpty() || event.getSequence() > seen.get(seen.size() - 1), seen, event.getSequence());
        seen.add(event.getSequence());
        all.append(event.getOutput().getText());
        if (first == 0 && !all.isEmpty()) {
          first = event.getSequence();
          ask(trouble);
        }
      }
      expect(all.toString().equals("la".repeat(200)), all);
      StringBuilder rest = new StringBuilder();
      client.watch(taskId, first).forEach(event -> rest.append(event.getOutput().getText()));
      expect(rest.length() > 0 && rest.length() < all.length() && all.toString().endsWith(rest.toString()), rest);
    }
  }

  /** A lease holds beyond its TTL, for calls under it, and is given back. */
  private static void lease() throws Exception {
    try (Client client = found()) {
      TaskSpec spec = Specs.chat("fake", "held").setSampling(SamplingParams.newBuilder().setMaxTokens(16)).build();
      Lease held = client.lease(new LeaseOptions().ttl(TTL).waits(null), Specs.memory("", 1 << 20), Specs.model("fake", 1, 512));
      long end = System.nanoTime() + 2 * TTL.toNanos();
      while (System.nanoTime() - end < 0) {
        expect(generated(client, spec, new RunOptions().lease(held)).equals("held"));
        Thread.sleep(100);
      }
      held.check();
      expect(held.fencingToken() > 0);
      held.close();
      var stub = LeaseServiceGrpc.newBlockingStub(client.channel());
      var state = stub.getLease(GetLeaseRequest.newBuilder().setLeaseId(held.id()).build()).getLease().getState();
      expect(state == LeaseState.LEASE_STATE_RELEASED, state);
    }
  }

  /** A lease that somebody else has ended is lost at once. */
  private static void lostLease() throws Exception {
    try (Client client = found()) {
      CompletableFuture<InferdException> lost = new CompletableFuture<>();
      Lease held = client.lease(new LeaseOptions().ttl(TTL).onLost(lost::complete), Specs.memory("", 1 << 20));
      var stub = LeaseServiceGrpc.newBlockingStub(client.channel());
      stub.releaseLease(ReleaseLeaseRequest.newBuilder().setLeaseId(held.id()).build());
      InferdException error = lost.get(15, TimeUnit.SECONDS);
      expect(error.getMessage().contains("RELEASED"), error.getMessage());
      var refused = refusal(() -> client.generate(chat("fake", "no"), new RunOptions().lease(held)));
      expect(refused.reason().equals(InferdException.LEASE_LOST), refused.reason());
    }
  }

  /** Errors have the kernel's reason. */
  private static void errors() throws Exception {
    try (Client client = found(); Client nobody = at("unix:/nonexistent/inferd.sock")) {
      InferdException error = refusal(() -> client.generate(chat("fak", "hello"), new RunOptions()));
      expect(error.is(ErrorReason.ERROR_REASON_MODEL_NOT_FOUND) && error.code() == Status.Code.NOT_FOUND, error);
      expect("fake".equals(error.metadata().get("suggestion")), error.metadata());
      expect(error.getMessage().contains("did you mean"), error.getMessage());
      TaskSpec empty = TaskSpec.newBuilder().setModel("fake").build();
      InferdException invalid = refusal(() -> client.generate(empty, new RunOptions()));
      expect(invalid.is(ErrorReason.ERROR_REASON_INVALID_FIELD) && invalid.field().startsWith("spec"), invalid.field());
      InferdException absent = refusal(() -> nobody.generate(chat("fake", "no"), new RunOptions()));
      expect(absent.reason().equals(InferdException.KERNEL_UNREACHABLE) && absent.isUnsent(), absent);
    }
  }

  /** Tries all of it, or what is named. */
  public static void main(String[] words) {
    Map<String, Test> tests = new LinkedHashMap<>();
    tests.put("finds", ClientTest::finds);
    tests.put("key", ClientTest::key);
    tests.put("tls", ClientTest::tls);
    tests.put("cancel", ClientTest::cancel);
    tests.put("deadline", ClientTest::deadline);
    tests.put("reattach: cut", () -> reattach("cut"));
    tests.put("reattach: kill", () -> reattach("kill"));
    tests.put("lease", ClientTest::lease);
    tests.put("lost lease", ClientTest::lostLease);
    tests.put("errors", ClientTest::errors);
    tests.keySet().retainAll(words.length > 0 ? List.of(words) : List.copyOf(tests.keySet()));
    int failed = 0;
    for (var test : tests.entrySet()) {
      try {
        test.getValue().run();
        System.out.println("passed " + test.getKey());
      } catch (Exception | AssertionError error) {
        failed++;
        System.out.println("failed " + test.getKey() + ": " + error);
        error.printStackTrace(System.out);
      }
    }
    System.out.println(tests.size() - failed + " passed, " + failed + " failed");
    System.exit(failed == 0 ? 0 : 1);
  }
}
