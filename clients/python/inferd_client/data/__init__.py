"""Rows into datasets of a kernel and out of them again, with pyarrow, a few megabytes at a time.

    from inferd_client import Client, data

    with Client() as client:
        data.add(client, "reviews", "reviews.jsonl")
        for row in data.rows(client, "reviews"):
            print(row["text"])

pyarrow comes with `pip install "inferd[data]"`; without it each of these says so.
"""

from inferd_client.data.adding import add
from inferd_client.data.exporting import export
from inferd_client.data.mapping import Mapped, map_column
from inferd_client.data.repeats import deduplicate
from inferd_client.data.splitting import split
from inferd_client.data.tables import named, rows, tables

__all__ = ["Mapped", "add", "deduplicate", "export", "map_column", "named", "rows", "split", "tables"]
