// Calls of the gateway. The key goes with each of them as a header, and is kept for as long as the tab is open.

const KEY = "inferd-key";
const TENANT = "inferd-tenant";

export class CallError extends Error {
  /** An answer that is an error: for people, with its status and reason. */
  constructor(message, status, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export const login = {
  get key() {
    return sessionStorage.getItem(KEY) || "";
  },
  get tenant() {
    return sessionStorage.getItem(TENANT) || "";
  },
  set(key, tenant) {
    sessionStorage.setItem(KEY, key);
    sessionStorage.setItem(TENANT, tenant);
  },
  clear() {
    sessionStorage.removeItem(KEY);
    sessionStorage.removeItem(TENANT);
  },
};

/** The key and tenant that came behind the # of the address, which no server sees; taken out of there, and not used yet. */
export function takenOfAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  if (!given.has("key")) return null;
  history.replaceState(null, "", location.pathname);
  return { key: given.get("key"), tenant: given.get("tenant") || "" };
}

async function answered(path, { body, signal } = {}) {
  const headers = {};
  if (login.key) headers.authorization = `Bearer ${login.key}`;
  if (login.tenant) headers["inferd-tenant"] = login.tenant;
  const asked = { headers, signal, cache: "no-store", credentials: "omit" };
  if (body !== undefined) {
    headers["content-type"] = "application/json";
    Object.assign(asked, { method: "POST", body: JSON.stringify(body) });
  }
  const response = await fetch(path, asked);
  if (response.ok) return response;
  let error = {};
  try {
    error = (await response.json()).error || {};
  } catch {
    // no JSON: the status alone tells
  }
  const told = new CallError(error.message || `the gateway answered ${response.status}`, response.status, error.code);
  told.retryAfterS = Number(response.headers.get("retry-after")) || 0;
  throw told;
}

/** Ask for JSON. */
export async function ask(path, given) {
  return (await answered(path, given)).json();
}

/**
 * Read a stream of server-sent events: by fetch, as an EventSource sends no header.
 * @param {(told: any) => void} each Is given what each event says.
 */
export async function stream(path, given, each) {
  const response = await answered(path, given);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    let end;
    let from = 0;
    while ((end = text.indexOf("\n\n", from)) >= 0) {
      const told = text.slice(from, end);
      from = end + 2;
      if (!told.startsWith("data: ") || told === "data: [DONE]") continue;
      const said = JSON.parse(told.slice(6));
      if (said.error && said.error.message) {
        throw new CallError(said.error.message, said.error.code === "UNAUTHENTICATED" ? 401 : 0, said.error.code);
      }
      each(said);
    }
    text = text.slice(from);
  }
}
