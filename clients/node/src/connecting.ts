// How a kernel is reached: forms of addresses, credentials, and what Node's HTTP/2 is given.
import { constants } from "node:fs";
import { open } from "node:fs/promises";
import type { ClientSessionOptions, SecureClientSessionOptions } from "node:http2";
import { connect as dial, isIP } from "node:net";
import { findAddress } from "./places.js";
import { Tickets } from "./tickets.js";

const FORM = /^(tls:|mtls:)?((\[[0-9a-fA-F:.]+\]|[^\s/:[\]]+):([0-9]{1,5}))$/;
const CREDENTIAL = /^[\x21-\x7e]{1,8192}$/; // what a header can carry of it
const LONGEST_PATH = 107; // of a socket in a file, in bytes; see unix(7)
const MOST_BYTES = 8 << 20;

/** How a kernel is reached. */
export interface Connecting {
  /** `unix:/path`, `host:port`, `tls:host:port` or `mtls:host:port`; default `$INFERD_ADDRESS`, else what is found. */
  address?: string;
  /** Whose tasks are meant; default the kernel's default tenant. */
  tenant?: string;
  /** A key or a token, "" for none; default that of `credentialFile`, else of `$INFERD_CREDENTIAL`. */
  credential?: string;
  /** Where it is, alone, in a file that only its owner may read; default `$INFERD_CREDENTIAL_FILE`. */
  credentialFile?: string;
  /** Authorities that the kernel's certificate is checked by; default `$INFERD_CA_FILE`, else those of Node. */
  caFile?: string;
  /** Certificate by which the kernel knows who calls; default `$INFERD_CERT_FILE`. */
  certFile?: string;
  /** Its private key, mode 0600; default `$INFERD_KEY_FILE`. */
  keyFile?: string;
  /** Deadline of calls that answer at once, in milliseconds; default 30,000. */
  timeoutMs?: number;
}

/** A way to a kernel. */
export interface Way {
  address: string;
  url: string;
  session: ClientSessionOptions | SecureClientSessionOptions;
  credential: string;
  tickets?: Tickets;
}

/** Finds the kernel that is meant, and reads what is needed to call it. */
export async function findWay(options: Connecting): Promise<Way> {
  const address = options.address || process.env.INFERD_ADDRESS || (await findAddress());
  const credential = await credentialOf(options);
  if (address.startsWith("unix:")) {
    const path = address.slice(5).replace(/^\/\/(?=\/)/, "");
    const size = Buffer.byteLength(path);
    if (!path || size > LONGEST_PATH) throw new RangeError(`address ${address} has a path of ${size} bytes; it must have 1 to ${LONGEST_PATH}`);
    const session = { createConnection: () => dial(path) };
    return { address, url: "http://localhost", session, credential, tickets: credential ? undefined : new Tickets(path) };
  }
  const found = FORM.exec(address);
  if (!found || Number(found[4]) > 65535) throw new RangeError(`address ${address} is not of the form unix:/path, host:port or tls:host:port`);
  const [, scheme, bare, host] = found;
  if (scheme) return { address, url: `https://${bare}`, session: await secured(options, address, scheme), credential };
  const named = (["caFile", "certFile", "keyFile"] as const).find((name) => options[name]);
  if (named) throw new TypeError(`${named} is given, and ${address} is an address without TLS; write tls:${address}`);
  if (credential && !isHere(host!)) {
    throw new TypeError(`a credential would go to ${address} for everybody on the way to read; use an address with TLS, tls:${address}`);
  }
  return { address, url: `http://${bare}`, session: {}, credential };
}

function isHere(host: string): boolean {
  const bare = host.replace(/^\[|\]$/g, "");
  return bare === "localhost" || (isIP(bare) !== 0 && (bare.startsWith("127.") || bare === "::1"));
}

async function secured(options: Connecting, address: string, scheme: string): Promise<SecureClientSessionOptions> {
  const caFile = options.caFile || process.env.INFERD_CA_FILE;
  const certFile = options.certFile || process.env.INFERD_CERT_FILE;
  const keyFile = options.keyFile || process.env.INFERD_KEY_FILE;
  if ((scheme === "mtls:" || certFile || keyFile) && !(certFile && keyFile)) {
    throw new TypeError(`${address} takes a certificate of the client and its key, and ${certFile ? "keyFile" : "certFile"} is not given`);
  }
  return {
    ca: caFile && (await read(caFile, "caFile")),
    cert: certFile && (await read(certFile, "certFile")),
    key: keyFile && (await read(keyFile, "keyFile", true)),
  };
}

async function credentialOf({ credential, credentialFile }: Connecting): Promise<string> {
  const file = credentialFile ?? (process.env.INFERD_CREDENTIAL ? undefined : process.env.INFERD_CREDENTIAL_FILE);
  const said = credential ?? (file ? (await read(file, "credentialFile", true)).trim() : (process.env.INFERD_CREDENTIAL ?? ""));
  if (said && !CREDENTIAL.test(said)) throw new TypeError("the credential is none: it must be 1 to 8192 visible letters of ASCII");
  return said;
}

/** Reads a file; one with a secret only if nobody else can. */
async function read(path: string, name: string, isSecret = false): Promise<string> {
  const file = await open(path, constants.O_RDONLY).catch((error: NodeJS.ErrnoException) => {
    throw new TypeError(`the file ${path} of ${name} cannot be read: ${error.code}`);
  });
  try {
    const found = await file.stat();
    const mode = (found.mode & 0o777).toString(8).padStart(4, "0");
    if (!found.isFile() || found.size > MOST_BYTES) throw new TypeError(`${path} of ${name} is no file of at most ${MOST_BYTES} bytes`);
    if (isSecret && (found.mode & 0o077 || (found.uid !== 0 && found.uid !== process.geteuid?.()))) {
      throw new TypeError(`the file ${path} of ${name} has mode ${mode} and owner ${found.uid}, so that others could use it: chmod 600 ${path}`);
    }
    return await file.readFile("utf8");
  } finally {
    await file.close();
  }
}
