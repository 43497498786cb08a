"""Files of the kernel's own, opened for its user alone and brought to the disk."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def opened_file(path: Path, flags: int) -> Iterator[int]:
    """The descriptor of a file as long as the block; no link is followed, and what is made has mode 0600."""
    file = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        yield file
    finally:
        os.close(file)


def sync_file(path: Path) -> None:
    """Have a file or a folder be on the disk."""
    with opened_file(path, os.O_RDONLY) as file:
        os.fsync(file)


def put_in_place(growing: Path, path: Path) -> None:
    """Have a file that is whole be there under another name, on the disk; whatever cuts this off, one of both is."""
    sync_file(growing)
    growing.rename(path)
    sync_file(path.parent)
