"""The kernels of a store in PostgreSQL: each tells of itself by a session of its own, which has no lock.

So a kernel that was stopped, or cut off, is found out: its connection may last, and with it the lock, but it tells
nothing. Whoever stands by has the server end that connection, and the lock is free.
"""

from collections.abc import Sequence
from typing import Any

import psycopg
import structlog

from inferd.errors import StoreUnavailableError
from inferd.store.kernels import KernelEntry, Seen
from inferd.store.postgres_session import Server, Session, application_of
from inferd.store.sealing.sealed import Sealed, Sealing
from inferd.store.where import Where

FORGOTTEN_S = 60.0  # a kernel that has told nothing for so long is not there any more
LOCKED_MS = 200  # how long who is silent may hold up the end of its epoch
TERMINATE_MS = 2000
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
                    f"SELECT s.epoch, ({self._server.holder}), k.kernel, k.host, k.pid, k.version, k.addresses,"  # noqa: S608 - ours
                    f" k.epoch, extract(epoch FROM clock_timestamp() - k.seen)::float8"
                    f" FROM {self._schema}.inferd_store s LEFT JOIN {self._schema}.kernels k ON k.kernel <> %s"
                    " AND k.seen > clock_timestamp() - make_interval(secs => %s)",
                    (entry.kernel, FORGOTTEN_S),
                ).fetchall()
        except psycopg.Error as error:
            if error.sqlstate in MISSING:
                return self._unmade(session)
            raise self._lost(error) from None
        return Seen(rows[0][0], rows[0][1] or 0, tuple(_entry(row[2:]) for row in rows if row[2] is not None))

    def end_silent(self, silence_s: float) -> bool:
        """As `Roll.end_silent`.

        Its epoch is over before its connection is ended, so that it does not have the lock back; unless it was stopped
        in the middle of a transaction, which is to be ended first.
        """
        over = (
            f"UPDATE {self._schema}.inferd_store s SET epoch = s.epoch + 1 FROM {self._schema}.kernels k"  # noqa: S608 - ours
            " WHERE k.epoch = s.epoch AND k.seen < clock_timestamp() - make_interval(secs => %s)"
            " RETURNING k.backend, k.host, k.pid"
        )
        try:
            session = self._connected()
            try:
                with session.transaction():
                    session.execute(f"SET LOCAL lock_timeout = {LOCKED_MS}")
                    row = session.execute(over, (silence_s,)).fetchone()
            except psycopg.errors.LockNotAvailable:
                silent = (
                    f"SELECT k.backend, k.host, k.pid FROM {self._schema}.kernels k"  # noqa: S608 - ours
                    f" JOIN {self._schema}.inferd_store s ON s.epoch = k.epoch"
                    " WHERE k.seen < clock_timestamp() - make_interval(secs => %s)"
                )
                if (row := session.execute(silent, (silence_s,)).fetchone()) is not None:
                    self._terminate(session, row)
                    row = session.execute(over, (silence_s,)).fetchone()
            if row is not None:
                self._terminate(session, row)
        except psycopg.Error as error:
            raise self._lost(error) from None
        return row is not None

    def _terminate(self, session: Session, row: tuple[Any, ...]) -> None:
        """End the connection by which a kernel has the lock, and wait until it is gone."""
        backend, host, pid = row
        session.execute(
            f"SELECT pg_terminate_backend(h.pid, {TERMINATE_MS}) FROM ({self._server.holder}) h (pid)"  # noqa: S608 - ours
            " JOIN pg_stat_activity a ON a.pid = h.pid WHERE h.pid = %s OR a.application_name = %s",
            (backend, application_of(host, pid)),
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
        except psycopg.Error as error:
            raise self._lost(error) from None
        return Seen(0, 0 if row is None else row[0])

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
