"""Where the socket of a kernel lies unless it is told otherwise: a folder that nobody else can write to.

`inferd_client.places` looks for it there; a test holds both to the same.
"""

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

FOLDER, NAME = "inferd", "inferd.sock"
RUN, USERS, SHARED = Path("/run"), Path("/run/user"), Path("/tmp")  # noqa: S108 - looked at before use # nosec B108
OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
PRIVATE: Final = 0o700
SYSTEM: Final = 0o755  # who may use the socket in it is said by that


def system_socket() -> Path:
    """The socket of a kernel for the whole host, where clients look after that of their own user."""
    return RUN / FOLDER / NAME


def own_socket() -> Path | None:
    """The socket of a kernel of this user; None where there is no folder for it.

    It is in `$XDG_RUNTIME_DIR/inferd`, else for root in `/run/inferd`, for others in `/run/user/UID/inferd`, else in
    `/tmp/inferd-UID`. A runtime folder of somebody else, as `sudo -E` leaves it in the environment, is passed over.
    """
    uid, named = os.geteuid(), os.environ.get("XDG_RUNTIME_DIR", "")
    usual = RUN if uid == 0 else USERS / str(uid)
    for runtime in (Path(named), usual):
        if runtime.is_absolute() and _is_ours(runtime, uid):
            return runtime / FOLDER / NAME
    shared = SHARED.is_dir() and os.access(SHARED, os.W_OK) and not why_unsafe(SHARED)
    return SHARED / f"{FOLDER}-{uid}" / NAME if shared else None


def _is_ours(folder: Path, uid: int) -> bool:
    """Whether a folder is a user's alone to write to, and can be written."""
    try:
        found = folder.stat()
    except OSError:
        return False
    own = stat.S_ISDIR(found.st_mode) and found.st_uid == uid and not found.st_mode & OTHERS_WRITE
    return own and os.access(folder, os.W_OK)


def why_unsafe(folder: Path) -> str:
    """Why others could put a socket of their own in the place of one in a folder; "" where they cannot.

    Raises:
        OSError: It cannot be looked at.
    """
    found = folder.stat()
    if found.st_uid not in (0, os.geteuid()):
        return f"the folder {folder} belongs to uid {found.st_uid}, who could put another socket there"
    if found.st_mode & OTHERS_WRITE and not found.st_mode & stat.S_ISVTX:
        mode = stat.S_IMODE(found.st_mode)
        return f"the folder {folder} has mode {mode:04o}, and others could put a socket there: chmod go-w {folder}"
    return ""


def prepare_folder(path: Path) -> None:
    """See that the folder of a socket is safe; that of a usual place is made.

    Raises:
        OSError: It is not, or cannot be made; says what to do.
    """
    folder = path.parent
    if path in (system_socket(), own_socket()):
        _make(folder, SYSTEM if path == system_socket() else PRIVATE)
    elif folder.is_dir() and (why := why_unsafe(folder)):
        raise OSError(errno.EPERM, f"{why}; or name a folder of yours: --listen unix:/path")


def _make(folder: Path, mode: int) -> None:
    fix = "name another place: --listen unix:/path"
    try:
        with suppress(FileExistsError):
            folder.mkdir(PRIVATE)
            folder.chmod(mode)  # whatever the process's mask says
        found = folder.lstat()
    except OSError as error:
        raise OSError(
            error.errno, f"the folder {folder} cannot be made: {error.strerror}; {_fix(folder, fix)}"
        ) from None
    if not stat.S_ISDIR(found.st_mode):
        raise OSError(errno.ENOTDIR, f"{folder} is a link or a file, and no folder; remove it, or {fix}")
    if why := why_unsafe(folder):
        raise OSError(errno.EPERM, f"{why}; or {fix}")
    if found.st_mode & OTHERS_WRITE:
        raise OSError(errno.EPERM, f"others can write to the folder {folder}: chmod go-w {folder}; or {fix}")


def _fix(folder: Path, fix: str) -> str:
    if folder.parent == RUN and os.geteuid():
        return f"have it made once: sudo install -d -o {os.geteuid()} -m 0755 {folder}; or {fix}"
    return fix
