"""Removing folders whose contents are somebody else's: however deep they are, and whatever their modes."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from itertools import count, islice
from pathlib import Path
from secrets import token_hex
from typing import Final

from inferd.errors import words_of

_AT_ONCE: Final = 1000  # names that are held of a folder, which may have any number
_PATH: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(folder: Path) -> str:
    """Have a folder gone, with what is in it; links are not followed.

    It neither recurses nor goes down: a folder in a folder is moved to the outermost one first, so that depth takes no
    stack, no descriptors and no long paths. Folders are opened to their owner before, who may have closed them.

    Returns:
        Why something of it stays; "" where nothing does.
    """
    try:
        top = _opened(folder)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return words_of(error)
    try:
        names = (f"{token_hex(8)}-{number}" for number in count())
        while _pass(top, top, names):
            pass
    except OSError as error:
        return words_of(error)
    finally:
        os.close(top)
    try:
        folder.rmdir()
    except OSError as error:
        return words_of(error)
    return ""


def _opened(folder: str | Path, *, within: int | None = None) -> int:
    """A descriptor of a folder, which its owner may list and change from now on.

    Raises:
        OSError: It is none, or another's.
    """
    found = os.open(folder, _PATH, dir_fd=within)
    try:
        if not stat.S_ISDIR(os.fstat(found).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
        with suppress(OSError):  # another's: it may be open enough
            os.chmod(f"/proc/self/fd/{found}", stat.S_IRWXU)  # noqa: PTH101 - where modes of O_PATH are changed
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=found)
    finally:
        os.close(found)


def _pass(folder: int, top: int, names: Iterator[str]) -> bool:
    """Take some out of a folder; whether there may be more.

    Raises:
        OSError: One can neither be removed nor moved.
    """
    with os.scandir(folder) as entries:
        some = [(each.name, each.is_dir(follow_symlinks=False)) for each in islice(entries, _AT_ONCE)]
    for name, is_folder in some:
        if not is_folder:
            os.unlink(name, dir_fd=folder)
        elif folder == top:
            _empty(name, top, names)
        else:
            os.close(_opened(name, within=folder))  # it can be moved by who may change it
            os.rename(name, next(names), src_dir_fd=folder, dst_dir_fd=top)
    return bool(some)


def _empty(name: str, top: int, names: Iterator[str]) -> None:
    """Remove a folder in the outermost one; the folders in it come to be there."""
    inner = _opened(name, within=top)
    try:
        while _pass(inner, top, names):
            pass
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=top)
