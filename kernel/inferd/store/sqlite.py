"""A store in one file, by SQLite (https://www.sqlite.org): WAL, `synchronous=FULL`, one connection.

The connection has the file to itself (`locking_mode=EXCLUSIVE`): by whatever name another comes to it, it is refused.

The library comes with its wheel: versions before 3.51.3 can damage a file in WAL mode
(https://www.sqlite.org/wal.html#walresetbug), and systems have such.
"""

import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import apsw
import structlog

from inferd.errors import StoreUnavailableError
from inferd.store.codec import Codec, PlainCodec
from inferd.store.header import Owner, owner_of
from inferd.store.lock import StoreLock
from inferd.store.store import Append, Damaged, DamagedError, Drop, Kind, OldSchemaError, Put, Record, Write
from inferd.store.values import place_of as _place
from inferd.store.values import read_value

LEAST_VERSION = (3, 51, 3)
APPLICATION = 0x1F_E2_D0_01  # marks the file as ours
MIGRATIONS = (
    # 1
    """
    CREATE TABLE records (
      tenant TEXT NOT NULL, kind TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL,
      PRIMARY KEY (kind, tenant, key)
    );
    CREATE TABLE pieces (
      tenant TEXT NOT NULL, kind TEXT NOT NULL, key TEXT NOT NULL, number INTEGER NOT NULL, value BLOB NOT NULL,
      PRIMARY KEY (kind, tenant, key, number)
    );
    """,
)
"""What brings a file from each version of its schema to the next one; the version is how many were done."""
BEFORE_COMMIT, AFTER_COMMIT = "before commit", "after commit"
FAMILY = ("", "-wal", "-shm")
CACHE_KIB = 8192
CHECK_S = 0.5  # most that an opening looks for damage: beyond that it is found where it is read
CHECK_STEPS = 1000  # pages between two looks at the clock
NAMES, VALUE = "CAST(tenant AS BLOB), CAST(key AS BLOB)", "CAST(ifnull(value, '') AS BLOB)"  # of damaged rows, too
DAMAGED = (apsw.CorruptError, apsw.NotADBError, ValueError)

log = structlog.get_logger()


def _nothing(_: str) -> None:
    """At no point anything is done."""


class SqliteStore:
    """As `Store`. A file that is damaged when it is opened is set aside, with a note that says why.

    Only a file that was ours is: by its mark, or, where its header is destroyed, by the lock file beside it. One of
    another program is refused, and neither it nor its folder is written.

    Args:
        path: The file; made where there is none.
        codec: Writes and reads values.
        mends: Whether a damaged file is set aside; else it is refused.
        migrates: Whether a file with an older schema is copied, and then brought up; else it is refused.
        at_point: Told where a write is, for tests.

    Raises:
        StoreUnavailableError: It cannot be opened, another process has it, a newer kernel has written it, or it is
            another program's.
    """

    def __init__(
        self,
        path: Path,
        *,
        codec: Codec | None = None,
        mends: bool = True,
        migrates: bool = True,
        at_point: Callable[[str], None] = _nothing,
    ) -> None:
        check_library(apsw.sqlite_lib_version())
        path = self._path = Path(os.path.realpath(path))  # the lock and the WAL stand beside the file itself
        self.name, self.schema = str(path), len(MIGRATIONS)
        self._codec: Codec = PlainCodec() if codec is None else codec
        self._at_point = at_point
        lock = path.with_name(path.name + ".lock")
        try:
            _check_owner(path, lock)  # before anything is written or made
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not path.exists():
                path.touch(mode=0o600)  # what SQLite makes beside it has the same permissions
        except OSError as error:
            raise StoreUnavailableError(
                f"the store {path} cannot be made or read: {error.strerror}",
                metadata={"cause": str(error.strerror)},
            ) from None
        _check_names(path)
        self._lock = StoreLock(lock)
        try:
            try:
                self._database, self.opened_schema = _open(path, migrates=migrates)
            except DAMAGED as error:
                if not mends:
                    raise
                set_aside(path, str(error))
                self._database, self.opened_schema = _open(path, migrates=migrates)
            _suspect(path).unlink(missing_ok=True)  # it was looked through
        except (apsw.Error, ValueError) as error:
            self._lock.release()
            raise _unavailable(path, error) from None
        except BaseException:
            self._lock.release()
            raise

    def write(self, writes: Iterable[Write]) -> None:
        """As `Store.write`."""
        database = self._database
        try:
            database.execute("BEGIN IMMEDIATE")
            try:
                for each in writes:
                    self._write(database, each)
                self._at_point(BEFORE_COMMIT)
                database.execute("COMMIT")
            except BaseException:
                if database.in_transaction:  # SQLite has ended it by itself after some errors
                    with suppress(apsw.Error):
                        database.execute("ROLLBACK")
                raise
        except apsw.Error as error:
            raise _unavailable(self._path, error) from None
        self._at_point(AFTER_COMMIT)

    def _write(self, database: Any, write: Write) -> None:
        tenant, kind, key = write.tenant, write.kind.value, write.key
        match write:
            case Put():
                value = self._codec.write(_place(tenant, kind, key), write.value)
                database.execute("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?)", (tenant, kind, key, value))
            case Append(number=number):
                value = self._codec.write(_place(tenant, kind, key, number), write.value)
                database.execute(
                    "INSERT OR REPLACE INTO pieces VALUES (?, ?, ?, ?, ?)", (tenant, kind, key, number, value)
                )
            case Drop():
                for table in ("records", "pieces"):
                    database.execute(
                        f"DELETE FROM {table} WHERE kind = ? AND tenant = ? AND key = ?",  # noqa: S608 - ours
                        (kind, tenant, key),
                    )

    def records(self, kind: Kind, damaged: Damaged | None = None) -> Iterator[Record]:
        """As `Store.records`."""
        query = f"SELECT {NAMES}, {VALUE} FROM records WHERE kind = ? ORDER BY tenant, key"  # noqa: S608 - ours
        for *names, value in self._read(query, (kind.value,)):
            tenant, key = map(_text, names)
            try:
                read = self._value(_place(tenant, kind.value, key), value)
            except DamagedError as error:
                if damaged is None:
                    raise
                damaged(tenant, key, error)
            else:
                yield Record(tenant, key, read)

    def pieces(self, tenant: str, kind: Kind, key: str, *, after: int = -1) -> Iterator[bytes]:
        """As `Store.pieces`."""
        where = "kind = ? AND tenant = ? AND key = ? AND number > ?"
        rows = self._read(
            f"SELECT number, {VALUE} FROM pieces WHERE {where} ORDER BY number",  # noqa: S608 - ours
            (kind.value, tenant, key, after),
        )
        with closing(rows):  # whoever has enough leaves no statement open
            for number, value in rows:
                yield self._value(_place(tenant, kind.value, key, number), value)

    def _read(self, query: str, values: tuple[Any, ...] = ()) -> Generator[Any, None, None]:
        try:
            yield from self._database.execute(query, values)
        except apsw.Error as error:
            raise _unavailable(self._path, error) from None

    def _value(self, place: bytes, written: bytes) -> bytes:
        return read_value(self._codec, self.name, place, written)

    def kept(self) -> Iterator[Put | Append]:
        """As `Store.kept`."""
        rows = self._read(f"SELECT {NAMES}, kind, {VALUE} FROM records ORDER BY kind, tenant, key")  # noqa: S608 - ours
        for *names, kind, value in rows:
            tenant, key = map(_text, names)
            yield Put(tenant, Kind(kind), key, self._value(_place(tenant, kind, key), value))
        rows = self._read(f"SELECT {NAMES}, kind, number, {VALUE} FROM pieces ORDER BY kind, tenant, key, number")  # noqa: S608 - ours
        for *names, kind, number, value in rows:
            tenant, key = map(_text, names)
            yield Append(tenant, Kind(kind), key, number, self._value(_place(tenant, kind, key, number), value))

    def check(self) -> list[str]:
        """As `Store.check`."""
        wrong = [str(row[0]) for row in self._read("PRAGMA integrity_check(100)") if row[0] != "ok"]
        names, kind = NAMES, "CAST(kind AS BLOB)"
        rows = [
            *self._read(f"SELECT {names}, {kind}, {VALUE} FROM records"),  # noqa: S608 - ours
            *self._read(f"SELECT {names}, {kind}, number, {VALUE} FROM pieces"),  # noqa: S608 - ours
        ]
        values = [(_place(_text(t), _text(k), _text(key), *number), value) for t, key, k, *number, value in rows]
        for place, value in values:
            try:
                self._codec.read(place, value)
            except ValueError as error:
                wrong.append(f"{place.decode(errors='replace')!r}: {error}")
        return wrong

    def compact(self) -> None:
        """As `Store.compact`."""
        for _ in (*self._read("VACUUM"), *self._read("PRAGMA wal_checkpoint(TRUNCATE)")):
            pass

    def size_bytes(self) -> int:
        """As `Store.size_bytes`."""
        paths = [self._path.with_name(self._path.name + ending) for ending in FAMILY]
        return sum(path.stat().st_size for path in paths if path.exists())

    def close(self) -> None:
        """As `Store.close`."""
        with suppress(apsw.Error):  # what was committed is on the disk
            self._database.close()
        self._lock.release()


def check_library(version: str) -> None:
    """Refuse a library that can damage files.

    Raises:
        StoreUnavailableError: It is older than 3.51.3.
    """
    if tuple(int(part) for part in version.split(".")[:3]) < LEAST_VERSION:
        least = ".".join(map(str, LEAST_VERSION))
        raise StoreUnavailableError(
            f"SQLite {version} can damage a store and {least} is the first that cannot; install a newer apsw",
            metadata={"cause": f"SQLite {version}"},
        )


def _check_owner(path: Path, lock: Path) -> None:
    """Refuse what is not ours.

    Raises:
        StoreUnavailableError: It is another program's, or may be.
        OSError: It cannot be read.
    """
    owner = owner_of(path, APPLICATION)
    if owner is Owner.FOREIGN:
        raise _foreign(path, "it is a database of another program, or no file")
    if owner in {Owner.UNMARKED, Owner.UNKNOWN} and not lock.exists():  # a kernel that had it has left its lock
        raise _foreign(
            path, "it is a database of another program" if owner is Owner.UNMARKED else "it is no database of a kernel"
        )


def _foreign(path: Path, what: str) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"the store {path}: {what}; it is left alone: name another store.url", metadata={"cause": "not a store"}
    )


def _check_names(path: Path) -> None:
    """Refuse a file with several names: each would have a WAL of its own.

    Raises:
        StoreUnavailableError: It has hard links.
    """
    if (names := path.stat().st_nlink) > 1:
        raise StoreUnavailableError(
            f"the store {path} has {names} names (hard links) and may have 1: what was written by one is not seen by"
            " another; remove the others, or name another store.url",
            metadata={"cause": "hard links", "names": str(names)},
        )


def set_aside(path: Path, why: str) -> Path:
    """Rename a damaged file and what belongs to it; a note beside says why. Where it is now."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    for count in range(1000):
        aside = path.with_name(f"{path.name}.damaged-{stamp}{f'-{count}' if count else ''}")
        if not aside.exists():
            break
    for ending in FAMILY:
        with suppress(FileNotFoundError):
            path.with_name(path.name + ending).rename(aside.with_name(aside.name + ending))
    aside.with_name(aside.name + ".txt").write_text(f"{why}\n", encoding="utf-8")
    log.error("the store was damaged and set aside: what it held is not known to this kernel", path=str(aside), why=why)
    return aside


def _open(path: Path, *, migrates: bool) -> tuple[Any, int]:
    """The database, migrated, and the schema that it had.

    Raises:
        apsw.Error: It cannot be opened, or is damaged.
        ValueError: It is damaged.
        OldSchemaError: An older kernel has written it, and it is to stay so.
        StoreUnavailableError: A newer kernel has written it, or another program.
    """
    database = apsw.Connection(str(path))
    try:
        database.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        database.execute("PRAGMA locking_mode = EXCLUSIVE; PRAGMA synchronous = FULL")
        version = _version(database, path)
        if 0 < version < len(MIGRATIONS):
            _prepare(database, path, version, migrates=migrates)
        if version == 0:  # marked in the file itself, before there is a WAL
            database.execute(f"PRAGMA application_id = {APPLICATION}")
        database.execute("PRAGMA journal_mode = WAL")
        with database:
            for number, statements in enumerate(MIGRATIONS[version:], start=version + 1):
                database.execute(f"{statements}; PRAGMA user_version = {number}")
    except BaseException:
        database.close()
        raise
    return database, version


def backup_of(path: Path, schema: int) -> Path:
    """The copy that is made of a file before its schema becomes a newer one."""
    return path.with_name(f"{path.name}.schema-{schema}")


def _prepare(database: Any, path: Path, version: int, *, migrates: bool) -> None:
    """Copy what is to be migrated, onto the disk; a copy that is there already is of a migration that was cut off.

    Raises:
        OldSchemaError: It is not to be.
    """
    if not migrates:
        raise OldSchemaError.of(str(path), version, len(MIGRATIONS))
    copy = backup_of(path, version)
    copy.unlink(missing_ok=True)
    copy.touch(mode=0o600)
    database.execute("VACUUM INTO ?", (str(copy),))
    for each, flags in ((copy, os.O_RDWR), (copy.parent, os.O_RDONLY | os.O_DIRECTORY)):
        descriptor = os.open(each, flags)
        os.fsync(descriptor)
        os.close(descriptor)
    log.info("the store is brought up to a newer schema; a copy of what it was is kept", copy=str(copy), schema=version)


def _version(database: Any, path: Path) -> int:
    """Of the schema of a file that is whole, and ours; raises as `_open`."""
    (version,) = next(database.execute("PRAGMA user_version"))
    (mark,) = next(database.execute("PRAGMA application_id"))
    (tables,) = next(database.execute("SELECT count(*) FROM sqlite_schema"))
    if mark != APPLICATION and (mark or tables):
        raise _foreign(path, f"it is a database of another program (application_id {mark:#x})")
    if version > len(MIGRATIONS):
        raise StoreUnavailableError(
            f"the store {path} has schema {version} and this kernel knows {len(MIGRATIONS)}: a newer kernel has"
            " written it; start that one, or name another store.url",
            metadata={"cause": "newer schema", "schema": str(version), "known": str(len(MIGRATIONS))},
        )
    _check_pages(database, path)
    return int(version)


def _check_pages(database: Any, path: Path) -> None:
    """Look through the file, for `CHECK_S` at most, unless damage was met in it: a large one takes very long.

    Raises:
        ValueError: It is damaged.
    """
    suspect, ends = _suspect(path), time.monotonic() + CHECK_S
    if not suspect.exists():
        database.set_progress_handler(lambda: time.monotonic() > ends, CHECK_STEPS)
    try:
        (found,) = next(database.execute("PRAGMA quick_check(1)"))
    except apsw.InterruptError:
        return
    finally:
        database.set_progress_handler(None)
    if found != "ok":
        raise ValueError(found)


def _suspect(path: Path) -> Path:
    """What is there from when damage was met in a store until it was looked through as a whole."""
    return path.with_name(path.name + ".suspect")


def _text(name: bytes | None) -> str:
    return (name or b"").decode(errors="replace")


def _unavailable(path: Path, error: Exception) -> StoreUnavailableError:
    """What to say of an error of SQLite; https://www.sqlite.org/rescode.html."""
    causes = {
        apsw.FullError: "its disk is full; make room",
        apsw.ReadOnlyError: "it cannot be written; let this user write the file and its folder",
        apsw.CantOpenError: "it cannot be opened; let this user write the file and its folder",
        apsw.IOError: "its disk does not take it, or is full",
        apsw.CorruptError: "it is damaged; a restart sets it aside",
        apsw.BusyError: "it is in use by another process; one kernel at a time has it: end that one",
    }
    if isinstance(error, apsw.CorruptError):
        with suppress(OSError):
            _suspect(path).touch(mode=0o600)
    cause = next((text for kind, text in causes.items() if isinstance(error, kind)), str(error))
    return StoreUnavailableError(
        f"the store {path}: {cause} ({error})",
        metadata={"cause": f"{type(error).__name__}: {error}"},
        retry_after_s=1.0,
    )
