"""What can still be read of a damaged file: each record by itself, so that a damaged page costs what is on it."""

from collections.abc import Iterator, Sequence
from contextlib import suppress

from inferd.errors import StoreUnavailableError
from inferd.store.sqlite import NAMES, VALUE, SqliteStore
from inferd.store.store import Damaged, DamagedError, Kind, Name, Record
from inferd.store.values import place_of


class SalvagedStore(SqliteStore):
    """As `SqliteStore`, of a file that is not looked through when it is opened; it is to be read only."""

    looks = False

    def records(self, kind: Kind, damaged: Damaged | None = None, *, unless: Kind | None = None) -> Iterator[Record]:
        """As `Store.records`; without `damaged` what cannot be read is left out untold."""
        others = set() if unless is None else {*self._kept_names(unless)}
        yield from self.some(kind, [name for name in self._kept_names(kind) if name not in others], damaged)

    def some(self, kind: Kind, names: Sequence[Name], damaged: Damaged | None = None) -> Iterator[Record]:
        """As `Store.some`; without `damaged` as `records`."""
        for tenant, key in names:
            try:
                where = "kind = ? AND CAST(tenant AS BLOB) = ? AND CAST(key AS BLOB) = ?"
                place = kind.value, tenant.encode(), self._codec.write_key(tenant, kind.value, key).encode()
                rows = list(self._read(f"SELECT {VALUE} FROM records WHERE {where}", place))  # noqa: S608 - ours
                values = [self._value(place_of(tenant, kind.value, key), value) for (value,) in rows]
            except StoreUnavailableError as error:
                if damaged is not None:
                    damaged(tenant, key, DamagedError(error.message, metadata=error.metadata))
            else:
                yield from (Record(tenant, key, value) for value in values)

    def _kept_names(self, kind: Kind) -> list[tuple[str, str]]:
        """Those that stand in the index, from its beginning and from its end as far as it can be read."""
        found: dict[tuple[str, str], None] = {}
        for order in ("ASC", "DESC"):
            query = f"SELECT {NAMES} FROM records WHERE kind = ? ORDER BY tenant {order}, key {order}"  # noqa: S608 - ours
            with suppress(StoreUnavailableError):
                for names in self._read(query, (kind.value,)):
                    found[self._names(kind.value, *names)] = None
        return sorted(found)

    def pieces(self, tenant: str, kind: Kind, key: str, *, after: int = -1) -> Iterator[bytes]:
        """As `Store.pieces`."""
        try:
            yield from super().pieces(tenant, kind, key, after=after)
        except DamagedError:
            raise
        except StoreUnavailableError as error:
            raise DamagedError(error.message, metadata=error.metadata) from None
