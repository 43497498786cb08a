import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Struct;
import com.google.protobuf.Value;
import com.google.protobuf.util.JsonFormat;
import inferd.Client;
import inferd.InferdException;
import inferd.Options;
import inferd.RunOptions;
import inferd.Specs;
import inferd.v1.*;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;

/**
 * Answers a question from files, with citations, by the function {@code clean} and an index that is kept and asked:
 *
 * <pre>Answers INDEX smollm2 "What outlives the kernel?" notes.md more.md</pre>
 */
public final class Answers {
  private Answers() {}

  /** The text that a function makes of one. */
  private static String clean(Client client, String text) throws InvalidProtocolBufferException {
    var input = Struct.newBuilder().putFields("text", Value.newBuilder().setStringValue(text).build());
    var made = client.generate(Specs.call("clean", JsonFormat.printer().print(input)).build(), new RunOptions());
    Value.Builder cleaned = Value.newBuilder();
    JsonFormat.parser().merge(made.pieces().get(0), cleaned);
    return cleaned.getStringValue();
  }

  /** Does it: an index, a model, a question, and files that are not in it yet. */
  public static void main(String[] words) throws IOException {
    try (Client client = Client.connect(new Options())) { // to $INFERD_ADDRESS, or to the kernel of this user or host
      var indexes = IndexServiceGrpc.newBlockingStub(client.channel());
      var adding = AddDocumentsRequest.newBuilder().setIndex(words[0]);
      for (int i = 3; i < words.length; i++) {
        String text = clean(client, Files.readString(Path.of(words[i])));
        adding.addDocuments(IndexDocument.newBuilder().setId(words[i]).setText(text));
      }
      // One of this name and for the same is taken as it is.
      indexes.createIndex(CreateIndexRequest.newBuilder().setSpec(IndexSpec.newBuilder().setName(words[0])).build());
      if (adding.getDocumentsCount() > 0) {
        indexes.addDocuments(adding.build()).forEachRemaining(told -> {}); // until all of them are there
      }
      var query = IndexQuery.newBuilder().setIndex(words[0]).setText(words[2]);
      var asked = AnswerQuestionRequest.newBuilder().setQuery(query).setModel(words[1]).setMostTokens(128).build();
      indexes.answerQuestion(asked).forEachRemaining(told -> {
        System.out.print(told.getText());
        told.getEnded().getCitationsList().forEach(each -> System.out.printf(
            "%n[%s %d-%d] %s", each.getDocumentId(), each.getStart(), each.getEnd(), each.getQuote()));
      });
      System.out.println();
    } catch (io.grpc.StatusRuntimeException error) {
      System.err.println(InferdException.from(error, "the kernel").getMessage());
      System.exit(1);
    }
  }
}
