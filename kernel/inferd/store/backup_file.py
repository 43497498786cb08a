"""The file of a backup on the disk of its host: there as a whole, or not at all, and never in another file's place."""

import errno
import fcntl
import os
import stat
from contextlib import suppress
from pathlib import Path

import apsw

from inferd.errors import InvalidFieldError, StoreUnavailableError
from inferd.store.header import Owner, owner_of
from inferd.store.sqlite_file import BACKUP, sync, unavailable

OF_SQLITE = ("-wal", "-shm", "-journal", "/")
NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}


class BackupFile:
    """A backup on its way to its place; what is not finished is removed when it is closed.

    Args:
        path: Where it is to be.
        replaces: Whether an older backup there is to give way.

    Attributes:
        path: Where it will be.
        partial: Where it is until then, beside that.

    Raises:
        InvalidFieldError: It may not be there.
        StoreUnavailableError: It cannot be made, or another one is on its way to the same place.
    """

    def __init__(self, path: str, *, replaces: bool) -> None:
        if not Path(path).is_absolute() or "\0" in path:
            raise InvalidFieldError(f"path is {path!r}; it must be an absolute path of a file", field="path")
        if path.endswith(OF_SQLITE):
            raise InvalidFieldError(
                f"path is {path!r}; files whose names end with {', '.join(OF_SQLITE)} belong to others", field="path"
            )
        self.path, self._replaces = Path(path), replaces
        self.partial = self.path.with_name(f".{self.path.name}.inferd-partial")
        self._descriptor = -1
        try:
            self._check_place()
            self._descriptor = self._claim()
        except OSError as error:
            raise self._failed(error) from None

    def _check_place(self) -> None:
        """Nothing is there, or what may give way.

        Raises:
            InvalidFieldError: Another file is.
        """
        if not self.path.parent.is_dir():
            raise InvalidFieldError(f"path is {str(self.path)!r} and its folder is not there", field="path")
        if not os.path.lexists(self.path):
            return
        if not self._replaces:
            raise InvalidFieldError(
                f"path is {str(self.path)!r} and there is a file already; name another one, or let a backup"
                " there be replaced: --replace",
                field="path",
            )
        if self.path.is_symlink() or owner_of(self.path, BACKUP) is not Owner.OURS:
            raise InvalidFieldError(
                f"path is {str(self.path)!r} and the file there is no backup; only a backup is replaced", field="path"
            )

    def _claim(self) -> int:
        """The descriptor of the file beside, which is this one's alone; one that a dead process left is taken over."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(self.partial, flags, 0o600)
        try:
            self._check_mine(os.fstat(descriptor))
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.fchmod(descriptor, 0o600)
        except BlockingIOError:
            os.close(descriptor)
            raise StoreUnavailableError(
                f"another backup is on its way to {self.path}", metadata={"cause": "in use"}, retry_after_s=1.0
            ) from None
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _check_mine(self, found: os.stat_result) -> None:
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or found.st_uid != os.geteuid():
            raise InvalidFieldError(f"{self.partial} is in the way of a backup; remove it", field="path")

    def flush(self) -> None:
        """Have what is there by now on the disk, so that little is left at the end, and others wait for little."""
        os.fdatasync(self._descriptor)

    def finish(self, made: float) -> int:
        """The file is complete: mark it, and put it onto the disk and into its place. Its size in bytes.

        Args:
            made: When, as Unix time.

        Raises:
            InvalidFieldError: Another file has come to be there.
            StoreUnavailableError: It cannot be.
        """
        try:
            seal(self.partial, made)
            size_bytes = self.partial.stat().st_size
            sync(self.partial)
            self._check_place()
            if self._replaces:
                self.partial.replace(self.path)
            else:
                self._place()
            sync(self.path.parent)
        except FileExistsError:
            raise InvalidFieldError(
                f"path is {str(self.path)!r} and another file came to be there", field="path"
            ) from None
        except OSError as error:
            raise self._failed(error) from None
        return size_bytes

    def _place(self) -> None:
        try:
            os.link(self.partial, self.path, follow_symlinks=False)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            self.partial.rename(self.path)  # this file system has no links: that none is there was looked at before
        else:
            self.partial.unlink()

    def close(self) -> None:
        """Remove what is not finished; again changes nothing."""
        if self._descriptor < 0:
            return
        with suppress(OSError):
            if os.path.samestat(self.partial.lstat(), os.fstat(self._descriptor)):
                self.partial.unlink()
        os.close(self._descriptor)
        self._descriptor = -1

    def _failed(self, error: OSError) -> StoreUnavailableError:
        return StoreUnavailableError(
            f"the backup {self.path} cannot be written: {error.strerror}", metadata={"cause": str(error.strerror)}
        )


def seal(path: Path, made: float) -> None:
    """Make of a copy a backup: one file without a WAL, marked so that no kernel takes it for a store.

    Raises:
        StoreUnavailableError: It cannot be written.
    """
    try:
        database = apsw.Connection(str(path))
        try:
            database.execute("PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = DELETE; PRAGMA synchronous = OFF")
            with database:
                database.execute("CREATE TABLE backup (made REAL NOT NULL)")
                database.execute("INSERT INTO backup VALUES (?)", (made,))
                database.execute(f"PRAGMA application_id = {BACKUP}")
        finally:
            database.close()
    except apsw.Error as error:
        raise unavailable(path, error) from None
