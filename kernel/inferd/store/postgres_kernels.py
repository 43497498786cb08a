"""The kernels of a store in PostgreSQL: each tells of itself by a session of its own, which has no lock.

So a kernel that was stopped, or cut off, is found out: its connection may last, and with it the lock, but it tells
nothing. Whoever stands by has the server end that connection, and the lock is free.
"""

import math
from collections.abc import Sequence
from typing import Any

import psycopg
import structlog

from inferd.errors import StoreUnavailableError
from inferd.store.kernels import KernelEntry, Seen
from inferd.store.postgres_session import HOST_CHARACTERS, Server, Session
from inferd.store.sealing.sealed import Sealed, Sealing
from inferd.store.where import Where

FORGOTTEN_S = 60.0  # a kernel that has told nothing for so long is not there any more
LOCKED_MS = 200  # how long who is silent may hold up the end of its epoch
NOW = "extract(epoch FROM statement_timestamp())::float8"
MISSING = ("3F000", "42P01", "42703")  # SQLSTATE: the schema, the table or the column is not there yet

log = structlog.get_logger()


class PostgresRoll:
    """As `Roll`.

    Args:
        where: The database, the schema and the times.
        answer_s: How long an answer is waited for.

    Raises:
        StoreUnavailableError: The URL cannot be read.
    """

    def __init__(self, where: Where, *, answer_s: float) -> None:
        self._server = Server(where, warns=False)
        self._where = where
        self._schema = f'"{where.postgres.schema_name}"'
        self._answer_s = answer_s
        self._session: Session | None = None
        self.name = self._server.name

    def sign(self, entry: KernelEntry, *, backend: int = 0) -> Seen:
        """As `Roll.sign`; of a store that is not made yet, or is of an older kernel, nothing but its lock is seen."""
        session = self._connected()
        try:
            with session.transaction():
                _sign(session, self._schema, entry, entry.epoch, backend)
                if entry.epoch:
                    _sweep(session, self._schema)
                rows = session.execute(
                    "SELECT s.epoch, o.pid, extract(epoch FROM statement_timestamp() - o.seen)::float8,"  # noqa: S608 - ours
                    f" {NOW}, k.kernel, k.host, k.pid, k.version, k.addresses, k.epoch,"
                    " extract(epoch FROM statement_timestamp() - k.seen)::float8"
                    f" FROM {self._schema}.inferd_store s LEFT JOIN ({self._having}) o ON true"
                    f" LEFT JOIN {self._schema}.kernels k ON k.kernel <> %s"
                    " AND k.seen > clock_timestamp() - make_interval(secs => %s)",
                    (entry.kernel, entry.kernel, FORGOTTEN_S),
                ).fetchall()
        except psycopg.Error as error:
            if error.sqlstate in MISSING:
                return self._unmade(session)
            raise self._lost(error) from None
        if not rows:  # somebody has emptied the table
            return self._unmade(session)
        epoch, holder, holder_s, now = rows[0][:4]
        return Seen(epoch, holder or 0, tuple(_entry(row[4:]) for row in rows if row[4] is not None), holder_s, now)

    @property
    def _having(self) -> str:
        """A query for the process that has the lock, and when the kernel of it told of itself; but for one kernel."""
        return (
            "SELECT h.pid, coalesce(max(k.seen) FILTER (WHERE k.backend = h.pid), max(k.seen)) AS seen"  # noqa: S608 - ours
            f" FROM ({self._server.holder}) h JOIN pg_stat_activity a ON a.pid = h.pid"
            f" LEFT JOIN {self._schema}.kernels k ON k.kernel <> %s AND (k.backend = h.pid"
            f" OR a.application_name = 'inferd ' || left(k.host, {HOST_CHARACTERS}) || ' ' || k.pid) GROUP BY h.pid"
        )

    def end_silent(self, entry: KernelEntry, silence_s: float) -> bool:
        """As `Roll.end_silent`.

        Its epoch is over before its connection is ended, so that it does not have the lock back; unless it was stopped
        in the middle of a transaction, which is to be ended first.
        """
        silent = (
            f"SELECT o.pid FROM ({self._having}) o"  # noqa: S608 - ours
            " WHERE o.seen < clock_timestamp() - make_interval(secs => %s)"
        )
        over = f"UPDATE {self._schema}.inferd_store s SET epoch = s.epoch + 1 WHERE s.epoch = %s"  # noqa: S608 - ours
        try:
            session = self._connected()
            ((epoch,),) = session.execute(f"SELECT epoch FROM {self._schema}.inferd_store").fetchall()  # noqa: S608 - ours
            row = session.execute(silent, (entry.kernel, silence_s)).fetchone()
            if row is None:
                return False
            try:
                with session.transaction():
                    session.execute(f"SET LOCAL lock_timeout = {LOCKED_MS}")
                    session.execute(over, (epoch,))
            except psycopg.errors.LockNotAvailable:
                self._terminate(session, row[0])
                session.execute(over, (epoch,))
            self._terminate(session, row[0])
        except psycopg.Error as error:
            raise self._lost(error) from None
        return True

    def _terminate(self, session: Session, holder: int) -> None:
        """End the connection by which a kernel has the lock, and wait until it is gone, for a moment."""
        session.execute(
            "SELECT pg_terminate_backend(a.pid, %s) FROM pg_stat_activity a WHERE a.pid = %s",
            (math.ceil(self._answer_s * 500), holder),
        )

    def check_keys(self) -> None:
        """As `Roll.check_keys`."""
        session = self._connected()
        try:
            rows = session.execute(f"SELECT tenant, number, wrapped FROM {self._schema}.data_keys").fetchall()  # noqa: S608 - ours
        except psycopg.Error as error:
            if error.sqlstate in MISSING:
                return
            raise self._lost(error) from None
        Sealed.opened(self.name, Sealing.of(self._where, reads=True), rows)

    def leave(self, kernel: str) -> None:
        """As `Roll.leave`."""
        if self._session is None:
            return
        try:
            self._session.execute(f"DELETE FROM {self._schema}.kernels WHERE kernel = %s", (kernel,))  # noqa: S608 - ours
        except psycopg.Error:
            log.debug("a kernel that ends could not tell so in its store")
        finally:
            self._session.close()
            self._session = None

    def _connected(self) -> Session:
        if self._session is None or self._session.closed:
            self._session = self._server.connect_aside(answer_s=self._answer_s)
        return self._session

    def _unmade(self, session: Session) -> Seen:
        try:
            row = session.execute(self._server.holder).fetchone()
            ((now,),) = session.execute(f"SELECT {NOW}").fetchall()
        except psycopg.Error as error:
            raise self._lost(error) from None
        return Seen(0, 0 if row is None else row[0], now=now)

    def _lost(self, error: psycopg.Error) -> StoreUnavailableError:
        late = None
        if self._session is not None:
            late = self._session.late
            self._session.close()
            self._session = None
        return self._server.unavailable(late or error)


def sign_first(session: Session, schema: str, entry: KernelEntry, epoch: int, *, backend: int) -> None:
    """Tell of a kernel in the transaction by which its epoch begins; `schema` is in quotes."""
    _sign(session, schema, entry, epoch, backend)


def _sign(session: Session, schema: str, entry: KernelEntry, epoch: int, backend: int) -> None:
    session.execute(
        f"INSERT INTO {schema}.kernels VALUES (%s, %s, %s, %s, %s, %s, %s, clock_timestamp())"  # noqa: S608 - ours
        " ON CONFLICT (kernel) DO UPDATE SET epoch = EXCLUDED.epoch, backend = EXCLUDED.backend,"
        " addresses = EXCLUDED.addresses, seen = EXCLUDED.seen",
        (entry.kernel, epoch, backend, entry.host, entry.pid, entry.version, list(entry.addresses)),
    )


def _sweep(session: Session, schema: str) -> None:
    session.execute(
        f"DELETE FROM {schema}.kernels WHERE seen < clock_timestamp() - make_interval(secs => %s)",  # noqa: S608 - ours
        (FORGOTTEN_S,),
    )


def _entry(row: Sequence[Any]) -> KernelEntry:
    names = ("kernel", "host", "pid", "version", "addresses", "epoch", "age_s")
    told = dict(zip(names, row, strict=True))
    return KernelEntry(**{**told, "addresses": tuple(told["addresses"]), "age_s": max(0.0, told["age_s"])})
