package inferd;

import java.time.Duration;

/** How a kernel is reached. As they are, these find the kernel of this user or host. */
public final class Options {
  String address = "";
  String tenant = "";
  String credential = "";
  String credentialFile = "";
  String caFile = "";
  String certFile = "";
  String keyFile = "";
  Duration timeout = Duration.ofSeconds(30);

  /** {@code unix:/path}, {@code host:port}, {@code tls:host:port} or {@code mtls:host:port}; default $INFERD_ADDRESS. */
  public Options address(String value) {
    address = value;
    return this;
  }

  /** Whose tasks are meant; default the kernel's default tenant. */
  public Options tenant(String value) {
    tenant = value;
    return this;
  }

  /** A key or a token; default that of the credential file, else of $INFERD_CREDENTIAL. */
  public Options credential(String value) {
    credential = value;
    return this;
  }

  /** Where it is, alone, in a file that only its owner may read; default $INFERD_CREDENTIAL_FILE. */
  public Options credentialFile(String value) {
    credentialFile = value;
    return this;
  }

  /** Authorities that the kernel's certificate is checked by; default $INFERD_CA_FILE, else those of Java. */
  public Options caFile(String value) {
    caFile = value;
    return this;
  }

  /** Certificate by which the kernel knows who calls, and its private key in PKCS#8, mode 0600. */
  public Options certFile(String certificate, String key) {
    certFile = certificate;
    keyFile = key;
    return this;
  }

  /** Deadline of calls that answer at once. */
  public Options timeout(Duration value) {
    timeout = value;
    return this;
  }
}
