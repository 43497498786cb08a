"""What is kept is sealed anew, some rows at a time: what was not sealed yet, and what older keys have sealed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import structlog

from inferd.store.codec import Codec, Place
from inferd.store.sealing.sealed_codec import SealedCodec

STEP_ROWS = 1000
STEP_BYTES = 4 << 20
TABLES = ("records", "pieces")

log = structlog.get_logger()


class Row(NamedTuple):
    """A row as it is kept; the number is that of a piece, and `at` says to its store where it is."""

    kind: str
    tenant: str
    key: str
    number: int | None
    value: bytes
    at: int = 0


class Rows(Protocol):
    """The rows of a store."""

    def rows(self, table: str, after: Row | None, *, most: int, most_bytes: int) -> list[Row]:
        """The next ones behind one, in an order of the store's: at most so many, with at most so many bytes, or one."""

    def exchange(self, table: str, rows: Sequence[tuple[Row, Row]]) -> None:
        """Put rows in the places of others, all or nothing."""


@dataclass(slots=True)
class Progress:
    """How far it is. One writer: `resealed`.

    Attributes:
        done: Rows that were sealed.
        looked: Rows that were looked at.
        damaged: Those that could not be read, and are as they were.
    """

    done: int = 0
    looked: int = 0
    damaged: int = field(default=0)


def resealed(store: Rows, codec: Codec, *, most: int = STEP_ROWS, most_bytes: int = STEP_BYTES) -> Iterator[Progress]:
    """Seal what is not sealed with the newest key, and tell after each step how far that is; each step is written.

    What is written between two steps is sealed so anyway.
    """
    progress = Progress()
    if not isinstance(codec, SealedCodec):
        return
    for table in TABLES:
        after = None
        while found := store.rows(table, after, most=most, most_bytes=most_bytes):
            after = found[-1]
            news = ((row, _sealed(row, codec, progress)) for row in found)
            changed = [(row, new) for row, new in news if new is not None]
            if changed:
                store.exchange(table, changed)
            progress.looked += len(found)
            progress.done += len(changed)
            yield progress


def _sealed(row: Row, codec: SealedCodec, progress: Progress) -> Row | None:
    if codec.is_current(row.tenant, row.kind, row.key, row.value):
        return None
    place = Place(row.tenant, row.kind, codec.read_key(row.tenant, row.kind, row.key), row.number)
    try:
        value = codec.read(place, row.value)
    except ValueError as error:
        why = str(error)
    else:
        why = ""
    if why:
        progress.damaged += 1
        log.error("what cannot be read is not sealed anew, and stays as it is", place=str(place), why=why)
        return None
    key = codec.write_key(row.tenant, row.kind, place.key)
    return Row(row.kind, row.tenant, key, row.number, codec.write(place, value))
