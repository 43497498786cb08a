"""Files of blobs that grow: the name of each has the mark of the kernel that writes it, and no other kernel writes it.

The folder of blobs may be one that kernels have in common, and one that was stopped writes on when it wakes up, though
another one leads. So who goes on with what another kernel has begun gives it a name of its own first: then no write by
the old name finds it. A write that has the file open already has it locked as well, and a file that is locked is not
taken up: the blob begins anew.
"""

import fcntl
import glob
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from errno import ENOENT
from pathlib import Path

from inferd.store.blob_errors import PARTIAL
from inferd.store.file_work import opened_file

AGAIN = "what grew is gone; give it again"


def own_part(path: Path, mark: str) -> Path:
    """Where a blob grows that is there when it is whole, for the kernel of this mark."""
    return path.with_name(f"{path.name}.{mark}{PARTIAL}")


def parts_of(path: Path) -> list[Path]:
    """All files in which a blob grows or grew that is there when it is whole, the largest first."""
    found = []
    for part in path.parent.glob(f"{glob.escape(path.name)}.*"):
        if part.suffix == PARTIAL:
            with suppress(FileNotFoundError):
                found.append((part.stat(follow_symlinks=False).st_size, part))
    return [part for _, part in sorted(found, reverse=True)]


def take(paths: Iterable[Path], mark: str) -> None:
    """Have what there is of a blob be this kernel's: whole, as its row does not say so, else the largest that grew.

    Args:
        paths: Where it may be when it is whole.
        mark: Of this kernel, which goes on with what it has itself, if anything.
    """
    bases = [*paths]
    if any(own_part(path, mark).exists() for path in bases):
        return
    for base in bases:
        if any(_taken(found, own_part(base, mark)) for found in (base, *parts_of(base))):
            return


def _taken(found: Path, own: Path) -> bool:
    """Give a file this kernel's name; whether it was there, and nobody writes it."""
    with suppress(FileNotFoundError), opened_file(found, os.O_RDWR) as file, _locked(file) as is_free:
        if is_free:
            found.rename(own)
        return is_free
    return False


@contextmanager
def writing(path: Path, *, begins: bool = False) -> Iterator[int]:
    """A file that grows and is this kernel's, to be written in the block.

    Raises:
        FileNotFoundError: It is not, or another kernel has taken it.
    """
    flags = os.O_RDWR | (os.O_CREAT | os.O_TRUNC if begins else 0)
    with opened_file(path, flags) as file, _locked(file) as is_free:
        if not is_free or not os.path.samestat(os.fstat(file), path.stat(follow_symlinks=False)):
            raise FileNotFoundError(ENOENT, AGAIN, str(path))
        yield file


@contextmanager
def _locked(file: int) -> Iterator[bool]:
    """Lock an open file as long as the block, if nobody else has; whether that is so."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
        return
    except OSError:  # a file system without locks: names are all there is
        yield True
        return
    try:
        yield True
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)  # also where a process that was forked meanwhile has it open
