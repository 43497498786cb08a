"""The tables of a store in PostgreSQL: their versions, whose they are, and the marker of the last write."""

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import psycopg
import structlog
from psycopg import sql

from inferd.errors import StoreUnavailableError
from inferd.store.postgres_session import Session
from inferd.store.store import MissingError, OldSchemaError

APPLICATION = "inferd"  # marks the schema as ours
NOBODY = ""  # has written yet
MOST_NAME_BYTES = 63
STAMP_CHARACTERS = 22  # of a time, of a number behind it, and of what is between
MIGRATIONS = (
    # 1
    """
    CREATE TABLE {schema}.inferd_store (
      application text NOT NULL, version integer NOT NULL, writer text NOT NULL, written bigint NOT NULL,
      single boolean PRIMARY KEY DEFAULT true CHECK (single)
    );
    CREATE TABLE {schema}.records (
      tenant text COLLATE "C" NOT NULL, kind text COLLATE "C" NOT NULL, key text COLLATE "C" NOT NULL,
      value bytea NOT NULL, PRIMARY KEY (kind, tenant, key)
    );
    CREATE TABLE {schema}.pieces (
      tenant text COLLATE "C" NOT NULL, kind text COLLATE "C" NOT NULL, key text COLLATE "C" NOT NULL,
      number bigint NOT NULL, value bytea NOT NULL, PRIMARY KEY (kind, tenant, key, number)
    );
    INSERT INTO {schema}.inferd_store VALUES ('inferd', 0, '', 0);
    """,
    # 2: the keys of tenants, each wrapped
    """
    CREATE TABLE {schema}.data_keys (
      tenant text COLLATE "C" NOT NULL, number bigint NOT NULL, wrapped bytea NOT NULL, PRIMARY KEY (tenant, number)
    );
    """,
    # 3: the epoch of the kernel that leads; and which kernels there are, as each tells again and again: what a crash of
    # the server takes of that is there again a moment later
    """
    ALTER TABLE {schema}.inferd_store ADD COLUMN epoch bigint NOT NULL DEFAULT 0;
    CREATE UNLOGGED TABLE {schema}.kernels (
      kernel text COLLATE "C" PRIMARY KEY, epoch bigint NOT NULL, backend integer NOT NULL, host text NOT NULL,
      pid integer NOT NULL, version text NOT NULL, addresses text[] NOT NULL, seen timestamptz NOT NULL
    );
    """,
)
"""What brings a schema from each version to the next one; the version is how many were done."""
NAMES_OF_SCHEMAS = "SELECT nspname FROM pg_namespace ORDER BY nspname"
UNSEALED = 1
"""As in `sqlite_file`."""
TABLES = ("inferd_store", "records", "pieces", "data_keys")
CONTENTS = """
    SELECT (SELECT array_agg(relname::text) FROM pg_class WHERE relnamespace = n.oid),
           (SELECT count(*) FROM pg_proc WHERE pronamespace = n.oid),
           (SELECT count(*) FROM pg_type WHERE typnamespace = n.oid)
    FROM pg_namespace n WHERE nspname = %s
"""

log = structlog.get_logger()

Connection = psycopg.Connection[tuple[Any, ...]]


class Marker(NamedTuple):
    """Who has written last, how often that and others had written then, and in which epoch: part of each write."""

    writer: str
    written: int
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """A schema as it was found: its version, 0 for none, and its marker."""

    version: int
    marker: Marker


def newest_schema() -> int:
    """The version that this kernel writes."""
    return len(MIGRATIONS)


def find(connection: Connection, store: str, schema: str) -> Found:
    """What there is; nothing is written. `store` names it to people.

    Raises:
        StoreUnavailableError: It is another program's, or a newer kernel has written it.
    """
    row = connection.execute(CONTENTS, (schema,)).fetchone()
    names, functions, types = (row[0] or [], row[1], row[2]) if row else ([], 0, 0)
    if not names and not functions and not types:
        return Found(0, Marker(NOBODY, 0))
    if "inferd_store" not in names:
        raise _foreign(store, schema, f"it holds {', '.join(sorted(names)[:3]) or 'functions or types'}")
    # By way of JSON, as older schemas have no epoch.
    query = sql.SQL(
        "SELECT application, version, writer, written, coalesce((to_jsonb(s) ->> 'epoch')::bigint, 0)"
        " FROM {}.inferd_store s"
    )
    try:
        rows = connection.execute(query.format(sql.Identifier(schema))).fetchall()
    except (psycopg.errors.UndefinedColumn, psycopg.errors.WrongObjectType):
        rows = []
    if len(rows) != 1 or rows[0][0] != APPLICATION:
        raise _foreign(store, schema, "its table inferd_store is not a kernel's")
    _, version, *marker = rows[0]
    if version > len(MIGRATIONS):
        raise StoreUnavailableError(
            f"the store {store} has schema {version} and this kernel knows {len(MIGRATIONS)}: a newer kernel has"
            " written it; start that one, or name another store.url or store.postgres.schema_name",
            metadata={"cause": "newer schema", "schema": str(version), "known": str(len(MIGRATIONS))},
        )
    return Found(version, Marker(*marker))


def migrate(
    connection: Connection, store: str, schema: str, found: Found, *, makes: bool, migrates: bool, copies: int
) -> None:
    """Bring the schema to the version of this kernel, all of it or nothing; make it where there is none.

    One with an older version is copied before, to a schema of its own; of those the last `copies` are left.

    Raises:
        MissingError: There is none, and none is to be made.
        OldSchemaError: It has an older version, and is to stay so.
    """
    if found.version == len(MIGRATIONS):
        return
    if not found.version and not makes:
        raise MissingError(f"there is no store {store}; `inferd serve` makes it", metadata={"cause": "no store"})
    if found.version and not migrates:
        raise OldSchemaError.of(store, found.version, len(MIGRATIONS))
    name = sql.Identifier(schema)
    with connection.transaction():
        if connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (schema,)).fetchone() is None:
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(name))
        if found.version:
            connection.execute("SET LOCAL statement_timeout = 0")
            _copy(connection, schema, found.version, copies)
        for number, statements in enumerate(MIGRATIONS[found.version :], start=found.version + 1):
            connection.execute(sql.SQL(statements).format(schema=name))
            connection.execute(sql.SQL("UPDATE {}.inferd_store SET version = {}").format(name, number))


def _copy(connection: Connection, schema: str, version: int, copies: int) -> None:
    """Copy the tables to a schema of their own, which a kernel of that version can be told to use."""
    kind = f"schema_{version}"
    copy = _new_name(connection, schema, kind)
    connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(copy)))
    for table in TABLES if version > UNSEALED else TABLES[:-1]:
        old, new = sql.Identifier(schema, table), sql.Identifier(copy, table)
        connection.execute(sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING ALL)").format(new, old))
        connection.execute(sql.SQL("INSERT INTO {} SELECT * FROM {}").format(new, old))
    log.info("the store has an older schema: it is copied before it is brought up", copy=copy, schema=version)
    _drop(connection, _copies(connection, schema, version)[:-copies])


def _copies(connection: Connection, schema: str, version: int) -> list[str]:
    """The copies of a schema of a version, the oldest first."""
    return copies_among(connection.execute(NAMES_OF_SCHEMAS).fetchall(), schema, version)


def copies_among(names: Iterable[tuple[str, ...]], schema: str, version: int) -> list[str]:
    """Those of these names that copies of a schema of a version have."""
    kind = f"schema_{version}"
    stamped = re.compile(re.escape(_cut(schema, kind, STAMP_CHARACTERS)) + rf"_{kind}_\d{{8}}t\d{{6}}z(_\d+)?")
    return [name for (name,) in names if stamped.fullmatch(name)]


def _drop(connection: Connection, names: list[str]) -> None:
    for name in names:
        connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(name)))


def has_copies(fetch: Callable[[str], list[tuple[str, ...]]], schema: str, newest: int) -> bool:
    """Whether there are copies of a schema of this version, or of one before."""
    names = fetch(NAMES_OF_SCHEMAS)
    return any(copies_among(names, schema, each) for each in range(1, newest + 1))


def drop_copies(connection: Connection, schema: str, newest: int) -> None:
    """Remove the copies of a schema of this version, and of those before."""
    for each in range(1, newest + 1):
        if names := _copies(connection, schema, each):
            _drop(connection, names)
            sealed = each > UNSEALED
            log.warning("copies from before the store was brought up are removed", copies=names, sealed=sealed)


def set_aside(connection: Connection, schema: str, why: str) -> str:
    """Give the schema another name, and say in its comment why. Its name from now on."""
    aside = _new_name(connection, schema, "replaced")
    old, new = sql.Identifier(schema), sql.Identifier(aside)
    connection.execute(sql.SQL("ALTER SCHEMA {} RENAME TO {}").format(old, new))
    connection.execute(sql.SQL("COMMENT ON SCHEMA {} IS {}").format(new, sql.Literal(why)))
    return aside


def _new_name(connection: Connection, schema: str, kind: str) -> str:
    """A name that no schema has, which says what it is from now on and since when."""
    stamp = time.strftime("%Y%m%dt%H%M%Sz", time.gmtime())
    names = (f"{_cut(schema, kind, STAMP_CHARACTERS)}_{kind}_{stamp}{f'_{n}' if n else ''}" for n in range(1000))
    taken = "SELECT 1 FROM pg_namespace WHERE nspname = %s"
    return next(name for name in names if connection.execute(taken, (name,)).fetchone() is None)


def _cut(schema: str, kind: str, more: int) -> str:
    """So much of a name that the whole is one that PostgreSQL does not cut."""
    return schema.encode()[: MOST_NAME_BYTES - len(kind) - more].decode(errors="ignore")


def _foreign(store: str, schema: str, what: str) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"the store {store}: the schema {schema} is another program's ({what}); it is left alone: name another"
        " store.postgres.schema_name or store.url",
        metadata={"cause": "not a store"},
    )


def taken_over(store: str, marker: Marker | None, known: Marker, me: str) -> StoreUnavailableError:
    """What to say of a store that others have written, or that lacks what was written; `me` is who finds it so."""
    cause, why = "taken over", "another kernel has written it since this one lost its connection"
    if marker is not None and marker.epoch > known.epoch:
        why = f"another kernel leads since this one lost its connection (epoch {marker.epoch} came after {known.epoch})"
    elif marker is not None and marker.writer in {me, known.writer}:
        cause = "writes lost"
        why = (
            f"it has {marker.written} writes and had acknowledged {known.written}, as after a failover to a"
            " standby that lacks them (see synchronous_standby_names)"
        )
    return StoreUnavailableError(
        f"the store {store}: {why}; this kernel writes it no more: start it again, and it goes on from what is kept",
        metadata={"cause": cause},
    )


def vacuum(session: Session, schema: str) -> None:
    """Give back the room of what was dropped; `schema` is in quotes. Takes as long as it takes."""
    limit_s, session.limit_s = session.limit_s, None
    session.execute("SET statement_timeout = 0")
    for table in TABLES:
        session.execute(f"VACUUM (FULL, ANALYZE) {schema}.{table}")
    session.limit_s = limit_s
