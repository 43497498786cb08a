"""A copy of a store in SQLite while it is used (https://www.sqlite.org/backup.html).

What the store's connection writes meanwhile goes into the copy as well, so the copy never begins anew for that; only a
write that fails on its way has it begin anew.
"""

import time
from pathlib import Path

import apsw

from inferd.store.sqlite_file import unavailable

STEP_PAGES = 32  # between two looks at the clock
CACHE_KIB = 2048


def new_file(path: Path) -> apsw.Connection:
    """A database that is written and then put onto the disk as a whole: nobody reads it before that."""
    database = apsw.Connection(str(path))
    database.execute(
        f"PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
        f" PRAGMA cache_size = -{CACHE_KIB}"
    )
    return database


class SqliteCopy:
    """As `Copy`; as of its end.

    Args:
        source: Of the store.
        store: Its path.
        path: The file, empty.

    Raises:
        StoreUnavailableError: It cannot be begun.
    """

    def __init__(self, source: apsw.Connection, store: Path, path: Path) -> None:
        self._store, self._path = store, path
        self.done_bytes = self.total_bytes = 0
        self._closed = False
        try:
            (self._page_bytes,) = next(source.execute("PRAGMA page_size"))
            self._file = new_file(path)
            self._backup = self._file.backup("main", source, "main")
        except apsw.Error as error:
            raise unavailable(store, error) from None

    def step(self, limit_s: float) -> bool:
        """As `Copy.step`."""
        ends = time.monotonic() + limit_s
        try:
            while not self._backup.step(STEP_PAGES) and time.monotonic() < ends:
                pass
        except (apsw.FullError, apsw.IOError, apsw.ReadOnlyError, apsw.CantOpenError) as error:
            raise unavailable(self._path, error) from None  # the file, or the store, whose next use tells of that
        except apsw.Error as error:
            raise unavailable(self._store, error) from None
        self.total_bytes = self._backup.page_count * self._page_bytes
        self.done_bytes = self.total_bytes - self._backup.remaining * self._page_bytes
        return self._backup.done

    def close(self) -> None:
        """As `Copy.close`."""
        if self._closed:
            return
        self._closed = True
        try:
            self._backup.finish()
            self._file.close()
        except apsw.Error as error:
            self._backup.close(True)
            self._file.close(True)
            raise unavailable(self._path, error) from None
