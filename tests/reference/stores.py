"""The kinds of stores for tests of all of them, what one holds, and what it should hold after some writes."""

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
from hypothesis import strategies as st
from postgres_server import PostgresServer

from inferd.config import Settings
from inferd.store.postgres import PostgresStore
from inferd.store.sealing.sealed import Sealing
from inferd.store.sqlite import SqliteStore
from inferd.store.store import Append, Drop, Kind, Put, Store, Write


def usual_sealing(*, on: bool = True) -> Sealing:
    """How kernels of tests seal their stores, unless they are told otherwise."""
    place = Settings(store={"sealing": "on" if on else "off"}).store_place  # type: ignore[arg-type] # what it is read from
    return Sealing.of(place)


def opened_store(path: Path, **options: Any) -> SqliteStore:
    """The store in a file that a kernel of tests may have left."""
    return SqliteStore(path, **{"sealing": usual_sealing()} | options)


def raw_value(path: Path, table: str, where: str) -> bytes:
    """A value as it is kept in a file that nobody has."""
    with closing(apsw.Connection(str(path))) as database:
        ((value,),) = database.execute(f"SELECT value FROM {table} WHERE {where}")  # noqa: S608 - of tests
    assert isinstance(value, bytes)
    return value


class Sqlite:
    """Stores in a file of a folder."""

    known = 2  # the version of its schema
    newer = "PRAGMA user_version = 99"
    bad_name = "CAST(x'ff' AS TEXT)"
    bad_value = "x'0102'"

    def __init__(self, folder: Path) -> None:
        self.path = folder / "kernel.sqlite"
        self.settings: dict[str, Any] = {"url": f"sqlite:{self.path}"}

    def open(self, **options: Any) -> SqliteStore:
        return SqliteStore(self.path, **{"sealing": usual_sealing()} | options)

    def run(self, store: Store, statement: str) -> None:
        """Do something behind the store's back."""
        assert isinstance(store, SqliteStore)
        store._database.execute(statement)

    def fill(self, store: Store) -> None:
        """Leave no room for more."""
        assert isinstance(store, SqliteStore)
        (pages,) = next(store._database.execute("PRAGMA page_count"))
        self.run(store, f"PRAGMA max_page_count = {pages}")

    def give_room(self, store: Store) -> None:
        """Leave room again."""
        self.run(store, "PRAGMA max_page_count = 1000000")


class Postgres:
    """Stores in a database."""

    known = 3
    newer = "UPDATE inferd_store SET version = 99"
    bad_name = "'ÿ'"
    bad_value = r"'\x0102'"

    def __init__(self, server: PostgresServer, database: str, schema: str = "inferd") -> None:
        self.server, self.database = server, database
        self.settings: dict[str, Any] = {
            "url": server.url(database),
            "postgres": {"lock_wait_s": 0.0, "schema_name": schema},
        }
        self.place = Settings(store=self.settings).store_place  # type: ignore[arg-type] # what it is read from

    def open(self, **options: Any) -> PostgresStore:
        return PostgresStore(self.place, **{"sealing": usual_sealing()} | options)

    def run(self, _store: Store, statement: str) -> None:
        """As above."""
        with self.server.connect(self.database) as connection:
            connection.execute(f"SET search_path = {self.place.postgres.schema_name}")  # type: ignore[arg-type] # ours
            connection.execute(statement)  # type: ignore[arg-type] # ours

    def fill(self, store: Store) -> None:
        """As above: the server says of each write what it says of a full disk."""
        self.run(
            store,
            "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'No space left on device' USING ERRCODE = '53100'; END $$;"
            " CREATE TRIGGER full_disk BEFORE INSERT ON records FOR EACH ROW EXECUTE FUNCTION full_disk()",
        )

    def give_room(self, store: Store) -> None:
        """As above."""
        self.run(store, "DROP TRIGGER full_disk ON records; DROP FUNCTION full_disk()")


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
    st.builds(Drop, st.sampled_from("ab"), st.sampled_from(Kind), st.sampled_from("xyz"), st.booleans()),
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
            case Drop(record=record):
                if record:
                    records.pop(key, None)
                pieces.pop(key, None)
    return {key: (value, [piece for _, piece in sorted(pieces.get(key, {}).items())]) for key, value in records.items()}
