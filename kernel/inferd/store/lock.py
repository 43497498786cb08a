"""One process at a time has a store."""

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from inferd.errors import StoreUnavailableError


class StoreLock:
    """A lock on a file beside the store; the system lets go of it when its process ends, however it ends.

    Who only `reads` makes no such file, and shares it with others who do.

    Raises:
        StoreUnavailableError: Another process has it, or the file cannot be made.
    """

    def __init__(self, path: Path, *, reads: bool = False) -> None:
        self._file = -1
        if reads and not path.exists():
            return
        try:
            if reads:
                self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            else:
                self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreUnavailableError(
                f"the store's lock {path} cannot be opened: {error.strerror}", metadata={"cause": str(error.strerror)}
            ) from None
        try:
            fcntl.flock(self._file, (fcntl.LOCK_SH if reads else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._file, 32, 0).decode("ascii", "replace").strip() or "another process"
            os.close(self._file)
            raise StoreUnavailableError(
                f"the store {path.with_suffix('')} is in use by process {holder}; one kernel at a time has it: end that"
                " one, or name another store.url",
                metadata={"cause": "in use", "pid": holder},
            ) from None
        if reads:
            return
        with suppress(OSError):  # whose it is, is told only; a full disk does not matter
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let another process have it; again changes nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
