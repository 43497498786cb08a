import { anyUnpack } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "./gen/google/rpc/error_details_pb.js";
import type { Status } from "./gen/google/rpc/status_pb.js";
import type { ErrorReason } from "./gen/inferd_api/v1/errors_pb.js";

/**
 * Why something failed: a name of `inferd.v1.ErrorReason`, one of what the kernel cannot say itself, or "" for a status of
 * the transport. A kernel that is newer than this client may say others.
 */
export type Reason =
  | Exclude<keyof typeof ErrorReason, "UNSPECIFIED">
  | "KERNEL_UNREACHABLE"
  | "TLS_FAILED"
  | "LEASE_LOST"
  | ""
  | (string & {});

const CODES = [
  "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
  "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL",
  "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
];
// What Node says where no connection came to be, so that no kernel can have seen the call.
const UNSENT = new Set(["ECONNREFUSED", "ENOENT", "EACCES", "EPERM", "ENOTFOUND", "EAI_AGAIN", "EHOSTUNREACH", "ENETUNREACH"]);
const BROKEN = new Set(["ECONNRESET", "EPIPE", "ETIMEDOUT", "ERR_STREAM_PREMATURE_CLOSE", "ERR_HTTP2_STREAM_ERROR",
  "ERR_HTTP2_SESSION_ERROR", "ERR_HTTP2_INVALID_SESSION", "ERR_HTTP2_GOAWAY_SESSION", "ERR_STREAM_WRITE_AFTER_END"]);
const CERTIFICATE = /^(ERR_TLS_|ERR_SSL_|EPROTO|CERT_|DEPTH_ZERO|SELF_SIGNED|UNABLE_TO_|ERR_OSSL)/;

/** What is known of a failure besides its words. */
export interface Facts {
  reason?: Reason;
  code?: string;
  metadata?: Record<string, string>;
  field?: string;
  retryAfterMs?: number;
  unsent?: boolean;
  cause?: unknown;
}

/** A call or a task failed. Branch on `reason`; the message is for people. */
export class InferdError extends Error {
  override readonly name = "InferdError";
  readonly reason: Reason;
  /** The canonical gRPC code, as "NOT_FOUND". */
  readonly code: string;
  /** Facts by name; `inferd.v1.ErrorReason` lists them. */
  readonly metadata: Readonly<Record<string, string>>;
  /** Path of the request's field that is wrong, else "". */
  readonly field: string;
  /** When trying again makes sense, in milliseconds. */
  readonly retryAfterMs?: number;
  /** Whether no kernel can have seen the call. */
  readonly unsent: boolean;

  constructor(message: string, facts: Facts = {}) {
    super(message, { cause: facts.cause });
    this.reason = facts.reason ?? "";
    this.code = facts.code ?? "UNKNOWN";
    this.metadata = facts.metadata ?? {};
    this.field = facts.field ?? "";
    this.retryAfterMs = facts.retryAfterMs;
    this.unsent = facts.unsent ?? false;
  }

  /** The error of a status that is part of a message, as `Finished.error`. */
  static fromStatus(status: Status): InferdError {
    return typed(status.message, status.code, {
      info: status.details.map((each) => anyUnpack(each, ErrorInfoSchema)).find(Boolean),
      retry: status.details.map((each) => anyUnpack(each, RetryInfoSchema)).find(Boolean),
      bad: status.details.map((each) => anyUnpack(each, BadRequestSchema)).find(Boolean),
    });
  }

  /** The error of a call to `address` that failed, also of a stub's own. */
  static from(error: unknown, address = "the kernel"): InferdError {
    if (error instanceof InferdError) return error;
    const failed = ConnectError.from(error);
    const [info] = failed.findDetails(ErrorInfoSchema);
    if (info) {
      const [retry] = failed.findDetails(RetryInfoSchema);
      const [bad] = failed.findDetails(BadRequestSchema);
      return typed(failed.rawMessage, failed.code, { info, retry, bad }, error);
    }
    return ofTransport(failed, address);
  }
}

interface Details {
  info?: { reason: string; domain: string; metadata: Record<string, string> };
  retry?: { retryDelay?: { seconds: bigint; nanos: number } };
  bad?: { fieldViolations: { field: string }[] };
}

function typed(message: string, code: number, { info, retry, bad }: Details, cause?: unknown): InferdError {
  const delay = retry?.retryDelay;
  return new InferdError(message, {
    reason: info?.domain === "inferd" ? info.reason : "",
    code: CODES[code] ?? "UNKNOWN",
    metadata: info?.metadata,
    field: bad?.fieldViolations[0]?.field,
    retryAfterMs: delay && Number(delay.seconds) * 1000 + delay.nanos / 1e6,
    cause,
  });
}

function ofTransport(failed: ConnectError, address: string): InferdError {
  const said = systemCode(failed);
  if (CERTIFICATE.test(said)) {
    const message = `no connection with TLS to ${address} (${said}): name the authority of its certificate (caFile, $INFERD_CA_FILE)`;
    return new InferdError(message, { reason: "TLS_FAILED", code: "UNAVAILABLE", unsent: true, cause: failed });
  }
  // So Node ends the streams of a connection that broke; what this program has cancelled has other words.
  const isCut = failed.code === Code.Canceled && failed.rawMessage.includes("stream closed");
  if (failed.code === Code.Unavailable || UNSENT.has(said) || BROKEN.has(said) || isCut) {
    const facts: Facts = { reason: "KERNEL_UNREACHABLE", code: "UNAVAILABLE", unsent: UNSENT.has(said), cause: failed };
    return new InferdError(`no kernel answers at ${address} (${said || failed.rawMessage}); start one with: inferd serve`, facts);
  }
  return new InferdError(`the call to ${address} ended with ${CODES[failed.code]}: ${failed.rawMessage}`, {
    code: CODES[failed.code],
    cause: failed,
  });
}

/** The code of what Node threw, somewhere below: as "ECONNREFUSED". */
function systemCode(error: unknown): string {
  for (let each: unknown = error, depth = 0; each instanceof Error && depth < 8; each = each.cause, depth++) {
    if ("code" in each && typeof each.code === "string") return each.code;
  }
  return "";
}
