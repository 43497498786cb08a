"""A copy of a store in PostgreSQL while it is used: one snapshot, read by a session of its own, into a file of SQLite.

Values are copied as they are kept, which is the same in both kinds of stores.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import apsw
import psycopg

from inferd.store.postgres_rows import PIECES_BYTES, rows_of
from inferd.store.postgres_session import Server
from inferd.store.sqlite_copy import new_file
from inferd.store.sqlite_file import bring_up, unavailable

TABLES = {
    "data_keys": (("tenant", "number"), "wrapped"),
    "records": (("kind", "tenant", "key"), "value"),
    "pieces": (("kind", "tenant", "key", "number"), "value"),
}


class PostgresCopy:
    """As `Copy`; as of its beginning.

    Args:
        server: Of the store.
        schema: In quotes.
        path: The file, empty.

    Raises:
        StoreUnavailableError: It cannot be begun.
    """

    def __init__(self, server: Server, schema: str, path: Path) -> None:
        self._server, self._path = server, path
        self.done_bytes = self.total_bytes = 0
        self._closed = False
        self._session = server.connect_aside()
        try:
            self._file = _made(path)
            self._begin(schema)
        except BaseException:
            self._session.close()
            raise
        self._rows = self._each(schema)

    def _begin(self, schema: str) -> None:
        """The snapshot, which is that of the first look at a table."""
        try:
            self._session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            self._session.execute("SET LOCAL idle_in_transaction_session_timeout = 0")  # writes come first
            tables = [f"{schema}.{table}" for table in TABLES]
            query = "SELECT sum(pg_table_size(name::regclass)) FROM unnest(%s::text[]) name"
            self.total_bytes = int(self._session.execute(query, (tables,)).fetchall()[0][0])
            for table in tables:
                self._session.execute(f"SELECT 1 FROM {table} LIMIT 1")  # noqa: S608 - ours
        except psycopg.Error as error:
            self._file.close()
            raise self._server.unavailable(self._session.late or error) from None

    def _fetch(self, query: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        try:
            return self._session.execute(query, values, binary=True).fetchall()
        except psycopg.Error as error:
            raise self._server.unavailable(self._session.late or error) from None

    def _each(self, schema: str) -> Iterator[tuple[str, tuple[Any, ...]]]:
        """What is to be done to the file for each row."""
        for table, (names, column) in TABLES.items():
            insert = f"INSERT INTO {table} ({', '.join(names)}, {column}) VALUES ({', '.join('?' * (len(names) + 1))})"  # noqa: S608 - ours
            source = f"{schema}.{table}"
            if column != "value":
                source = f"(SELECT {', '.join(names)}, {column} AS value FROM {source}) named"  # noqa: S608 - ours
            for row in rows_of(self._fetch, source, names, {}, page_bytes=PIECES_BYTES):
                yield insert, row

    def step(self, limit_s: float) -> bool:
        """As `Copy.step`."""
        ends = time.monotonic() + limit_s
        try:
            for insert, row in self._rows:
                self._file.execute(insert, row)
                self.done_bytes += len(row[-1])
                if time.monotonic() >= ends:
                    return False
            self._file.execute("COMMIT")
        except apsw.Error as error:
            raise unavailable(self._path, error) from None
        self.done_bytes = self.total_bytes = max(self.done_bytes, self.total_bytes)
        return True

    def close(self) -> None:
        """As `Copy.close`."""
        if self._closed:
            return
        self._closed = True
        self._session.close()
        try:
            self._file.close()
        except apsw.Error as error:
            raise unavailable(self._path, error) from None


def _made(path: Path) -> apsw.Connection:
    """A file that has the tables, and nothing in them; a transaction has begun."""
    try:
        database = new_file(path)
        database.execute("BEGIN")
        bring_up(database, 0)
    except apsw.Error as error:
        raise unavailable(path, error) from None
    return database
