"""A store in a schema of a PostgreSQL database, 14 or newer, by psycopg (https://www.psycopg.org/psycopg3/docs/).

One session holds the store's lock and does all of it. Each write moves the store's marker from the one that this store
knows to its own next one, in the same transaction. So a kernel that has lost its session writes only if nobody else has
written meanwhile, and whether a commit that was cut was done is read off the marker: it is never done twice.
"""

import time
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import structlog

from inferd.errors import StoreUnavailableError
from inferd.store.batch import batches
from inferd.store.codec import Place
from inferd.store.postgres_copy import PostgresCopy
from inferd.store.postgres_rows import NAMES, PAGE_BYTES, PAGE_ROWS, PIECES_BYTES, next_rows, rows_of
from inferd.store.postgres_schema import (
    NOBODY,
    TABLES,
    Found,
    Marker,
    drop_unsealed,
    find,
    has_unsealed,
    migrate,
    newest_schema,
    set_aside,
    taken_over,
    vacuum,
)
from inferd.store.postgres_session import Server, Session
from inferd.store.postgres_writes import add_batch, drop_tenant, exchange_rows, keep_keys
from inferd.store.sealing.resealing import Progress, Row, resealed
from inferd.store.sealing.sealed import Sealed, Sealing, seal_all
from inferd.store.store import Append, Damaged, DamagedError, Kind, Name, Put, Record, Write
from inferd.store.values import place_of, read_value
from inferd.store.where import Where

BEFORE_COMMIT, AFTER_COMMIT = "before commit", "after commit"
ATTEMPTS = 3  # at a write whose session is lost before its commit
RECONNECT_S = 0.1
GONE = ("08", "57P", "25P03")  # https://www.postgresql.org/docs/current/errcodes-appendix.html
READ_ONLY = "25006"
RECORD = ("tenant", "key")  # what names one of a kind

log = structlog.get_logger()


class PostgresStore:
    """As `Store`.

    Args:
        where: The database, the schema and the times.
        sealing: How values are sealed; None for not at all.
        makes: Whether the schema is made where there is none.
        migrates: Whether an older schema is brought up; else it is refused.
        at_point: Told where a write is, for tests.

    Raises:
        MissingError: There is none, and none is to be made.
        OldSchemaError: It is older, and is to stay so.
        StoreUnavailableError: It cannot be opened, or another process, a newer kernel or another program has it.
    """

    def __init__(
        self,
        where: Where,
        *,
        sealing: Sealing | None = None,
        makes: bool = True,
        migrates: bool = True,
        at_point: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._where = where
        self._at_point = at_point
        self._server = Server(where)
        self.name = self._server.name
        self._schema = f'"{where.postgres.schema_name}"'
        self._me = uuid.uuid4().hex
        self._doubt: Marker | None = None
        self._barred: StoreUnavailableError | None = None
        self._closed = False
        self._session: Session | None = self._server.connect()
        try:
            found = find(self._session, self.name, where.postgres.schema_name)
            self._migrate(self._session, found, makes=makes, migrates=migrates)
        except psycopg.Error as error:
            self._server.release(self._session)
            raise self._server.unavailable(error) from None
        except BaseException:
            self._server.release(self._session)
            raise
        self.opened_schema, self.schema = found.version, newest_schema()
        self._marker = found.marker
        try:
            rows = self._fetch(f"SELECT tenant, number, wrapped FROM {self._schema}.data_keys")  # noqa: S608 - ours
            sealed = Sealed.opened(self.name, sealing, rows)
            self._codec, self.keys = sealed.codec, sealed.keys
            seal_all(self, sealed, sealing, new=found.version == 0)
        except BaseException:
            self.close()
            raise

    def _migrate(self, session: Session, found: Found, *, makes: bool, migrates: bool) -> None:
        """Bring the schema up, as long as that takes."""
        name, limit_s = self._where.postgres.schema_name, session.limit_s
        session.limit_s = limit_s if found.version in {0, newest_schema()} else None
        migrate(session, self.name, name, found, makes=makes, migrates=migrates, copies=self._where.schema_copies)
        session.limit_s = limit_s

    def write(self, writes: Iterable[Write]) -> None:
        """As `Store.write`. What is no sequence is read once: should the session be lost meanwhile, it is refused."""

        def write(session: Session) -> None:
            for batch in batches(writes, self._codec):
                add_batch(session, self._schema, batch)

        self._written(write, attempts=ATTEMPTS if isinstance(writes, Sequence) else 1)

    def _written(self, write: Callable[[Session], None], *, attempts: int = ATTEMPTS) -> None:
        """Do it in one transaction, which the server has decided when this returns."""
        for attempt in range(1, attempts + 1):
            session = self._connected()
            following = Marker(self._me, self._marker.written + 1)
            try:
                self._send(session, write, following)
            except psycopg.Error as error:
                if self._lost(session, error) and attempt < attempts and session.late is None:
                    continue  # nothing of it was committed
                raise self._server.unavailable(session.late or error) from None
            except BaseException:
                self._undo(session)
                raise
            if self._commit(session, following):
                break
            if attempt == attempts:
                raise StoreUnavailableError(
                    f"the store {self.name}: its connection was lost {attempts} times; nothing was written",
                    metadata={"cause": "connection lost"},
                    retry_after_s=1.0,
                )
        if self.keys is not None:
            self.keys.kept()
        self._at_point(AFTER_COMMIT)

    def _send(self, session: Session, write: Callable[[Session], None], following: Marker) -> None:
        """All of it but the commit, in as few round trips as there can be."""
        with session.pipeline():
            session.execute("BEGIN")
            claim = session.execute(
                f"UPDATE {self._schema}.inferd_store SET writer = %s, written = %s"  # noqa: S608 - ours
                " WHERE writer = %s AND written = %s",
                (following.writer, following.written, self._marker.writer, self._marker.written),
            )
            write(session)
            keep_keys(session, self._schema, self.keys)
            # Whoever waits for a standby would else stop waiting, and say that it was done.
            session.execute("SET LOCAL statement_timeout = 0")
        if claim.rowcount != 1:
            raise self._bar(None)
        self._at_point(BEFORE_COMMIT)

    def _commit(self, session: Session, following: Marker) -> bool:
        """Whether it was done; else nothing of it was.

        Raises:
            StoreUnavailableError: The server refuses it; or the session is lost, and in time there is no other one in
                which it could be read: it is the first thing that is read when there is.
        """
        self._doubt = following
        try:
            said = session.execute("COMMIT").statusmessage
        except psycopg.Error as error:
            if self._lost(session, error):
                return self._settle(following, error)
            self._doubt = None
            raise self._server.unavailable(error) from None
        except BaseException:
            self._drop()
            raise
        self._doubt = None
        if said != "COMMIT":
            raise StoreUnavailableError(
                f"the store {self.name}: the server says {said} to a commit; nothing was written",
                metadata={"cause": f"{said}"},
                retry_after_s=1.0,
            )
        self._marker = following
        return True

    def _settle(self, following: Marker, error: psycopg.Error) -> bool:
        deadline = time.monotonic() + self._where.postgres.outcome_wait_s
        while True:
            try:
                self._connected()
            except StoreUnavailableError as failure:
                if self._barred is not None:
                    raise
                if time.monotonic() >= deadline:
                    raise StoreUnavailableError(
                        f"the connection was lost in a commit ({self._server.unavailable(error).message}), and whether"
                        f" it was done is not known until there is another: {failure.message}",
                        metadata={**failure.metadata, "outcome": "unknown"},
                        retry_after_s=1.0,
                    ) from None
                time.sleep(RECONNECT_S)
            else:
                return self._marker == following

    # The session.

    def _connected(self) -> Session:
        """The session that has the lock; a new one where it was lost.

        Raises:
            StoreUnavailableError: There is none now; or there will be none for this store, as others have written.
        """
        if self._closed:
            raise StoreUnavailableError(f"the store {self.name} is closed", metadata={"cause": "closed"})
        if self._barred is not None:
            raise self._barred
        if self._session is not None and not self._session.closed:
            return self._session
        session = self._server.connect()
        try:
            found = find(session, self.name, self._where.postgres.schema_name)
            self._take_up(found.marker if found.version else None)
        except psycopg.Error as error:
            session.close()
            raise self._server.unavailable(error) from None
        except BaseException:
            session.close()
            raise
        self._session = session
        log.info("the store has a connection again", store=self.name)
        return session

    def _take_up(self, marker: Marker | None) -> None:
        """Go on from a marker, which tells of a write in doubt whether it was done.

        Raises:
            StoreUnavailableError: Others have written, or it lacks what was written.
        """
        if marker is None or marker not in {self._marker, self._doubt}:
            raise self._bar(marker)
        if self._doubt is not None:
            log.warning("a commit was cut off and has been looked up", store=self.name, done=marker == self._doubt)
        self._marker, self._doubt = marker, None

    def _bar(self, marker: Marker | None) -> StoreUnavailableError:
        """What this store knows is not what is kept: it writes and reads no more."""
        self._drop()
        self._barred = taken_over(self.name, marker, self._marker, self._me)
        return self._barred

    def _lost(self, session: Session, error: psycopg.Error) -> bool:
        """Whether the session is gone; else it is as before what failed."""
        state = error.sqlstate or ""
        cut = (
            session.closed
            or session.late is not None
            or state.startswith(GONE)
            or (isinstance(error, psycopg.OperationalError) and not state)
        )
        if cut or state == READ_ONLY:  # the server is a standby now: there is another one to be found
            self._drop()
        else:
            self._undo(session)
        return cut

    def _undo(self, session: Session) -> None:
        try:
            session.rollback()
        except psycopg.Error:
            self._drop()

    def _drop(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    # Reading.

    def records(self, kind: Kind, damaged: Damaged | None = None, *, unless: Kind | None = None) -> Iterator[Record]:
        """As `Store.records`."""
        table, other = f"{self._schema}.records", "o.tenant = r.tenant AND o.key = r.key AND o.kind ="
        if unless is not None:
            lacks = f"NOT EXISTS (SELECT 1 FROM {table} o WHERE {other} '{unless.value}')"  # noqa: S608 - ours
            table = f"(SELECT r.* FROM {table} r WHERE {lacks}) lacking"  # noqa: S608 - ours
        yield from self._records(kind, rows_of(self._fetch, table, RECORD, {"kind": kind.value}), damaged)

    def some(self, kind: Kind, names: Sequence[Name], damaged: Damaged | None = None) -> Iterator[Record]:
        """As `Store.some`."""
        for start in range(0, len(names), PAGE_ROWS):
            some = names[start : start + PAGE_ROWS]
            given = [[t for t, _ in some], [self._codec.write_key(t, kind.value, key) for t, key in some]]
            wanted = "unnest(%s::text[], %s::text[]) wanted (tenant, key) USING (tenant, key)"
            table = f"(SELECT * FROM {self._schema}.records JOIN {wanted}) found"  # noqa: S608 - ours
            rows = rows_of(self._fetch, table, RECORD, {"kind": kind.value}, given=given)
            yield from self._records(kind, rows, damaged)

    def _records(self, kind: Kind, rows: Iterable[tuple[Any, ...]], damaged: Damaged | None) -> Iterator[Record]:
        for tenant, written, value in rows:
            key = self._codec.read_key(tenant, kind.value, written)
            try:
                read = self._value(place_of(tenant, kind.value, key), value)
            except DamagedError as error:
                if damaged is None:
                    raise
                damaged(tenant, key, error)
            else:
                yield Record(tenant, key, read)

    def pieces(self, tenant: str, kind: Kind, key: str, *, after: int = -1) -> Iterator[bytes]:
        """As `Store.pieces`."""
        wanted = {"kind": kind.value, "tenant": tenant, "key": self._codec.write_key(tenant, kind.value, key)}
        for number, value in self._rows("pieces", ("number",), wanted, last=(after,), page_bytes=PIECES_BYTES):
            yield self._value(place_of(tenant, kind.value, key, number), value)

    def kept(self) -> Iterator[Put | Append]:
        """As `Store.kept`."""
        for kind, tenant, written, value in self._rows("records", NAMES["records"], {}):
            key = self._codec.read_key(tenant, kind, written)
            yield Put(tenant, Kind(kind), key, self._value(place_of(tenant, kind, key), value))
        for kind, tenant, written, number, value in self._rows("pieces", NAMES["pieces"], {}):
            key = self._codec.read_key(tenant, kind, written)
            yield Append(tenant, Kind(kind), key, number, self._value(place_of(tenant, kind, key, number), value))

    def _rows(
        self,
        table: str,
        names: tuple[str, ...],
        wanted: dict[str, Any],
        *,
        last: tuple[Any, ...] = (),
        page_bytes: int = PAGE_BYTES,
    ) -> Generator[tuple[Any, ...], None, None]:
        """As `rows_of`, of one of the tables."""
        return rows_of(self._fetch, f"{self._schema}.{table}", names, wanted, last=last, page_bytes=page_bytes)

    def _fetch(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows; where the session had been lost, from the next one."""
        for last in (False, True):
            session = self._connected()
            try:
                return session.execute(query, values, binary=True).fetchall()
            except psycopg.Error as error:
                if not self._lost(session, error) or last or session.late is not None:
                    raise self._server.unavailable(session.late or error) from None
        raise AssertionError  # the last attempt has raised

    def _value(self, place: Place, written: bytes) -> bytes:
        return read_value(self._codec, self.name, place, written)

    # Looking after it.

    def copy(self, path: Path) -> PostgresCopy:
        """As `Store.copy`; as of its beginning, by a session of its own, without the lock."""
        return PostgresCopy(self._server, self._schema, path)

    def replace(self, writes: Iterable[Write], why: str) -> str:
        """Put what is kept aside and these in its place: all or nothing. The schema that it is in now.

        Raises:
            StoreUnavailableError: It is not done, or not known to be.
        """
        session, name = self._connected(), self._where.postgres.schema_name
        try:
            with session.transaction():
                aside = set_aside(session, name, why)
                migrate(session, self.name, name, Found(0, self._marker), makes=True, migrates=False, copies=1)
                for batch in batches(writes, self._codec):
                    add_batch(session, self._schema, batch)
                if self.keys is not None:  # the tables are new ones
                    self.keys.keep_whole(whole=self.keys.whole)
                keep_keys(session, self._schema, self.keys)
                session.execute("SET LOCAL statement_timeout = 0")
        except psycopg.Error as error:
            self._drop()
            raise self._server.unavailable(error) from None
        self._marker = Marker(NOBODY, 0)
        if self.keys is not None:
            self.keys.kept()
        return aside

    def check(self) -> list[str]:
        """As `Store.check`."""
        wrong = []
        for table, names in NAMES.items():
            for kind, tenant, written, *number, value in self._rows(table, names, {}):
                key = self._codec.read_key(tenant, kind, written)
                try:
                    self._value(place_of(tenant, kind, key, *number), value)
                except DamagedError as error:
                    wrong.append(error.message)
        return wrong

    def rows(self, table: str, after: Row | None, *, most: int, most_bytes: int) -> list[Row]:
        """As `Rows.rows`."""
        return next_rows(partial(self._rows, page_bytes=most_bytes), table, after, most=most)

    def exchange(self, table: str, rows: Sequence[tuple[Row, Row]]) -> None:
        """As `Rows.exchange`."""
        self._written(lambda session: exchange_rows(session, self._schema, table, rows))

    def resealing(self, most_rows: int) -> Iterator[Progress]:
        """As `Store.resealing`."""
        return resealed(self, self._codec, most=most_rows)

    def drop_tenant(self, tenant: str) -> None:
        """As `Store.drop_tenant`."""
        self._written(lambda session: drop_tenant(session, self._schema, tenant))

    def drop_unsealed(self) -> None:
        """As `SealedRows.drop_unsealed`."""
        if has_unsealed(self._fetch, name := self._where.postgres.schema_name):  # else nothing is written
            self._written(lambda session: drop_unsealed(session, name))

    def compact(self) -> None:
        """As `Store.compact`. Takes as long as it takes."""
        session = self._connected()
        try:
            vacuum(session, self._schema)
            self._server.set_up(session)
        except psycopg.Error as error:
            self._drop()
            raise self._server.unavailable(error) from None

    def size_bytes(self) -> int:
        """As `Store.size_bytes`: of its tables and their indexes."""
        tables = [f"{self._schema}.{table}" for table in TABLES]
        rows = self._fetch("SELECT sum(pg_total_relation_size(name::regclass)) FROM unnest(%s::text[]) name", (tables,))
        return int(rows[0][0])

    def unix_time(self) -> float:
        """As `Store.unix_time`."""
        return float(self._fetch("SELECT extract(epoch FROM clock_timestamp())::float8")[0][0])

    def close(self) -> None:
        """As `Store.close`."""
        self._closed = True
        if self._session is not None:
            self._server.release(self._session)
            self._session = None
