"""What is read of a store in PostgreSQL, page by page."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from inferd.store.codec import Codec, Place
from inferd.store.postgres_rows import NAMES, PAGE_BYTES, PAGE_ROWS, PIECES_BYTES, next_rows, rows_of
from inferd.store.postgres_schema import TABLES
from inferd.store.sealing.resealing import Row
from inferd.store.store import Append, Damaged, DamagedError, Kind, Name, Put, Record
from inferd.store.values import place_of, read_value

RECORD = ("tenant", "key")  # what names one of a kind


class PostgresReading:
    """The part of a store that only reads; who fetches rows is the store itself.

    Attributes:
        name: What it is called to people; without a password.
    """

    name: str
    _schema: str  # in quotes
    _codec: Codec

    def _fetch(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        raise NotImplementedError

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

    def _value(self, place: Place, written: bytes) -> bytes:
        return read_value(self._codec, self.name, place, written)

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

    def size_bytes(self) -> int:
        """As `Store.size_bytes`: of its tables and their indexes."""
        tables = [f"{self._schema}.{table}" for table in TABLES]
        rows = self._fetch("SELECT sum(pg_total_relation_size(name::regclass)) FROM unnest(%s::text[]) name", (tables,))
        return int(rows[0][0])

    def unix_time(self) -> float:
        """As `Store.unix_time`."""
        return float(self._fetch("SELECT extract(epoch FROM clock_timestamp())::float8")[0][0])
