"""Whose a file is, by its header (https://www.sqlite.org/fileformat.html), read before anything is done to it."""

import stat
from enum import Enum, auto
from pathlib import Path

MAGIC = b"SQLite format 3\0"
HEADER_BYTES = 100
MARK = slice(68, 72)


class Owner(Enum):
    """Whose a file is."""

    NOBODY = auto()  # there is none, or it is empty
    OURS = auto()
    UNMARKED = auto()  # a database without a mark: ours, where a kernel was killed before it was written
    FOREIGN = auto()  # a database of another program
    UNKNOWN = auto()  # no database: something else, or a destroyed one


def owner_of(path: Path, mark: int) -> Owner:
    """Whose a file is; `mark` is that of ours. Nothing is written, nor waited for.

    Raises:
        OSError: It cannot be read.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        return Owner.NOBODY
    if not stat.S_ISREG(found.st_mode):
        return Owner.FOREIGN
    with path.open("rb") as file:
        header = file.read(HEADER_BYTES)
    if not header:
        return Owner.NOBODY
    if not header.startswith(MAGIC) or len(header) < HEADER_BYTES:
        return Owner.UNKNOWN
    written = int.from_bytes(header[MARK])
    return Owner.OURS if written == mark else Owner.FOREIGN if written else Owner.UNMARKED
