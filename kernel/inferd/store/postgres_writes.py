"""The statements by which batches, rows that are sealed anew, and keys get into a store in PostgreSQL: few for many."""

from collections.abc import Sequence

from inferd.store.batch import Batch
from inferd.store.postgres_session import Session
from inferd.store.sealing.data_keys import DataKeys
from inferd.store.sealing.resealing import TABLES, Row


def add_batch(session: Session, schema: str, batch: Batch) -> None:
    """Do what a batch says; `schema` is in quotes."""
    whole = [name for name, record in batch.dropped.items() if record]
    for table, dropped in (("records", whole), ("pieces", [*batch.dropped])):
        if dropped:
            tenants, kinds, keys = map(list, zip(*dropped, strict=True))
            session.execute(
                f"DELETE FROM {schema}.{table} t USING unnest(%b::text[], %b::text[], %b::text[]) AS"  # noqa: S608 - ours
                ' d(tenant, kind, key) WHERE t.kind = d.kind COLLATE "C" AND t.tenant = d.tenant COLLATE "C"'
                ' AND t.key = d.key COLLATE "C"',
                (tenants, kinds, keys),
            )
    if batch.records:
        records = [(*name, value) for name, value in batch.records.items()]
        session.execute(
            f"INSERT INTO {schema}.records SELECT * FROM"  # noqa: S608 - ours
            " unnest(%b::text[], %b::text[], %b::text[], %b::bytea[])"
            " ON CONFLICT (kind, tenant, key) DO UPDATE SET value = EXCLUDED.value",
            [list(column) for column in zip(*records, strict=True)],
        )
    if batch.pieces:
        pieces = [(*name, number, value) for name, own in batch.pieces.items() for number, value in own.items()]
        session.execute(
            f"INSERT INTO {schema}.pieces SELECT * FROM"  # noqa: S608 - ours
            " unnest(%b::text[], %b::text[], %b::text[], %b::bigint[], %b::bytea[])"
            " ON CONFLICT (kind, tenant, key, number) DO UPDATE SET value = EXCLUDED.value",
            [list(column) for column in zip(*pieces, strict=True)],
        )


def exchange_rows(session: Session, schema: str, table: str, rows: Sequence[tuple[Row, Row]]) -> None:
    """Put rows in the places of others of the same tenant, kind and number."""
    old, new = zip(*rows, strict=True)
    numbers = [row.number or 0 for row in old]
    also = " AND t.number = d.number" if table == "pieces" else ""
    session.execute(
        f"UPDATE {schema}.{table} t SET key = d.sealed, value = d.value FROM unnest(%b::text[], %b::text[], %b::text[],"  # noqa: S608 - ours
        " %b::bigint[], %b::text[], %b::bytea[]) AS d(tenant, kind, key, number, sealed, value)"
        ' WHERE t.kind = d.kind COLLATE "C" AND t.tenant = d.tenant COLLATE "C" AND t.key = d.key COLLATE "C"' + also,
        (
            [row.tenant for row in old],
            [row.kind for row in old],
            [row.key for row in old],
            numbers,
            [row.key for row in new],
            [row.value for row in new],
        ),
    )


def keep_keys(session: Session, schema: str, keys: DataKeys | None) -> None:
    """Write the keys that are to be written, in the same transaction as what is sealed with them."""
    if keys is None:
        return
    if keys.gone:
        tenants, numbers = map(list, zip(*keys.gone, strict=True))
        session.execute(
            f"DELETE FROM {schema}.data_keys t USING unnest(%b::text[], %b::bigint[]) AS d(tenant, number)"  # noqa: S608 - ours
            ' WHERE t.tenant = d.tenant COLLATE "C" AND t.number = d.number',
            (tenants, numbers),
        )
    if keys.unkept:
        rows = [(*name, wrapped) for name, wrapped in keys.unkept.items()]
        session.execute(
            f"INSERT INTO {schema}.data_keys SELECT * FROM unnest(%b::text[], %b::bigint[], %b::bytea[])"  # noqa: S608 - ours
            " ON CONFLICT (tenant, number) DO UPDATE SET wrapped = EXCLUDED.wrapped",
            [list(column) for column in zip(*rows, strict=True)],
        )


def drop_tenant(session: Session, schema: str, tenant: str) -> None:
    """Drop all records and pieces of a tenant."""
    for table in TABLES:
        session.execute(f'DELETE FROM {schema}.{table} WHERE tenant = %s COLLATE "C"', (tenant,))  # noqa: S608 - ours
