package inferd;

import java.io.IOException;
import java.net.ConnectException;
import java.net.StandardProtocolFamily;
import java.net.UnixDomainSocketAddress;
import java.nio.channels.SocketChannel;
import java.nio.file.Files;
import java.nio.file.LinkOption;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Set;

/**
 * Where kernels are looked for that no address names: the sockets of this user, then that of the host. A folder that
 * somebody else could write to is passed over, so that nobody is given a call, or a credential, who is not the user or
 * the administrator of this host.
 */
final class Places {
  private static final int OTHERS_WRITE = 0022;
  private static final int KIND = 0170000;
  private static final int FOLDER = 0040000;

  private Places() {}

  /** The uid of this process. */
  static int uid() {
    try {
      return (Integer) Files.getAttribute(Path.of("/proc/self"), "unix:uid");
    } catch (IOException error) {
      return -1;
    }
  }

  static List<Path> sockets() {
    int uid = uid();
    Set<Path> found = new LinkedHashSet<>();
    String named = System.getenv().getOrDefault("XDG_RUNTIME_DIR", "");
    for (String folder : List.of(named, uid == 0 ? "/run" : "/run/user/" + uid)) {
      if (folder.startsWith("/") && isOwn(Path.of(folder), uid)) {
        found.add(Path.of(folder, "inferd", "inferd.sock"));
      }
    }
    found.add(Path.of("/tmp/inferd-" + uid, "inferd.sock"));
    found.add(Path.of("/run/inferd/inferd.sock"));
    return new ArrayList<>(found);
  }

  /** The address of the first usual place where a kernel listens; where none does, of the first one of all. */
  static String findAddress() {
    List<Path> places = sockets();
    return "unix:" + places.stream().filter(Places::listens).findFirst().orElse(places.get(0));
  }

  private static boolean listens(Path path) {
    if (!isSafe(path.getParent())) {
      return false;
    }
    try (SocketChannel asked = SocketChannel.open(StandardProtocolFamily.UNIX)) {
      asked.configureBlocking(false);
      asked.connect(UnixDomainSocketAddress.of(path));
      return true;
    } catch (ConnectException error) {
      return false;
    } catch (IOException error) {
      return Files.exists(path) && "Resource temporarily unavailable".equals(error.getMessage()); // its backlog is full
    }
  }

  private static boolean isSafe(Path folder) {
    try {
      var found = Files.readAttributes(folder, "unix:mode,uid", LinkOption.NOFOLLOW_LINKS);
      int mode = (Integer) found.get("mode");
      int owner = (Integer) found.get("uid");
      boolean byRoot = folder.getParent().equals(Path.of("/run")) && isOwn(Path.of("/run"), 0); // was given it
      return (mode & KIND) == FOLDER && (mode & OTHERS_WRITE) == 0 && (owner == 0 || owner == uid() || byRoot);
    } catch (IOException error) {
      return false;
    }
  }

  private static boolean isOwn(Path folder, int uid) {
    try {
      var found = Files.readAttributes(folder, "unix:mode,uid");
      int mode = (Integer) found.get("mode");
      return (mode & KIND) == FOLDER && (mode & OTHERS_WRITE) == 0 && (Integer) found.get("uid") == uid;
    } catch (IOException error) {
      return false;
    }
  }
}
