// Where kernels are looked for that no address names: the sockets of this user, then that of the host. A folder that
// somebody else could write to is passed over, so that nobody is given a call, or a credential, who is not the user or
// the administrator of this host.
import { lstat, stat } from "node:fs/promises";
import { connect } from "node:net";
import { dirname, isAbsolute, join } from "node:path";

const OTHERS_WRITE = 0o022;

/** Where kernels are looked for, in order. */
export async function sockets(): Promise<string[]> {
  const uid = process.geteuid?.() ?? -1;
  const folders: string[] = [];
  for (const folder of [process.env.XDG_RUNTIME_DIR ?? "", uid === 0 ? "/run" : `/run/user/${uid}`]) {
    if (isAbsolute(folder) && (await isOwn(folder, uid))) folders.push(join(folder, "inferd"));
  }
  folders.push(`/tmp/inferd-${uid}`, "/run/inferd");
  return [...new Set(folders)].map((folder) => join(folder, "inferd.sock"));
}

/** The address of the first usual place where a kernel listens; where none does, of the first one of all. */
export async function findAddress(): Promise<string> {
  const places = await sockets();
  for (const path of places) {
    if (await listens(path)) return `unix:${path}`;
  }
  return `unix:${places[0]}`;
}

async function listens(path: string): Promise<boolean> {
  if (!(await isSafe(dirname(path)))) return false;
  return new Promise((resolve) => {
    const asked = connect(path);
    asked.once("connect", () => resolve(true));
    asked.once("error", (error: NodeJS.ErrnoException) => resolve(error.code === "EAGAIN")); // its backlog is full
    asked.once("connect", () => asked.destroy());
  });
}

async function isSafe(folder: string): Promise<boolean> {
  try {
    const found = await lstat(folder);
    if (!found.isDirectory() || found.mode & OTHERS_WRITE) return false;
    const byRoot = dirname(folder) === "/run" && (await isOwn("/run", 0)); // who has a folder there was given it
    return found.uid === 0 || found.uid === process.geteuid?.() || byRoot;
  } catch {
    return false;
  }
}

async function isOwn(folder: string, uid: number): Promise<boolean> {
  try {
    const found = await stat(folder);
    return found.isDirectory() && found.uid === uid && !(found.mode & OTHERS_WRITE);
  } catch {
    return false;
  }
}
