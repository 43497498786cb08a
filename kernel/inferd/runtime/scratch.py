"""Where workers may write: a folder for each, which goes with it."""

import logging
import os
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from inferd.errors import words_of
from inferd.removing import remove_tree

VARIABLE: Final = "TMPDIR"
"""By which a worker is told where its own is."""

BLOCK_BYTES: Final = 512  # of `st_blocks`, whatever the file system's are
_ENDING: Final = ".scratch"
_log = logging.getLogger(__name__)


def make_scratch(parent: Path) -> Path:
    """A new folder, of this process alone.

    Raises:
        OSError: It cannot be made.
    """
    return Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", suffix=_ENDING, dir=parent))


def remove_scratch(folder: Path) -> threading.Thread:
    """Have it gone, with what is in it; links are not followed.

    Nobody waits for the thread that does it: a worker may leave very many files. What stays, the next kernel sweeps.
    """
    thread = threading.Thread(target=_remove, args=(folder,), name="scratch", daemon=True)
    thread.start()
    return thread


def sweep_scratch(parent: Path) -> None:
    """Remove what kernels left that died."""
    with suppress(OSError):
        for folder in parent.glob(f"[0-9]*-*{_ENDING}"):
            pid = folder.name.partition("-")[0]
            if pid.isdigit() and not Path(f"/proc/{pid}").exists():
                remove_scratch(folder)


@dataclass(frozen=True, slots=True)
class Watched:
    """What a worker has written, and how much that may be.

    Attributes:
        folder: Its scratch.
        log: Its log.
        most_bytes: Of both, as they take of the disk.
        most_files: Files and folders in the scratch.
    """

    folder: Path
    log: Path
    most_bytes: int
    most_files: int

    def excess(self) -> str:
        """Why it is too much, as a clause; "" where it is not. No link is followed.

        What somebody has closed to the kernel, or put too deep for it, is too much: nobody knows how much it is.
        """
        try:
            size_bytes, files = self._sum()
        except OSError as error:
            return f"it has put something into its scratch that the kernel cannot look into: {words_of(error)}"
        if files > self.most_files:
            return f"it has more than {self.most_files} files and folders in its scratch (workers.scratch_files)"
        if size_bytes > self.most_bytes:
            return (
                f"it has written {size_bytes} bytes or more to its scratch and its log, and may write {self.most_bytes}"
                " (workers.scratch_bytes)"
            )
        return ""

    def _sum(self) -> tuple[int, int]:
        """Bytes of the disk, and files; no more of them are counted than are too many."""
        size_bytes, files, left = 0, 0, [self.folder]
        with suppress(FileNotFoundError):
            size_bytes += self.log.stat().st_blocks * BLOCK_BYTES
        while left and files <= self.most_files and size_bytes <= self.most_bytes:
            with suppress(FileNotFoundError), os.scandir(left.pop()) as entries:  # it may go meanwhile
                for entry in islice(entries, self.most_files + 1):
                    files += 1
                    with suppress(FileNotFoundError):
                        size_bytes += entry.stat(follow_symlinks=False).st_blocks * BLOCK_BYTES
                    if entry.is_dir(follow_symlinks=False):
                        left.append(Path(entry.path))
        return size_bytes, files


def _remove(folder: Path) -> None:
    try:
        left = remove_tree(folder)
    except Exception:  # noqa: BLE001 - a worker's remains end no kernel, whatever they are
        _log.exception("the scratch of a worker stays: %s", folder)
        return
    if left:
        _log.warning("the scratch of a worker stays: %s: %s", folder, left)
