"""The logs of workers: what they hold, and which of them may go."""

import asyncio
import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from inferd.plugin.child import FATAL, last_frame

LOGS_KEPT = 100  # of workers that have ended
TAIL_BYTES = 64 << 10


async def new_log(path: Path) -> BinaryIO:
    """A new log as `open_log` makes it; old ones beside it go. The event loop waits for no disk meanwhile.

    Raises:
        OSError: It cannot be written.
    """
    opening = asyncio.get_running_loop().run_in_executor(None, _renew, path)
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:  # nobody else closes it
        opening.add_done_callback(_close)
        raise


def _renew(path: Path) -> BinaryIO:
    prune_logs(path.parent, keep=LOGS_KEPT - 1)
    return open_log(path)


def _close(opening: asyncio.Future[BinaryIO]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


def open_log(path: Path) -> BinaryIO:
    """A new log, locked for as long as anybody who inherits it lives: the lock belongs to the open file, see flock(2).

    Raises:
        OSError: It cannot be written.
    """
    log = path.open("wb")
    with suppress(OSError):  # a file system without locks: then its age alone decides
        fcntl.flock(log, fcntl.LOCK_SH)
    return log


def prune_logs(folder: Path, *, keep: int) -> None:
    """Remove all but the last `keep` logs of workers that have ended, of any kernel; those of living ones stay."""
    with suppress(FileNotFoundError):  # another kernel with the same folder was quicker
        logs = sorted(folder.glob("*.log"), key=lambda path: path.stat().st_mtime)
        if len(logs) <= keep:
            return
        ended = [path for path in logs if not _in_use(path)]
        for path in ended[: max(0, len(ended) - keep)]:
            path.unlink()


def _in_use(path: Path) -> bool:
    with path.open("rb") as log:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False


def read_part(path: Path, offset_bytes: int, most_bytes: int) -> tuple[bytes, int]:
    """A part of a log, and how large that is; an offset below 0 is before its end.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as log:
        size_bytes = log.seek(0, os.SEEK_END)
        log.seek(max(0, size_bytes + offset_bytes) if offset_bytes < 0 else min(offset_bytes, size_bytes))
        return log.read(most_bytes), size_bytes


def last_words(log_path: Path) -> str:
    """What a worker said last, or where a signal ended it, as a clause behind why it ended; "" when it said nothing."""
    try:
        with log_path.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL_BYTES))
            text = log.read().decode(errors="replace").strip()
    except OSError:
        return ""
    if frame := last_frame(text):
        return f"; it was at {frame}"
    _, fatal, trace = text.rpartition(FATAL)
    lines = (fatal + trace).splitlines()
    return f"; the last line of its log: {lines[0 if fatal else -1].strip()}" if lines else ""
