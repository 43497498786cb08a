"""What a store in PostgreSQL finds when it is opened, takes, refuses and tells."""

import sys
from contextlib import closing
from urllib.parse import quote

import psycopg
import pytest
from postgres_server import LOCKED, PostgresServer
from stores import Postgres, held, model_of
from structlog.testing import capture_logs

from inferd.config import Settings
from inferd.errors import StoreUnavailableError
from inferd.store import postgres_schema
from inferd.store.opening import open_store
from inferd.store.store import Drop, Kind, MissingError, OldSchemaError, Put

ONE, TWO = (Put("", Kind.TASK, "t", value) for value in (b"1", b"2"))


@pytest.fixture
def stores(postgres: PostgresServer, database: str) -> Postgres:
    """What opens the store of a database."""
    return Postgres(postgres, database)


@pytest.mark.parametrize("settings", ["off", "local", "remote_write", "remote_apply", "on"])
def test_commits_are_on_the_disk_whatever_the_database_says(settings: str, stores: Postgres) -> None:
    """`synchronous_commit` of a session is `on`, or what waits for more."""
    with stores.server.connect(stores.database) as connection:
        connection.execute(f"ALTER DATABASE {stores.database} SET synchronous_commit = {settings}")  # type: ignore[arg-type] # ours
    with closing(stores.open()) as store:
        ((found,),) = store._fetch("SHOW synchronous_commit")
    assert found == ("remote_apply" if settings == "remote_apply" else "on")


@pytest.mark.parametrize(
    "made",
    [
        "CREATE TABLE inferd.notes (a text)",
        "CREATE TABLE inferd.inferd_store (a text)",
        "CREATE VIEW inferd.inferd_store AS SELECT 'other' AS application, 1 AS version, '' AS writer, 1 AS written",
        "CREATE TYPE inferd.mood AS ENUM ('sad')",
        "CREATE FUNCTION inferd.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    ],
)
def test_a_schema_of_another_program_is_refused_and_left_alone(made: str, stores: Postgres) -> None:
    """It is refused by name, and nothing is made in it; the same database has room for a kernel's own schema."""
    with stores.server.connect(stores.database) as connection:
        connection.execute("CREATE SCHEMA inferd")
        connection.execute(made)  # type: ignore[arg-type] # ours
        names = "SELECT relname FROM pg_class WHERE relnamespace = 'inferd'::regnamespace ORDER BY 1"
        before = connection.execute(names).fetchall()
        with pytest.raises(StoreUnavailableError, match="another program's") as caught:
            stores.open()
        assert caught.value.metadata["cause"] == "not a store"
        assert connection.execute(names).fetchall() == before
    Postgres(stores.server, stores.database, "another").open().close()


def test_kernels_that_share_a_database_have_a_schema_each(stores: Postgres) -> None:
    """Both have their store at the same time, and see nothing of the other's."""
    other = Postgres(stores.server, stores.database, "second")
    with closing(stores.open()) as first, closing(other.open()) as second:
        first.write([ONE])
        second.write([TWO])
        assert (held(first), held(second)) == (model_of([ONE]), model_of([TWO]))


def test_an_empty_schema_of_an_administrator_is_used(stores: Postgres) -> None:
    """A user who may not make schemas has a store in one that was made for it; without it the error names the fix."""
    url = stores.server.url(stores.database).replace("postgres@", f"{LOCKED[0]}@")
    with stores.server.connect(stores.database) as connection:
        connection.execute(f"REVOKE CREATE ON DATABASE {stores.database} FROM PUBLIC")  # type: ignore[arg-type] # ours
        place = Settings(store={"url": f"{url}&password=pass%20word:%40/'secret"}).store_place
        with pytest.raises(StoreUnavailableError, match="GRANT CREATE ON DATABASE") as caught:
            open_store(place)
        assert caught.value.metadata["sqlstate"] == "42501"
        connection.execute(f"CREATE SCHEMA inferd AUTHORIZATION {LOCKED[0]}")  # type: ignore[arg-type] # ours
        with closing(open_store(place)) as store:
            store.write([ONE])


@pytest.mark.parametrize("password", ["wrong secret", LOCKED[1]])
def test_no_password_is_told(password: str, stores: Postgres) -> None:
    """Neither the name of the store, nor an error, nor the log, nor a setting that is shown has the password."""
    name = quote(password, safe="")
    url = f"postgresql://{LOCKED[0]}:{name}@/no_such_database?host={stores.server.folder}"
    place = Settings(store={"url": url}).store_place
    with capture_logs() as logs, pytest.raises(StoreUnavailableError) as caught:
        open_store(place)
    told = f"{caught.value.message} {caught.value.metadata} {logs} {place!r} {caught.value!r} {caught.value.__cause__}"
    assert LOCKED[0] in told
    for form in (password, name, "secret"):
        assert form not in told


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("postgresql://u:secret@h:port/d", "port"),
        ("postgresql://u:secret@[::1/d", "store.url cannot be read"),
        ("postgresql://u:se%zzcret@h/d", "store.url cannot be read"),
        ("postgresql://u@h/d?password=secret&wrong=secret", "store.url cannot be read"),
    ],
)
def test_a_url_that_cannot_be_read_is_refused_without_its_password(url: str, named: str) -> None:
    """The error says what is wrong with it, and repeats nothing that could be a password."""
    with pytest.raises(StoreUnavailableError, match=named) as caught:
        open_store(Settings(store={"url": url}).store_place)
    assert "cret" not in f"{caught.value.message} {caught.value.metadata}".replace("secrets", "")


def test_a_database_of_another_encoding_is_refused(postgres: PostgresServer) -> None:
    """Texts of every language must fit: another encoding than UTF8 is refused with how a database of it is made."""
    name = postgres.make_database("ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    with pytest.raises(StoreUnavailableError, match="encoding LATIN1 and must have UTF8"):
        Postgres(postgres, name).open()
    postgres.drop_database(name)


def test_a_standby_is_refused(stores: Postgres) -> None:
    """A database that takes no writes is refused when it is opened, and when it becomes so later."""
    with closing(stores.open()) as store:
        store.write([ONE])
        with stores.server.connect(stores.database) as connection:
            connection.execute(f"ALTER DATABASE {stores.database} SET default_transaction_read_only = on")  # type: ignore[arg-type] # ours
        stores.server.cut(stores.database)
        with pytest.raises(StoreUnavailableError, match="read-only"):
            store.write([TWO])
        with stores.server.connect() as connection:
            connection.execute(f"ALTER DATABASE {stores.database} RESET default_transaction_read_only")  # type: ignore[arg-type] # ours
        store.write([TWO])
        assert held(store) == model_of([TWO])


def test_an_older_schema_is_brought_up_by_who_may(stores: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who only looks is refused with both versions; a kernel applies what is missing, and keeps what there is."""
    with closing(stores.open()) as store:
        store.write([ONE])
    later = "ALTER TABLE {schema}.records ADD COLUMN more integer"
    monkeypatch.setattr(postgres_schema, "MIGRATIONS", (*postgres_schema.MIGRATIONS, later))
    with pytest.raises(OldSchemaError, match="has schema 3 and this version has 4"):
        stores.open(migrates=False)
    with closing(stores.open()) as store:
        assert store.opened_schema == 3
        assert held(store) == model_of([ONE])
        assert store._fetch("SELECT more FROM inferd.records") == [(None,)]


def test_a_migration_that_fails_leaves_the_schema_as_it_was(stores: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it or nothing: after a failure in the second statement the first is undone, too."""
    stores.open().close()
    wrong = ("ALTER TABLE {schema}.records ADD COLUMN more integer", "SELECT * FROM {schema}.none")
    with monkeypatch.context() as patch:
        patch.setattr(postgres_schema, "MIGRATIONS", (*postgres_schema.MIGRATIONS, *wrong))
        with pytest.raises(StoreUnavailableError, match="does not exist"):
            stores.open()
    with closing(stores.open()) as store:
        assert store.opened_schema == 3
        with pytest.raises(StoreUnavailableError, match="more"):
            store._fetch("SELECT more FROM inferd.records")


def test_nothing_is_made_where_nothing_is_to_be(stores: Postgres) -> None:
    """Who only looks finds no store where there is none, and makes none."""
    with pytest.raises(MissingError, match="there is no store postgresql://"):
        stores.open(makes=False)
    with stores.server.connect(stores.database) as connection:
        assert connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = 'inferd'").fetchall() == []


def test_names_that_it_cannot_hold_are_refused_and_the_next_write_done(stores: Postgres) -> None:
    """A name with a NUL, or none of Unicode, is an error of that write alone: the session and its lock stay."""
    with closing(stores.open()) as store:
        (before,) = store._fetch("SELECT pg_backend_pid()")
        with pytest.raises(StoreUnavailableError, match="0x00"):
            store.write([Put("", Kind.TASK, "a\0b", b"1")])
        store.write([Put("ä☃", Kind.TASK, "😀' \\ %s {x}", b"1"), Drop("ä☃", Kind.TASK, "'; --")])
        assert store._fetch("SELECT pg_backend_pid()") == [before]
        assert [record.key for record in store.records(Kind.TASK)] == ["😀' \\ %s {x}"]


def test_the_message_names_the_fix_where_the_driver_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without psycopg a URL of PostgreSQL is refused with the command that installs it."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    for name in [name for name in sys.modules if name.startswith("inferd.store.postgres")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(StoreUnavailableError, match=r'pip install "inferd\[postgres\]"') as caught:
        open_store(Settings(store={"url": "postgresql://u:secret@h/d"}).store_place)
    assert caught.value.metadata["cause"] == "psycopg is not installed"


def test_an_error_of_the_server_tells_no_row(stores: Postgres) -> None:
    """What the server adds to an error, as the row that failed, is left out."""
    with closing(stores.open()) as store:
        stores.run(store, "ALTER TABLE records ADD CONSTRAINT none CHECK (key <> 'a key')")
        with pytest.raises(StoreUnavailableError, match="violates check constraint") as caught:
            store.write([Put("", Kind.TASK, "a key", b"a value")])
        assert "a key" not in f"{caught.value.message} {caught.value.metadata}"
        assert isinstance(caught.value.__context__, psycopg.Error)
