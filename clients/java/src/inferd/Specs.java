package inferd;

import inferd.v1.CallInput;
import inferd.v1.ChatMessage;
import inferd.v1.ChatPrompt;
import inferd.v1.Claim;
import inferd.v1.CoresClaim;
import inferd.v1.MemoryClaim;
import inferd.v1.ModelClaim;
import inferd.v1.TaskSpec;
import java.time.Duration;

/** Makes what tasks and leases are asked for with. */
public final class Specs {
  private static final int DEFAULT_MAX_TOKENS = 512;

  private Specs() {}

  /** A text that the model goes on with. */
  public static TaskSpec.Builder text(String model, String prompt) {
    return TaskSpec.newBuilder().setModel(model).setPrompt(prompt);
  }

  /** What a user says, which the model answers. */
  public static TaskSpec.Builder chat(String model, String said) {
    return chat(model, ChatMessage.newBuilder().setRole("user").setContent(said).build());
  }

  /** A conversation that the model answers. */
  public static TaskSpec.Builder chat(String model, ChatMessage... messages) {
    ChatPrompt.Builder prompt = ChatPrompt.newBuilder();
    for (ChatMessage message : messages) {
      prompt.addMessages(message);
    }
    return TaskSpec.newBuilder().setModel(model).setChat(prompt);
  }

  /** A call of a function, with a JSON object of its parameters; {@link Generation#pieces} has what it gives. */
  public static TaskSpec.Builder call(String name, String json) {
    return TaskSpec.newBuilder().setModel("functions@" + name).setCall(CallInput.newBuilder().setInput(json));
  }

  /** Memory of a device, "" for "cpu:0", in bytes. */
  public static Claim memory(String deviceId, long bytes) {
    return Claim.newBuilder().setMemory(MemoryClaim.newBuilder().setDeviceId(deviceId).setBytes(bytes)).build();
  }

  /** A model that stays loaded, with places for so many tasks and room for so many tokens of theirs. */
  public static Claim model(String name, int sequences, int kvTokens) {
    var claim = ModelClaim.newBuilder().setModel(name).setSequences(sequences).setKvTokens(kvTokens);
    return Claim.newBuilder().setModel(claim).build();
  }

  /** Cores of a device, "" for "cpu:0". */
  public static Claim cores(String deviceId, int cores) {
    return Claim.newBuilder().setCores(CoresClaim.newBuilder().setDeviceId(deviceId).setCores(cores)).build();
  }

  /** The same task, with no more output than the clients of inferd ask for unless they are told. */
  static TaskSpec bounded(TaskSpec spec) {
    if (spec.hasEmbedding() || spec.hasInfer() || spec.hasCall() || spec.getSampling().hasMaxTokens()) {
      return spec;
    }
    var sampling = spec.getSampling().toBuilder().setMaxTokens(DEFAULT_MAX_TOKENS).setFitMaxTokens(true);
    return spec.toBuilder().setSampling(sampling).build();
  }

  static com.google.protobuf.Duration span(Duration length) {
    return com.google.protobuf.Duration.newBuilder().setSeconds(length.getSeconds()).setNanos(length.getNano()).build();
  }
}
