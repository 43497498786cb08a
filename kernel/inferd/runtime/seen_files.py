"""Files that were looked at, and are opened later as what they were then: no link that came meanwhile is followed."""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe in its place holds nobody up
FOLDER_FLAGS = (
    getattr(os, "O_PATH", os.O_RDONLY) | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC
)  # which need not be readable on the way


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenFile:
    """A file as it was when it was looked at.

    Attributes:
        path: As it is named.
        real: Without links.
        mark: Its device, inode, size in bytes, and when it was changed, in nanoseconds.
    """

    path: Path
    real: Path
    mark: tuple[int, int, int, int]


def see(path: Path) -> SeenFile:
    """Look at a file, links on the way to it followed.

    Raises:
        OSError: It is not there, or may not be looked at.
        RuntimeError: Links go in a circle.
    """
    real = path.resolve(strict=True)
    return SeenFile(path=path, real=real, mark=_mark(real.lstat()))


def open_seen(seen: SeenFile) -> BinaryIO:
    """Open a file, folder by folder from the top, so that it lies where it was seen whatever is moved meanwhile.

    Raises:
        OSError: It cannot be opened, or is another one now.
    """

    def opener(_: str, __: int) -> int:
        with ExitStack() as folders:
            folder = os.open(seen.real.anchor, FOLDER_FLAGS)
            folders.callback(os.close, folder)
            for name in seen.real.parts[1:-1]:
                folder = os.open(name, FOLDER_FLAGS, dir_fd=folder)
                folders.callback(os.close, folder)
            return os.open(seen.real.name, FILE_FLAGS, dir_fd=folder)

    opened = open(seen.path, "rb", opener=opener)  # noqa: SIM115 - who asked closes it
    found = os.fstat(opened.fileno())
    if not stat.S_ISREG(found.st_mode) or _mark(found) != seen.mark:
        opened.close()
        raise OSError("it is another file than it was when it was looked at")
    return opened


def _mark(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
