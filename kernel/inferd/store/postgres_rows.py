"""Rows of a store in PostgreSQL, read page by page, each bounded in rows and in bytes."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from itertools import islice
from typing import Any

from inferd.store.sealing.resealing import Row

PAGE_ROWS = 256
PAGE_BYTES = 8 << 20
PIECES_BYTES = 128 << 10  # of pieces, which are read for clients that wait for them, and of what is read beside writes

NAMES = {"records": ("kind", "tenant", "key"), "pieces": ("kind", "tenant", "key", "number")}
"""What names a row, by table."""

Fetch = Callable[[str, Sequence[Any]], list[tuple[Any, ...]]]


def rows_of(
    fetch: Fetch,
    table: str,
    names: tuple[str, ...],
    wanted: dict[str, Any],
    *,
    given: Sequence[Any] = (),
    last: tuple[Any, ...] = (),
    page_bytes: int = PAGE_BYTES,
) -> Generator[tuple[Any, ...], None, None]:
    """The names and the value of each row of a table that has what is wanted, in the order of the names, page by page.

    Those up to the one whose names are `last` are left out, if it is given. `table` may be a query of `given` values.
    """
    order, after = ", ".join(names), f"({', '.join(names)}) > ({', '.join(['%s'] * len(names))})"
    while True:
        conditions = [*(f"{name} = %s" for name in wanted), *([after] if last else [])]
        rows = fetch(
            f"SELECT {order}, value, inside FROM (SELECT *, count(*) OVER () AS inside,"  # noqa: S608 - ours
            f" sum(octet_length(value)) OVER (ORDER BY {order}) - octet_length(value) AS before"
            f" FROM (SELECT {order}, value FROM {table} WHERE {' AND '.join(conditions) or 'true'}"
            f" ORDER BY {order} LIMIT {PAGE_ROWS}) r) p WHERE before < {page_bytes} ORDER BY {order}",
            (*given, *wanted.values(), *last),
        )
        for row in rows:
            yield row[:-1]
        if len(rows) < PAGE_ROWS and (not rows or len(rows) == rows[-1][-1]):
            return
        last = rows[-1][: len(names)]


def next_rows(
    rows: Callable[..., Generator[tuple[Any, ...], None, None]], table: str, after: Row | None, *, most: int
) -> list[Row]:
    """As `Rows.rows`, by what reads the rows of a table; a page at most."""
    names = NAMES[table]
    last = () if after is None else tuple(getattr(after, name) for name in names)
    with closing(rows(table, names, {}, last=last)) as found:
        some = islice(found, min(most, PAGE_ROWS))
        return [Row(kind, tenant, key, number[0] if number else None, v) for kind, tenant, key, *number, v in some]
