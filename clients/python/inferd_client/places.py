"""Where kernels are looked for that no address names: the sockets of this user, then that of the host.

A folder that somebody else could write to is passed over, so that nobody is given a call, or a credential, who is not
the user or the administrator of this host. `inferd.places` is where kernels listen; a test holds both to the same.
"""

from __future__ import annotations

import errno
import grp
import os
import socket
import stat
from pathlib import Path
from typing import Final

FOLDER, NAME = "inferd", "inferd.sock"
RUN, USERS, SHARED = Path("/run"), Path("/run/user"), Path("/tmp")  # noqa: S108 - looked at before use # nosec B108
OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
UNIX: Final = "unix:"
LISTENS: Final = ""
BUSY: Final = (errno.EAGAIN, errno.EINPROGRESS)  # of a socket whose backlog is full


def sockets() -> list[Path]:
    """Where kernels are looked for, in order; the first one is where this user's would listen."""
    uid, named = os.geteuid(), os.environ.get("XDG_RUNTIME_DIR", "")
    usual = RUN if uid == 0 else USERS / str(uid)
    folders = [each / FOLDER for each in (Path(named), usual) if each.is_absolute() and _is_own(each, uid)]
    folders += [SHARED / f"{FOLDER}-{uid}", RUN / FOLDER]
    return [folder / NAME for folder in dict.fromkeys(folders)]


def path_of(address: str) -> Path | None:
    """The file of an address that is a socket's; None for others."""
    return Path(address.removeprefix(UNIX).removeprefix("//")) if address.startswith(UNIX) else None


def find_address() -> str:
    """The address of the first usual place where a kernel listens; where none does, of the first one of all."""
    places = sockets()
    return UNIX + str(next((path for path in places if look(path) == LISTENS), places[0]))


def look(path: Path) -> str:
    """Why no kernel can be reached at a usual place; "" where one listens."""
    try:
        if passed_over := _why_unsafe(path.parent):
            return f"passed over: {passed_over}"
        with socket.socket(socket.AF_UNIX) as asked:
            asked.setblocking(False)
            asked.connect(str(path))
    except FileNotFoundError:
        return "there is no such socket"
    except ConnectionRefusedError:
        return "its kernel has ended"
    except PermissionError:
        return why_denied(path)
    except OSError as error:
        return LISTENS if error.errno in BUSY else os.strerror(error.errno or 0)
    return LISTENS


def _why_unsafe(folder: Path) -> str:
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_mode & OTHERS_WRITE:
        return "others can write to its folder"
    by_root = folder.parent == RUN and _is_own(RUN, 0)  # who has a folder there was given it
    if found.st_uid not in (0, os.geteuid()) and not by_root:
        return f"its folder belongs to uid {found.st_uid}"
    return ""


def why_denied(path: Path) -> str:
    """Why a socket may not be used by this user, and who can change that."""
    try:
        found = path.stat()
    except OSError:
        return f"you may not enter its folder {path.parent}; ask its owner for a socket that your group may use"
    if not found.st_mode & stat.S_IWGRP:
        return f"it is uid {found.st_uid}'s alone; ask for one that your group may use (inferd serve --socket-group)"
    try:
        group = grp.getgrgid(found.st_gid).gr_name
    except KeyError:
        group = str(found.st_gid)
    return f"it is for group {group}: sudo usermod -aG {group} $USER, then log in again"


def _is_own(folder: Path, uid: int) -> bool:
    try:
        found = folder.stat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == uid and not found.st_mode & OTHERS_WRITE
