"""A connection to PostgreSQL that has the store's lock, and ends with its process, its host or its network.

The lock is an advisory one of the session: the server lets go of it when the session ends, and only when what the
session has sent is decided. Both sides look after each other (keepalives), so that neither waits for one that is gone.
"""

import hashlib
import logging
import math
import os
import socket
import time
from typing import Any

import psycopg
import structlog
from psycopg.conninfo import conninfo_to_dict

from inferd.errors import StoreUnavailableError
from inferd.store.passwords import hide_passwords
from inferd.store.postgres_errors import unavailable
from inferd.store.where import Where

LEAST_VERSION = 14
KEEPALIVES = {"idle": 5, "interval": 2, "count": 3}  # seconds, seconds and times: a dead side is known after 11 s
MARGIN_S = 5.0  # by which the server's own timeout comes before ours: its answer says more
LOCK_POLL_S = 0.02
HOST_CHARACTERS = 40  # of an application_name, which has 63
HOLDER = """
    SELECT application_name, pid FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND classid::bigint = %s AND objid::bigint = %s
"""
HOLDING = (
    "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    " AND classid::bigint = %d AND objid::bigint = %d"
)

logging.getLogger("psycopg").setLevel(logging.ERROR)  # what it warns of is in the error that it raises
log = structlog.get_logger()


class LateError(psycopg.OperationalError):
    """There was no answer in time."""


class Session(psycopg.Connection[tuple[Any, ...]]):
    """A connection on which nothing is waited for without a bound.

    Attributes:
        limit_s: How long each wait may take; None for without a bound.
        late: The error of the wait that took longer; what is raised for a pipeline may be one that followed from it.
    """

    limit_s: float | None = None
    late: LateError | None = None

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """As the driver's.

        Raises:
            LateError: The time is over.
        """
        limit_s = self.limit_s if timeout is None else timeout
        started = time.monotonic()
        try:
            return super().wait(gen, interval, limit_s)
        except psycopg.OperationalError:
            if limit_s is not None and time.monotonic() - started >= limit_s:
                self.late = LateError(f"no answer within {limit_s:g} s")
                raise self.late from None
            raise


class Server:
    """The database that a URL names.

    Args:
        where: It, and the times.
        warns: Whether the log is told of what the server does not keep safe.

    Attributes:
        name: It and the schema, to people; without a password.
        holder: A query for the server's process that has the lock; no row where nobody has it.

    Raises:
        StoreUnavailableError: The URL cannot be read.
    """

    def __init__(self, where: Where, *, warns: bool = True) -> None:
        self._where = where
        try:
            self._info: dict[str, Any] = dict(conninfo_to_dict(where.url))
        except psycopg.ProgrammingError as error:
            cause = hide_passwords(str(error).partition(': "')[0])  # behind that it repeats what it could not read
            raise StoreUnavailableError(
                f"store.url cannot be read: {cause}; write postgresql://USER@HOST:PORT/DATABASE and percent-encode"
                " what is special in it",
                metadata={"cause": "not a URL"},
            ) from None
        self._warned = not warns
        self.password: str | None = self._info.get("password")
        schema = where.postgres.schema_name
        self.name = f"{_shown(self._info)} (schema {schema})"
        key = hashlib.sha256(b"inferd store\0" + schema.encode()).digest()[:8]
        self._key = int.from_bytes(key, signed=True)
        self._halves = int.from_bytes(key[:4]), int.from_bytes(key[4:])
        self.holder = HOLDING % self._halves

    def connect(self) -> Session:
        """A session that has the lock; another one's end is waited for as long as the configuration says.

        Raises:
            StoreUnavailableError: The database cannot be reached, is none that can be used, or another has the store.
        """
        session = self.connect_aside()
        try:
            self._lock(session)
        except psycopg.Error as error:
            session.close()
            raise self.unavailable(error) from None
        except BaseException:
            session.close()
            raise
        return session

    def connect_aside(self, *, answer_s: float | None = None) -> Session:
        """A session without the lock, whose answers are waited for as long as others are unless it is said.

        Raises:
            StoreUnavailableError: The database cannot be reached, or is none that can be used.
        """
        where, host = self._where, socket.gethostname()
        try:
            session = Session.connect(
                **{
                    **self._info,
                    **{f"keepalives_{name}": number for name, number in KEEPALIVES.items()},
                    "tcp_user_timeout": math.ceil(where.postgres.answer_timeout_s * 1000),
                    "connect_timeout": max(
                        2, math.ceil(where.postgres.connect_timeout_s)
                    ),  # the least that the driver takes
                    "target_session_attrs": self._info.get("target_session_attrs", "read-write"),
                    "application_name": application_of(host, os.getpid()),
                    "client_encoding": "UTF8",
                },
                autocommit=True,
            )
        except psycopg.Error as error:
            raise self.unavailable(error) from None
        session.limit_s = where.postgres.answer_timeout_s + MARGIN_S if answer_s is None else answer_s
        try:
            self.set_up(session)
        except psycopg.Error as error:
            session.close()
            raise self.unavailable(error) from None
        except BaseException:
            session.close()
            raise
        return session

    def release(self, session: Session) -> None:
        """Give the lock back and close the session."""
        session.limit_s = MARGIN_S
        try:
            session.execute("SELECT pg_advisory_unlock(%s)", (self._key,))
        except psycopg.Error:
            log.debug("the store's session was gone when it was closed")
        finally:
            session.close()

    def unavailable(self, error: psycopg.Error) -> StoreUnavailableError:
        """An error of this database, as it is told."""
        return unavailable(self.name, error, self.password)

    def set_up(self, session: Session) -> None:
        """What holds for all that the session does.

        Raises:
            StoreUnavailableError: The database is none that can be used.
            psycopg.Error: It does not answer.
        """
        if (version := session.info.server_version // 10_000) < LEAST_VERSION:
            raise StoreUnavailableError(
                f"the store {self.name}: PostgreSQL {version} is too old, {LEAST_VERSION} is the first that will do",
                metadata={"cause": f"PostgreSQL {version}"},
            )
        answer_ms = str(math.ceil(self._where.postgres.answer_timeout_s * 1000))
        settings = {
            "search_path": "pg_catalog",  # what others define is not called by accident
            "statement_timeout": answer_ms,
            "lock_timeout": answer_ms,
            "idle_in_transaction_session_timeout": answer_ms,
            "idle_session_timeout": "0",  # the session is idle for as long as nothing is to be kept
            "client_connection_check_interval": "5000",
            **{f"tcp_keepalives_{name}": str(number) for name, number in KEEPALIVES.items()},
        }
        for name, value in settings.items():
            session.execute("SELECT pg_catalog.set_config(%s, %s, false)", (name, value))
        encoding, commits, *safe = session.execute(
            "SELECT current_setting('server_encoding'), current_setting('synchronous_commit'),"
            " current_setting('fsync'), current_setting('full_page_writes')"
        ).fetchall()[0]
        if encoding != "UTF8":
            raise StoreUnavailableError(
                f"the store {self.name}: the database has the encoding {encoding} and must have UTF8: make one with"
                " createdb -E UTF8 -T template0",
                metadata={"cause": f"encoding {encoding}"},
            )
        if commits not in {"on", "remote_apply"}:  # which waits for more
            session.execute("SET synchronous_commit = on")
            (commits,) = session.execute("SELECT current_setting('synchronous_commit')").fetchall()[0]
        if commits not in {"on", "remote_apply"}:
            raise StoreUnavailableError(
                f"the store {self.name}: synchronous_commit is {commits} and cannot be turned on",
                metadata={"cause": f"synchronous_commit {commits}"},
            )
        if "off" in safe and not self._warned:
            self._warned = True
            log.warning(
                "the store's server has fsync or full_page_writes off: a loss of power can take what was acknowledged",
                store=self.name,
            )

    def _lock(self, session: Session) -> None:
        deadline = time.monotonic() + self._where.postgres.lock_wait_s
        while not session.execute("SELECT pg_try_advisory_lock(%s)", (self._key,)).fetchall()[0][0]:
            if time.monotonic() >= deadline:
                raise self._in_use(session)
            time.sleep(LOCK_POLL_S)

    def _in_use(self, session: Session) -> StoreUnavailableError:
        found = session.execute(HOLDER, self._halves).fetchone()
        name, connection = found if found is not None else ("", 0)
        words = str(name).split()
        host, process = words[1:] if len(words) == 3 and words[0] == "inferd" else ("", "")  # noqa: PLR2004 - as it is set
        who = f"process {process} on {host}" if host else "another process"
        if (host, process) == (socket.gethostname()[:HOST_CHARACTERS], str(os.getpid())):
            who += ", which is this one: the server has not ended the session that was lost"
        return StoreUnavailableError(
            f"the store {self.name} is in use by {who} (connection {connection}); one kernel at a time has it: end that"
            " one, or name another store.postgres.schema_name or store.url",
            metadata={"cause": "in use", "pid": process or "another process", "host": host},
            retry_after_s=1.0,
        )


def application_of(host: str, pid: int) -> str:
    """By which a server's processes are told apart: the kernel that a connection is of."""
    return f"inferd {host[:HOST_CHARACTERS]} {pid}"


def _shown(info: dict[str, Any]) -> str:
    user = f"{info['user']}@" if info.get("user") else ""
    port = f":{info['port']}" if info.get("port") else ""
    return f"postgresql://{user}{info.get('host') or ''}{port}/{info.get('dbname') or ''}"
