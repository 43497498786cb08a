package inferd;

import io.grpc.ManagedChannel;
import io.grpc.netty.GrpcSslContexts;
import io.grpc.netty.NettyChannelBuilder;
import io.netty.channel.nio.NioEventLoopGroup;
import io.netty.handler.ssl.SslContextBuilder;
import io.netty.util.concurrent.DefaultThreadFactory;
import java.io.File;
import java.io.IOException;
import java.net.UnixDomainSocketAddress;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.concurrent.TimeUnit;
import java.util.function.Supplier;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * A way to a kernel.
 *
 * @param address of the kernel
 * @param channel to it
 * @param secret what each call logs in with, "" for nothing
 * @param end what is to be done when the channel has been closed
 */
record Way(String address, ManagedChannel channel, Supplier<String> secret, Runnable end) {
  private static final Pattern FORM =
      Pattern.compile("(tls:|mtls:)?((\\[[0-9a-fA-F:.]+\\]|[^\\s/:\\[\\]]+):([0-9]{1,5}))");
  private static final Pattern HERE = Pattern.compile("localhost|127(\\.[0-9]{1,3}){3}|\\[::1\\]");
  private static final Pattern CREDENTIAL = Pattern.compile("[\\x21-\\x7e]{1,8192}"); // what a header can carry of it
  private static final int LONGEST_PATH = 107; // of a socket in a file, in bytes; see unix(7)
  private static final int MAX_PORT = 65535;
  private static final int MOST_BYTES = 64 << 20;
  private static final long PING_S = 310; // a server that states no rule of its own takes one ping in five minutes
  private static final int OTHERS = 0077;

  static Way find(Options options) {
    String named = firstOf(options.address, "INFERD_ADDRESS");
    String address = named.isEmpty() ? Places.findAddress() : named;
    String credential = credentialOf(options);
    if (address.startsWith("unix:")) {
      return ofSocket(address, address.substring(address.startsWith("unix:///") ? 7 : 5), credential);
    }
    Matcher found = FORM.matcher(address);
    if (!found.matches() || Integer.parseInt(found.group(4)) > MAX_PORT) {
      throw new IllegalArgumentException(
          "address " + address + " is not of the form unix:/path, host:port or tls:host:port");
    }
    NettyChannelBuilder builder = NettyChannelBuilder.forTarget("dns:///" + found.group(2)).proxyDetector(to -> null);
    if (found.group(1) != null) {
      secure(builder, options, address, found.group(1).equals("mtls:"));
    } else if (!(options.caFile + options.certFile + options.keyFile).isEmpty()) {
      throw new IllegalArgumentException(
          "a certificate is given, and " + address + " is an address without TLS; write tls:" + address);
    } else if (!credential.isEmpty() && !HERE.matcher(found.group(3)).matches()) {
      throw new IllegalArgumentException(
          "a credential would go to " + address + " for everybody on the way to read; use an address with TLS, tls:"
              + address);
    } else {
      builder.usePlaintext();
    }
    return new Way(address, built(builder), () -> credential, () -> {});
  }

  private static Way ofSocket(String address, String path, String credential) {
    int size = path.getBytes(StandardCharsets.UTF_8).length;
    if (size == 0 || size > LONGEST_PATH) {
      throw new IllegalArgumentException(
          "address " + address + " has a path of " + size + " bytes; it must have 1 to " + LONGEST_PATH);
    }
    NioEventLoopGroup loops = new NioEventLoopGroup(1, new DefaultThreadFactory("inferd", true));
    NettyChannelBuilder builder =
        NettyChannelBuilder.forAddress(UnixDomainSocketAddress.of(path))
            .overrideAuthority("localhost")
            .channelFactory(UnixChannel::new)
            .eventLoopGroup(loops)
            .usePlaintext();
    Tickets tickets = new Tickets(path);
    Supplier<String> secret = credential.isEmpty() ? tickets::current : () -> credential;
    return new Way(address, built(builder), secret, () -> loops.shutdownGracefully(0, 1, TimeUnit.SECONDS));
  }

  private static ManagedChannel built(NettyChannelBuilder builder) {
    return builder
        .maxInboundMessageSize(MOST_BYTES)
        .keepAliveTime(PING_S, TimeUnit.SECONDS)
        .keepAliveTimeout(20, TimeUnit.SECONDS)
        .build();
  }

  private static void secure(NettyChannelBuilder builder, Options options, String address, boolean mutual) {
    String ca = firstOf(options.caFile, "INFERD_CA_FILE");
    String cert = firstOf(options.certFile, "INFERD_CERT_FILE");
    String key = firstOf(options.keyFile, "INFERD_KEY_FILE");
    if ((mutual || !cert.isEmpty() || !key.isEmpty()) && (cert.isEmpty() || key.isEmpty())) {
      throw new IllegalArgumentException(
          address + " takes a certificate of the client and its key: name both (certFile)");
    }
    try {
      SslContextBuilder files = GrpcSslContexts.forClient().protocols("TLSv1.3"); // kernels speak no older one
      if (!ca.isEmpty()) {
        files.trustManager(new File(ca));
      }
      if (!cert.isEmpty()) {
        checkOwn(key, "keyFile");
        files.keyManager(new File(cert), new File(key));
      }
      builder.sslContext(files.build());
    } catch (IOException | IllegalArgumentException error) {
      throw new IllegalArgumentException("the files for TLS with " + address + ": " + error.getMessage(), error);
    }
  }

  private static String credentialOf(Options options) {
    String said = options.credential;
    String file = options.credentialFile;
    if (said.isEmpty() && file.isEmpty()) {
      said = firstOf("", "INFERD_CREDENTIAL");
      file = said.isEmpty() ? firstOf("", "INFERD_CREDENTIAL_FILE") : "";
    }
    try {
      if (said.isEmpty() && !file.isEmpty()) {
        checkOwn(file, "credentialFile");
        said = Files.readString(Path.of(file)).strip();
        if (said.isEmpty()) {
          throw new IllegalArgumentException("the file " + file + " of credentialFile holds no credential");
        }
      }
    } catch (IOException error) {
      throw new IllegalArgumentException("the file of credentialFile cannot be read: " + error.getMessage(), error);
    }
    if (!said.isEmpty() && !CREDENTIAL.matcher(said).matches()) {
      throw new IllegalArgumentException("the credential is none: it must be 1 to 8192 visible letters of ASCII");
    }
    return said;
  }

  /** Refuses a file with a secret that others could read. */
  private static void checkOwn(String file, String name) throws IOException {
    var found = Files.readAttributes(Path.of(file), "unix:mode,uid,isRegularFile");
    int mode = (Integer) found.get("mode");
    int owner = (Integer) found.get("uid");
    if (!(Boolean) found.get("isRegularFile") || (mode & OTHERS) != 0 || (owner != 0 && owner != Places.uid())) {
      String bits = String.format("%04o", mode & 0777);
      throw new IllegalArgumentException(
          "the file " + file + " of " + name + " has mode " + bits + " and owner " + owner
              + ", so that others could use it: chmod 600 " + file);
    }
  }

  private static String firstOf(String given, String variable) {
    return given.isEmpty() ? System.getenv().getOrDefault(variable, "") : given;
  }
}
