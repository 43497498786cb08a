"""The kinds of stores for tests of all of them, what one holds, and what it should hold after some writes."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from postgres_server import PostgresServer

from inferd.config import Settings
from inferd.store.postgres import PostgresStore
from inferd.store.sqlite import SqliteStore
from inferd.store.store import Append, Drop, Kind, Put, Store, Write


class Sqlite:
    """Stores in a file of a folder."""

    newer = "PRAGMA user_version = 99"

    def __init__(self, folder: Path) -> None:
        self.path = folder / "kernel.sqlite"

    def open(self, **options: Any) -> SqliteStore:
        return SqliteStore(self.path, **options)

    def run(self, store: Store, statement: str) -> None:
        """Do something behind the store's back."""
        assert isinstance(store, SqliteStore)
        store._database.execute(statement)


class Postgres:
    """Stores in a database."""

    newer = "UPDATE inferd_store SET version = 99"

    def __init__(self, server: PostgresServer, database: str, schema: str = "inferd") -> None:
        self.server, self.database = server, database
        chosen = {"lock_wait_s": 0.0, "schema_name": schema}
        self.place = Settings(store={"url": server.url(database), "postgres": chosen}).store_place

    def open(self, **options: Any) -> PostgresStore:
        return PostgresStore(self.place, **options)

    def run(self, _store: Store, statement: str) -> None:
        """As above."""
        with self.server.connect(self.database) as connection:
            connection.execute(f"SET search_path = {self.place.postgres.schema_name}")  # type: ignore[arg-type] # ours
            connection.execute(statement)  # type: ignore[arg-type] # ours


Stores = Sqlite | Postgres


def held(store: Store) -> dict[tuple[str, Kind, str], tuple[bytes, list[bytes]]]:
    """All that a store has."""
    return {
        (record.tenant, kind, record.key): (record.value, list(store.pieces(record.tenant, kind, record.key)))
        for kind in Kind
        for record in store.records(kind)
    }


WRITES: st.SearchStrategy[Write] = st.one_of(
    st.builds(Put, st.sampled_from("ab"), st.sampled_from(Kind), st.sampled_from("xyz"), st.binary(max_size=40)),
    st.builds(Drop, st.sampled_from("ab"), st.sampled_from(Kind), st.sampled_from("xyz")),
    st.builds(
        Append,
        st.sampled_from("ab"),
        st.sampled_from(Kind),
        st.sampled_from("xyz"),
        st.integers(1, 5),
        st.binary(max_size=40),
    ),
)


def model_of(writes: Iterable[Write]) -> dict[tuple[str, Kind, str], tuple[bytes, list[bytes]]]:
    """What a store holds after these writes."""
    records: dict[tuple[str, Kind, str], bytes] = {}
    pieces: dict[tuple[str, Kind, str], dict[int, bytes]] = {}
    for each in writes:
        key = (each.tenant, each.kind, each.key)
        match each:
            case Put():
                records[key] = each.value
            case Append():
                pieces.setdefault(key, {})[each.number] = each.value
            case Drop():
                records.pop(key, None)
                pieces.pop(key, None)
    return {key: (value, [piece for _, piece in sorted(pieces.get(key, {}).items())]) for key, value in records.items()}
