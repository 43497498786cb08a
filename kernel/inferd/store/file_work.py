"""Files of the kernel's own, opened for its user alone and brought to the disk."""

import fcntl
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


def put_in_place_of(file: int, growing: Path, path: Path) -> bool:
    """As `put_in_place`, if what is there is still the file of this descriptor; whether it was.

    As long as the descriptor is open nobody else takes its place so, however late this process goes on.

    Raises:
        BlockingIOError: Another one is about to.
    """
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        there = path.lstat()
    except FileNotFoundError:
        return False
    if not os.path.samestat(os.fstat(file), there):
        return False
    put_in_place(growing, path)
    return True


def put_in_place(growing: Path, path: Path) -> None:
    """Have a file that is whole be there under another name, on the disk; whatever cuts this off, one of both is."""
    sync_file(growing)
    growing.rename(path)
    sync_file(path.parent)
