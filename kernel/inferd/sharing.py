"""Who may use the sockets of a kernel: its user alone, or others, too, who then have to say who they are."""

import errno
import grp
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from inferd.errors import InvalidFieldError

OTHERS: Final = 0o077
GROUP: Final = 0o060


@dataclass(frozen=True, slots=True)
class Sharing:
    """Who may use a socket.

    Attributes:
        mode: Its permissions.
        group: The name of a group that may use it; "" for none but that of the process.
        gid: Its number; -1 for none.
    """

    mode: int
    group: str = ""
    gid: int = -1

    @property
    def is_shared(self) -> bool:
        """Whether others than the kernel's user may: then that somebody has come by it does not say who."""
        return bool(self.mode & OTHERS)

    def check_way(self, path: Path) -> None:
        """Refuse a socket that its group cannot reach.

        Raises:
            OSError: A folder above it lets them not through.
        """
        if not self.group:
            return
        for folder in path.resolve().parents:
            found = folder.stat()
            if not found.st_mode & (stat.S_IXOTH | (stat.S_IXGRP if found.st_gid == self.gid else 0)):
                mode = stat.S_IMODE(found.st_mode)
                why = f"group {self.group} cannot enter the folder {folder} (mode {mode:04o})"
                raise OSError(errno.EACCES, f"{why}; name another place: --listen unix:/path, or chmod o+x {folder}")

    def give(self, path: Path) -> None:
        """Open a socket of this process's user to whom it is for.

        Raises:
            OSError: It may not be given to the group.
        """
        if self.gid >= 0:
            try:
                os.chown(path, -1, self.gid)
            except PermissionError as error:
                raise OSError(
                    error.errno,
                    f"you are not in group {self.group}, so that you cannot give it a socket: sudo usermod -aG "
                    f"{self.group} $USER and log in again, or have root run the kernel",
                ) from None
        path.chmod(self.mode)


def sharing_of(mode: str, group: str) -> Sharing:
    """Who may use sockets, as it is configured.

    Args:
        mode: Permissions, octal.
        group: The name of a group; "" for none.

    Raises:
        InvalidFieldError: There is no such group.
    """
    if not group:
        return Sharing(int(mode, 8))
    try:
        gid = grp.getgrnam(group).gr_gid
    except KeyError:
        message = f"socket_group is {group!r}, and this host has no such group; make it: sudo groupadd {group}"
        raise InvalidFieldError(message, field="socket_group") from None
    return Sharing(int(mode, 8) | GROUP, group, gid)
