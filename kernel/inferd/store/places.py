"""Whether the files that a store writes are those that the next one finds by their names."""

from contextlib import suppress
from pathlib import Path

from inferd.errors import StoreUnavailableError


class Places:
    """The file of a store and its WAL: the file as it was opened, the WAL as it was first seen.

    A file that is open can be written though its name is gone, and then goes with the process.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files = {path: _file_of(path)}

    def check(self) -> None:
        """Look behind a write whether it can be found again.

        Raises:
            StoreUnavailableError: It cannot.
        """
        for path in (self._path, self._path.with_name(self._path.name + "-wal")):
            found = _file_of(path)
            if found is None or self._files.setdefault(path, found) != found:
                what = "was removed" if found is None else "is another file by now"
                raise StoreUnavailableError(
                    f"the store {self._path}: {path.name} {what}, while the kernel has it open: what is written would"
                    " not be found again; bring it back, or start the kernel again with an empty store",
                    metadata={"cause": "removed" if found is None else "replaced", "file": str(path)},
                    retry_after_s=1.0,
                )


def _file_of(path: Path) -> tuple[int, int] | None:
    with suppress(FileNotFoundError, NotADirectoryError):
        found = path.stat()
        return found.st_dev, found.st_ino
    return None
