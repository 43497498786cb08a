"""Where an agent keeps files of models: a folder that no other agent has."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from inferd.errors import InvalidFieldError, words_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOSTED: Final = "hosted"


@contextmanager
def own_folder(data_dir: Path, *, most: int) -> Iterator[Path]:
    """A folder for files of models, this process's alone as long as the block.

    Two agents in one would take files from each other: each counts, and removes, what it does not use itself.

    Args:
        data_dir: Below which it is.
        most: Folders that there may be (`hosts.cache_folders`).

    Raises:
        InvalidFieldError: Other agents have them all, or it cannot be made.
    """
    holders = []
    for number in range(1, most + 1):
        folder = data_dir / (HOSTED if number == 1 else f"{HOSTED}-{number}")
        lock = _opened(folder)
        try:
            if (holder := _holder(lock)) is None:
                yield folder
                return
        finally:
            os.close(lock)
        holders.append(holder)
    raise InvalidFieldError(
        f"another agent (pid {', '.join(holders)}) keeps files of models below {data_dir}, where hosts.cache_folders is"
        f" {most}: end that one, give this one a folder of its own (INFERD_DATA_DIR), or raise that"
        f" (INFERD_HOSTS__CACHE_FOLDERS={most + 1})",
        field="data_dir",
    )


def _opened(folder: Path) -> int:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return os.open(f"{folder}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise InvalidFieldError(
            f"files of models cannot be kept in {folder}: {words_of(error)}; name another data_dir (INFERD_DATA_DIR)",
            field="data_dir",
        ) from None


def _holder(lock: int) -> str | None:
    """Take a lock; None where that was free, else whose it is."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.pread(lock, 20, 0).decode("ascii", "replace").strip() or "unknown"
    with suppress(OSError):  # whose it is, is told only; a full disk does not matter
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return None
