"""A store in a schema of a PostgreSQL database, 14 or newer, by psycopg (https://www.psycopg.org/psycopg3/docs/).

One session holds the store's lock and does all of it. Each write moves the store's marker from the one that this store
knows to its own next one, in the same transaction. So a kernel that has lost its session writes only if nobody else has
written meanwhile, and whether a commit that was cut was done is read off the marker: it is never done twice. The marker
has the epoch, too, which a kernel begins when it comes to lead: from then on nothing of one before it can be committed.
"""

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import structlog

from inferd.errors import StoreUnavailableError
from inferd.store.batch import batches
from inferd.store.kernels import KernelEntry
from inferd.store.postgres_copy import PostgresCopy
from inferd.store.postgres_kernels import sign_first
from inferd.store.postgres_reading import PostgresReading
from inferd.store.postgres_schema import (
    NOBODY,
    UNSEALED,
    Found,
    Marker,
    drop_copies,
    find,
    has_copies,
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
from inferd.store.store import Write
from inferd.store.where import Where

BEFORE_COMMIT, AFTER_COMMIT = "before commit", "after commit"
ATTEMPTS = 3  # at a write whose session is lost before its commit
RECONNECT_S = 0.1
GONE = ("08", "57P", "25P03")  # https://www.postgresql.org/docs/current/errcodes-appendix.html
READ_ONLY = "25006"

log = structlog.get_logger()


class PostgresStore(PostgresReading):
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

    def lead(self, entry: KernelEntry | None = None) -> int:
        """As `Store.lead`."""
        epoch = max(self._marker.epoch + 1, int(self.unix_time() * 1e6))

        def sign(session: Session) -> None:
            if entry is not None:
                sign_first(session, self._schema, entry, epoch, backend=session.info.backend_pid)

        self._written(sign, epoch=epoch)
        return epoch

    def grip(self) -> int:
        """As `Store.grip`."""
        rows = self._fetch(f"SELECT pg_backend_pid(), epoch FROM {self._schema}.inferd_store")  # noqa: S608 - ours
        if [epoch for _, epoch in rows] != [self._marker.epoch]:
            raise self._bar(Marker(NOBODY, 0, rows[0][1]) if rows else None)
        return int(rows[0][0])

    def _written(self, write: Callable[[Session], None], *, attempts: int = ATTEMPTS, epoch: int | None = None) -> None:
        """Do it in one transaction, which the server has decided when this returns; in a new `epoch` if it is given."""
        for attempt in range(1, attempts + 1):
            session = self._connected()
            known = self._marker.epoch if epoch is None else epoch
            following = Marker(self._me, self._marker.written + 1, known)
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
                f"UPDATE {self._schema}.inferd_store SET writer = %s, written = %s, epoch = %s"  # noqa: S608 - ours
                " WHERE writer = %s AND written = %s AND epoch = %s",
                (*following, *self._marker),
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
        self._drop_copies(UNSEALED)

    def drop_copies(self) -> None:
        """As `Store.drop_copies`."""
        self._drop_copies(newest_schema())

    def _drop_copies(self, newest: int) -> None:
        if has_copies(self._fetch, name := self._where.postgres.schema_name, newest):  # else nothing is written
            self._written(lambda session: drop_copies(session, name, newest))

    def compact(self) -> None:
        """As `Store.compact`. Takes as long as it takes."""
        session = self._connected()
        try:
            vacuum(session, self._schema)
            self._server.set_up(session)
        except psycopg.Error as error:
            self._drop()
            raise self._server.unavailable(error) from None

    def close(self) -> None:
        """As `Store.close`."""
        self._closed = True
        if self._session is not None:
            self._server.release(self._session)
            self._session = None
