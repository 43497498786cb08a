package inferd;

import io.grpc.Status;
import java.io.IOException;
import java.net.StandardProtocolFamily;
import java.net.UnixDomainSocketAddress;
import java.nio.ByteBuffer;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.SocketChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** What a client on a shared socket says who it is by: tickets, taken from the socket beside it and renewed in time. */
final class Tickets {
  private static final Pattern FORM = Pattern.compile("(it_[0-9a-f]{64})\n([0-9]{1,6}(?:\\.[0-9]{1,6})?)\n");
  private static final int MOST_BYTES = 4096;
  private static final long ASK_MS = 5000; // how long that socket is waited for
  private static final double RENEWED_AFTER = 2.0 / 3; // of the time that a ticket holds

  private final Path path;
  private String ticket = "";
  private String from = "";
  private long renewAt;

  Tickets(String socket) {
    path = Path.of(socket + ".id");
  }

  /** The ticket; "" where the socket is its owner's alone and needs none, or where no kernel is there. */
  synchronized String current() {
    String stamp = stamp();
    if (stamp.isEmpty() || (stamp.equals(from) && System.nanoTime() - renewAt < 0)) {
      return ticket;
    }
    String said = ask();
    Matcher told = FORM.matcher(said);
    if (told.matches()) {
      ticket = told.group(1);
      from = stamp;
      renewAt = System.nanoTime() + (long) (Double.parseDouble(told.group(2)) * 1e9 * RENEWED_AFTER);
    } else if (said.startsWith("error: ")) {
      String message = "no ticket: " + said.substring(7).trim();
      throw new InferdException(message, "UNAUTHENTICATED", Status.Code.UNAUTHENTICATED, Map.of());
    }
    return ticket;
  }

  private String ask() {
    ByteBuffer said = ByteBuffer.allocate(MOST_BYTES);
    long until = System.nanoTime() + ASK_MS * 1_000_000;
    try (SocketChannel asked = SocketChannel.open(StandardProtocolFamily.UNIX);
        Selector selector = Selector.open()) {
      asked.connect(UnixDomainSocketAddress.of(path));
      asked.configureBlocking(false);
      asked.register(selector, SelectionKey.OP_READ);
      while (said.hasRemaining()) {
        long left = (until - System.nanoTime()) / 1_000_000;
        if (left <= 0 || selector.select(left) == 0) {
          String message = "no ticket: " + path + " gave none in " + ASK_MS / 1000 + " s; try again, or use a key";
          throw new InferdException(message, InferdException.KERNEL_UNREACHABLE, Status.Code.UNAVAILABLE, Map.of());
        }
        selector.selectedKeys().clear();
        if (asked.read(said) < 0) {
          break;
        }
      }
    } catch (IOException error) {
      return ""; // nobody is there: the call that needs it says so
    }
    return StandardCharsets.UTF_8.decode(said.flip()).toString();
  }

  /** What tells one kernel's socket from the next one's; "" where there is none. */
  private String stamp() {
    try {
      var found = Files.readAttributes(path, "unix:ino,ctime");
      return found.get("ino") + " " + found.get("ctime");
    } catch (IOException error) {
      return "";
    }
  }
}
