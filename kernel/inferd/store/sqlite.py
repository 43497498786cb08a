"""A store in one file, by SQLite (https://www.sqlite.org): WAL, `synchronous=FULL`, one connection.

The connection has the file to itself (`locking_mode=EXCLUSIVE`): by whatever name another comes to it, it is refused.

The library comes with its wheel: versions before 3.51.3 can damage a file in WAL mode
(https://www.sqlite.org/wal.html#walresetbug), and systems have such.
"""

import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import apsw
import structlog

from inferd.errors import StoreUnavailableError
from inferd.store.codec import Place
from inferd.store.kernels import KernelEntry
from inferd.store.lock import StoreLock
from inferd.store.places import Places
from inferd.store.sealing.resealing import TABLES, Progress, Row, resealed
from inferd.store.sealing.sealed import Sealed, Sealing, seal_all
from inferd.store.sqlite_copy import SqliteCopy
from inferd.store.sqlite_file import (
    DAMAGED,
    FAMILY,
    UNSEALED,
    check_library,
    check_names,
    check_owner,
    copies_of,
    make_private,
    newest_schema,
    open_file,
    open_to_read,
    plain,
    set_aside,
    suspect_of,
    unavailable,
)
from inferd.store.store import Append, Damaged, DamagedError, Drop, Kind, Name, Put, Record, Write
from inferd.store.values import place_of as _place
from inferd.store.values import read_value

BEFORE_COMMIT, AFTER_COMMIT = "before commit", "after commit"
NAMES, VALUE = "CAST(tenant AS BLOB), CAST(key AS BLOB)", "CAST(ifnull(value, '') AS BLOB)"  # of damaged rows, too
MOST_FAULTS = 100  # that are told of a store

log = structlog.get_logger()


def _nothing(_: str) -> None:
    """At no point anything is done."""


class SqliteStore:
    """As `Store`. A file that is damaged when it is opened is set aside, with a note that says why.

    Only a file that was ours is: by its mark, or, where its header is destroyed, by the lock file beside it. One of
    another program is refused, and neither it nor its folder is written.

    Args:
        path: The file; made where there is none.
        sealing: How values are sealed; None for not at all.
        mends: Whether a damaged file is set aside; else it is refused.
        migrates: Whether a file with an older schema is copied, and then brought up; else it is refused.
        copies: How many copies of an older schema are left.
        held: The lock of the file where the caller has it, and goes on having it; None to take it.
        reads: Whether it is only read: then nothing is made, changed or set aside.
        at_point: Told where a write is, for tests.

    Raises:
        StoreUnavailableError: It cannot be opened, another process has it, a newer kernel has written it, or it is
            another program's.
    """

    looks = True  # for damage, when it is opened

    def __init__(
        self,
        path: Path,
        *,
        sealing: Sealing | None = None,
        mends: bool = True,
        migrates: bool = True,
        copies: int = 1,
        held: StoreLock | None = None,
        reads: bool = False,
        at_point: Callable[[str], None] = _nothing,
    ) -> None:
        check_library(apsw.sqlite_lib_version())
        path = self._path = Path(os.path.realpath(path))  # the lock and the WAL stand beside the file itself
        self.name, self.schema = str(path), newest_schema()
        self._at_point = at_point
        self._reads = reads
        lock = path.with_name(path.name + ".lock")
        try:
            check_owner(path, lock)  # before anything is written or made
            if not reads:
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                make_private(path)
        except OSError as error:
            raise StoreUnavailableError(
                f"the store {path} cannot be made or read: {error.strerror}",
                metadata={"cause": str(error.strerror)},
            ) from None
        check_names(path)
        self._lock = StoreLock(lock, reads=reads) if held is None else None
        try:
            self._database, self.opened_schema = (
                open_to_read(path, looks=self.looks)
                if reads
                else _opened(path, mends=mends, migrates=migrates, copies=copies)
            )
            self._places = Places(path)
        except (apsw.Error, ValueError, OSError) as error:
            self._let_go()
            raise unavailable(path, error, marks=not reads) from None
        except BaseException:
            self._let_go()
            raise
        try:
            sealed = Sealed.opened(self.name, sealing, self._key_rows())
            self._codec, self.keys = sealed.codec, sealed.keys
            if not reads:
                seal_all(self, sealed, sealing, new=self.opened_schema == 0)
        except BaseException:
            self.close()
            raise

    def _let_go(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def write(self, writes: Iterable[Write]) -> None:
        """As `Store.write`."""

        def write(database: Any) -> None:
            for each in writes:
                self._write(database, each)

        self._written(write)

    def _written(self, write: Callable[[Any], object]) -> None:
        """Do it in one transaction, on the disk when this returns."""
        database = self._database
        try:
            database.execute("BEGIN IMMEDIATE")
            try:
                write(database)
                self._keep_keys(database)
                self._at_point(BEFORE_COMMIT)
                database.execute("COMMIT")
            except BaseException:
                if database.in_transaction:  # SQLite has ended it by itself after some errors
                    with suppress(apsw.Error):
                        database.execute("ROLLBACK")
                raise
        except apsw.Error as error:
            raise unavailable(self._path, error, marks=not self._reads) from None
        if self.keys is not None:
            self.keys.kept()
        self._places.check()
        self._at_point(AFTER_COMMIT)

    def _write(self, database: Any, write: Write) -> None:
        tenant, kind, plain = write.tenant, write.kind.value, write.key
        key = self._codec.write_key(tenant, kind, plain)
        match write:
            case Put():
                value = self._codec.write(_place(tenant, kind, plain), write.value)
                database.execute("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?)", (tenant, kind, key, value))
            case Append(number=number):
                value = self._codec.write(_place(tenant, kind, plain, number), write.value)
                database.execute(
                    "INSERT OR REPLACE INTO pieces VALUES (?, ?, ?, ?, ?)", (tenant, kind, key, number, value)
                )
            case Drop(record=record):
                for table in ("records", "pieces") if record else ("pieces",):
                    database.execute(
                        f"DELETE FROM {table} WHERE kind = ? AND tenant = ? AND key = ?",  # noqa: S608 - ours
                        (kind, tenant, key),
                    )

    def _keep_keys(self, database: Any) -> None:
        """In the same transaction as what is sealed with them."""
        if (keys := self.keys) is None:
            return
        for name in keys.gone:
            database.execute("DELETE FROM data_keys WHERE tenant = ? AND number = ?", name)
        for name, wrapped in keys.unkept.items():
            database.execute("INSERT OR REPLACE INTO data_keys VALUES (?, ?, ?)", (*name, wrapped))

    def _key_rows(self) -> list[tuple[str, int, bytes]]:
        rows = self._read("SELECT CAST(tenant AS BLOB), number, CAST(wrapped AS BLOB) FROM data_keys")
        return [(_text(tenant), number, wrapped) for tenant, number, wrapped in rows]

    def records(self, kind: Kind, damaged: Damaged | None = None, *, unless: Kind | None = None) -> Iterator[Record]:
        """As `Store.records`."""
        other = "SELECT 1 FROM records o WHERE o.kind = ? AND o.tenant = r.tenant AND o.key = r.key"
        where = "kind = ?" if unless is None else f"kind = ? AND NOT EXISTS ({other})"
        query = f"SELECT {NAMES}, {VALUE} FROM records r WHERE {where} ORDER BY tenant, key"  # noqa: S608 - ours
        kinds = (each.value for each in (kind, unless) if each is not None)
        yield from self._records(kind, self._read(query, tuple(kinds)), damaged)

    def some(self, kind: Kind, names: Sequence[Name], damaged: Damaged | None = None) -> Iterator[Record]:
        """As `Store.some`."""
        query = f"SELECT {NAMES}, {VALUE} FROM records WHERE kind = ? AND tenant = ? AND key = ?"  # noqa: S608 - ours
        kept = ((tenant, self._codec.write_key(tenant, kind.value, key)) for tenant, key in names)
        rows = chain.from_iterable(self._read(query, (kind.value, *name)) for name in kept)
        yield from self._records(kind, rows, damaged)

    def _records(self, kind: Kind, rows: Iterable[Any], damaged: Damaged | None) -> Iterator[Record]:
        for *names, value in rows:
            tenant, key = self._names(kind.value, *names)
            try:
                read = self._value(_place(tenant, kind.value, key), value)
            except DamagedError as error:
                if damaged is None:
                    raise
                damaged(tenant, key, error)
            else:
                yield Record(tenant, key, read)

    def _names(self, kind: str, tenant: bytes | None, key: bytes | None) -> tuple[str, str]:
        """The tenant and the key of a row, as they are known."""
        return (whose := _text(tenant)), self._codec.read_key(whose, kind, _text(key))

    def pieces(self, tenant: str, kind: Kind, key: str, *, after: int = -1) -> Iterator[bytes]:
        """As `Store.pieces`."""
        where = "kind = ? AND tenant = ? AND key = ? AND number > ?"
        rows = self._read(
            f"SELECT number, {VALUE} FROM pieces WHERE {where} ORDER BY number",  # noqa: S608 - ours
            (kind.value, tenant, self._codec.write_key(tenant, kind.value, key), after),
        )
        with closing(rows):  # whoever has enough leaves no statement open
            for number, value in rows:
                yield self._value(_place(tenant, kind.value, key, number), value)

    def _read(self, query: str, values: tuple[Any, ...] = ()) -> Generator[Any, None, None]:
        try:
            yield from self._database.execute(query, values)
        except apsw.Error as error:
            raise unavailable(self._path, error, marks=not self._reads) from None

    def _value(self, place: Place, written: bytes) -> bytes:
        return read_value(self._codec, self.name, place, written)

    def kept(self) -> Iterator[Put | Append]:
        """As `Store.kept`."""
        rows = self._read(f"SELECT {NAMES}, kind, {VALUE} FROM records ORDER BY kind, tenant, key")  # noqa: S608 - ours
        for *names, kind, value in rows:
            tenant, key = self._names(kind, *names)
            yield Put(tenant, Kind(kind), key, self._value(_place(tenant, kind, key), value))
        rows = self._read(f"SELECT {NAMES}, kind, number, {VALUE} FROM pieces ORDER BY kind, tenant, key, number")  # noqa: S608 - ours
        for *names, kind, number, value in rows:
            tenant, key = self._names(kind, *names)
            yield Append(tenant, Kind(kind), key, number, self._value(_place(tenant, kind, key, number), value))

    def copy(self, path: Path) -> SqliteCopy:
        """As `Store.copy`; as of its end."""
        return SqliteCopy(self._database, self._path, path)

    def check(self) -> list[str]:
        """As `Store.check`."""
        wrong = [str(row[0]) for row in self._read(f"PRAGMA integrity_check({MOST_FAULTS})") if row[0] != "ok"]
        names, kind = NAMES, "CAST(kind AS BLOB)"
        for table, number in (("records", ""), ("pieces", " number,")):
            with closing(self._read(f"SELECT {names}, {kind},{number} {VALUE} FROM {table}")) as rows:  # noqa: S608 - ours
                for tenant, key, of, *numbers, value in rows:
                    whose, plain = self._names(kind_of := _text(of), tenant, key)
                    place = _place(whose, kind_of, plain, *numbers)
                    try:
                        self._codec.read(place, value)
                    except ValueError as error:
                        wrong.append(f"{place}: {error}")
                    if len(wrong) >= MOST_FAULTS:
                        return wrong
        return wrong

    def rows(self, table: str, after: Row | None, *, most: int, most_bytes: int) -> list[Row]:
        """As `Rows.rows`."""
        number = "number" if table == "pieces" else "NULL"
        query = f"SELECT {NAMES}, kind, {number}, {VALUE}, rowid FROM {table} WHERE rowid > ? ORDER BY rowid LIMIT ?"  # noqa: S608 - ours
        found, size_bytes = list[Row](), 0
        with closing(self._read(query, (0 if after is None else after.at, most))) as rows:
            for tenant, key, kind, count, value, at in rows:
                size_bytes += len(value)
                if found and size_bytes > most_bytes:
                    break
                found.append(Row(kind, _text(tenant), _text(key), count, value, at))
        return found

    def exchange(self, table: str, rows: Sequence[tuple[Row, Row]]) -> None:
        """As `Rows.exchange`."""
        self._written(
            lambda database: database.executemany(
                f"UPDATE OR REPLACE {table} SET key = ?, value = ? WHERE rowid = ?",  # noqa: S608 - ours
                [(new.key, new.value, old.at) for old, new in rows],
            )
        )

    def resealing(self, most_rows: int) -> Iterator[Progress]:
        """As `Store.resealing`."""
        return resealed(self, self._codec, most=most_rows)

    def drop_tenant(self, tenant: str) -> None:
        """As `Store.drop_tenant`."""

        def drop(database: Any) -> None:
            for table in TABLES:
                database.execute(f"DELETE FROM {table} WHERE tenant = ?", (tenant,))  # noqa: S608 - ours

        self._written(drop)

    def drop_unsealed(self) -> None:
        """As `SealedRows.drop_unsealed`."""
        self._drop_copies(UNSEALED, "the copy from before the store was sealed is removed: it was not sealed")

    def drop_copies(self) -> None:
        """As `Store.drop_copies`."""
        self._drop_copies(newest_schema(), "the copy from before the store was brought up is removed")

    def _drop_copies(self, newest: int, why: str) -> None:
        for copy in (each for schema in range(1, newest + 1) for each in copies_of(self._path, schema)):
            try:
                copy.unlink()
            except OSError as error:
                raise StoreUnavailableError(
                    f"the copy {copy} of the store cannot be removed: {error.strerror}; remove it, and try again",
                    metadata={"cause": error.strerror or str(error)},
                ) from None
            log.warning(why, copy=str(copy))

    def compact(self) -> None:
        """As `Store.compact`."""
        for _ in (*self._read("VACUUM"), *self._read("PRAGMA wal_checkpoint(TRUNCATE)")):
            pass

    def size_bytes(self) -> int:
        """As `Store.size_bytes`."""
        paths = [self._path.with_name(self._path.name + ending) for ending in FAMILY]
        return sum(path.stat().st_size for path in paths if path.exists())

    def lead(self, entry: KernelEntry | None = None) -> int:  # noqa: ARG002 - nobody else sees it
        """As `Store.lead`: the lock of its file keeps all others out, so that the clock is enough."""
        return int(time.time() * 1e6)

    def grip(self) -> int:
        """As `Store.grip`."""
        return 0

    def unix_time(self) -> None:
        """As `Store.unix_time`: it is of this machine."""

    def close(self) -> None:
        """As `Store.close`."""
        with suppress(apsw.Error):  # what was committed is on the disk
            self._database.close()
        self._let_go()


def _text(name: bytes | None) -> str:
    return (name or b"").decode(errors="replace")


def _opened(path: Path, *, mends: bool, migrates: bool, copies: int) -> tuple[apsw.Connection, int]:
    """As `open_file`; a damaged one is set aside where that `mends`."""
    try:
        opened = open_file(path, migrates=migrates, copies=copies)
    except DAMAGED as error:
        if not mends:
            raise
        set_aside(path, plain(error))
        make_private(path)
        opened = open_file(path, migrates=migrates, copies=copies)
    suspect_of(path).unlink(missing_ok=True)  # it was looked through
    return opened
