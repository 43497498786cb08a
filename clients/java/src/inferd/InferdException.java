package inferd;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import inferd.v1.ErrorReason;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusException;
import io.grpc.StatusRuntimeException;
import java.io.IOException;
import java.net.ConnectException;
import java.time.Duration;
import java.util.Map;
import java.util.Optional;
import javax.net.ssl.SSLException;

/** A call or a task failed. Branch on {@link #reason}, or with {@link #is}; the message is for people. */
public final class InferdException extends RuntimeException {
  /** No kernel answers, or the connection to it was lost. */
  public static final String KERNEL_UNREACHABLE = "KERNEL_UNREACHABLE";

  /** Both ends could not agree on a connection with TLS. */
  public static final String TLS_FAILED = "TLS_FAILED";

  /** A lease does not hold any more, or nobody can tell. */
  public static final String LEASE_LOST = "LEASE_LOST";

  private static final long serialVersionUID = 1;
  private static final Metadata.Key<byte[]> DETAILS =
      Metadata.Key.of("grpc-status-details-bin", Metadata.BINARY_BYTE_MARSHALLER);

  private final String reason;
  private final Status.Code code;
  private final transient Map<String, String> metadata;
  private final String field;
  private final Duration retryAfter;
  private final boolean unsent;

  private InferdException(
      String message, String reason, Status.Code code, Map<String, String> metadata, String field, Duration retryAfter,
      boolean unsent, Throwable cause) {
    super(message, cause);
    this.reason = reason;
    this.code = code;
    this.metadata = metadata;
    this.field = field;
    this.retryAfter = retryAfter;
    this.unsent = unsent;
  }

  InferdException(String message, String reason, Status.Code code, Map<String, String> metadata) {
    this(message, reason, code, metadata, "", null, false, null);
  }

  /** A name of {@link ErrorReason} without its prefix, one of the constants above, or "" for a status of the transport. */
  public String reason() {
    return reason;
  }

  /** Whether it has this reason. */
  public boolean is(ErrorReason asked) {
    return asked.name().equals("ERROR_REASON_" + reason);
  }

  /** The canonical code of gRPC. */
  public Status.Code code() {
    return code;
  }

  /** Facts by name; {@link ErrorReason} lists them. */
  public Map<String, String> metadata() {
    return metadata;
  }

  /** Path of the request's field that is wrong, else "". */
  public String field() {
    return field;
  }

  /** When trying again makes sense. */
  public Optional<Duration> retryAfter() {
    return Optional.ofNullable(retryAfter);
  }

  /** Whether no kernel can have seen the call. */
  public boolean isUnsent() {
    return unsent;
  }

  /** The error of a status that is part of a message, as that of {@code Finished}. */
  public static InferdException from(com.google.rpc.Status status) {
    return of(status, null);
  }

  /** The error of a call to {@code address} that failed, also of a stub's own. */
  public static InferdException from(Throwable thrown, String address) {
    if (thrown instanceof InferdException known) {
      return known;
    }
    Metadata trailers = null;
    if (thrown instanceof StatusRuntimeException failed) {
      trailers = failed.getTrailers();
    } else if (thrown instanceof StatusException failed) {
      trailers = failed.getTrailers();
    }
    byte[] details = trailers == null ? null : trailers.get(DETAILS);
    if (details != null) {
      try {
        return of(com.google.rpc.Status.parseFrom(details), thrown);
      } catch (InvalidProtocolBufferException error) {
        thrown.addSuppressed(error);
      }
    }
    return ofTransport(Status.fromThrowable(thrown), thrown, address);
  }

  private static InferdException of(com.google.rpc.Status status, Throwable cause) {
    String reason = "";
    String field = "";
    Map<String, String> metadata = Map.of();
    Duration retryAfter = null;
    try {
      for (Any detail : status.getDetailsList()) {
        if (detail.is(ErrorInfo.class) && detail.unpack(ErrorInfo.class).getDomain().equals("inferd")) {
          reason = detail.unpack(ErrorInfo.class).getReason();
          metadata = detail.unpack(ErrorInfo.class).getMetadataMap();
        } else if (detail.is(RetryInfo.class)) {
          var delay = detail.unpack(RetryInfo.class).getRetryDelay();
          retryAfter = Duration.ofSeconds(delay.getSeconds(), delay.getNanos());
        } else if (detail.is(BadRequest.class) && detail.unpack(BadRequest.class).getFieldViolationsCount() > 0) {
          field = detail.unpack(BadRequest.class).getFieldViolations(0).getField();
        }
      }
    } catch (InvalidProtocolBufferException error) {
      throw new IllegalStateException("the details of a status are no messages", error);
    }
    Status.Code code = Status.fromCodeValue(status.getCode()).getCode();
    return new InferdException(status.getMessage(), reason, code, metadata, field, retryAfter, false, cause);
  }

  private static InferdException ofTransport(Status status, Throwable thrown, String address) {
    String words = status.getDescription() == null ? "" : status.getDescription();
    Throwable cause = status.getCause();
    if (status.getCode() != Status.Code.UNAVAILABLE) {
      String message = "the call to " + address + " ended with " + status.getCode() + ": " + words;
      return new InferdException(message, "", status.getCode(), Map.of(), "", null, false, thrown);
    }
    for (Throwable each = cause; each != null; each = each.getCause()) {
      words += ": " + each.getMessage();
      if (each instanceof SSLException) {
        String message =
            "no connection with TLS to " + address + " (" + words + "): name the authority of its certificate "
                + "(caFile, $INFERD_CA_FILE)";
        return new InferdException(message, TLS_FAILED, status.getCode(), Map.of(), "", null, true, thrown);
      }
    }
    boolean unsent = cause instanceof ConnectException || (cause instanceof IOException && words.startsWith("io exception"));
    String message = "no kernel answers at " + address + " (" + words + "); start one with: inferd serve";
    return new InferdException(message, KERNEL_UNREACHABLE, status.getCode(), Map.of(), "", null, unsent, thrown);
  }
}
