"""A blob as the kernel knows it: its row, who holds it, and what a tenant has of them."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import structlog

from inferd.core.blob import Blob, BlobState
from inferd.errors import BlobHeldError, BlobNotFoundError, InferdError
from inferd.store.store import Kind, Put

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from inferd.store.arrival import Arrival
    from inferd.store.store import Store

    Rows = Callable[[Callable[[Store], Any]], Awaitable[Any]]
    """Does something with the store, on its thread, and tells what came of it."""

Key = tuple[str, str]
"""Tenant and digest."""

log = structlog.get_logger()


@dataclass(slots=True, eq=False, kw_only=True)
class Entry:
    """A blob. One writer: `Blobs`; who gives it bytes has its lock.

    Attributes:
        tenant: Whose.
        digest: Which.
        size_bytes: How many bytes it has, or will have.
        created: When it was announced, in Unix time.
        used: When it was given, read or held last.
        written_use: What its row says of that.
        whole: Whether all bytes have come, and its row says so.
        kept: Whether it has a row.
        gone: Whether it is forgotten.
        own: Whether it is the kernel's own: then it is forgotten when nobody holds it.
        received_bytes: How many bytes have come.
        holders: Who holds it, and how often.
        room_bytes: How much room is kept for it; fewer than it will have where no more of it came for long.
        arrival: What its bytes go to; None until some come to this kernel.
        lock: Of who gives it bytes.
    """

    tenant: str
    digest: str
    size_bytes: int
    created: float
    used: float
    written_use: float = 0.0
    whole: bool = False
    kept: bool = False
    gone: bool = False
    own: bool = False
    received_bytes: int = 0
    room_bytes: int = field(init=False)
    holders: Counter[str] = field(default_factory=Counter)
    arrival: Arrival | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        """Room is kept for all of it."""
        self.room_bytes = self.size_bytes

    @property
    def key(self) -> Key:
        """Tenant and digest."""
        return self.tenant, self.digest

    @property
    def complete(self) -> bool:
        """Whether all bytes have come."""
        return self.whole or self.received_bytes == self.size_bytes

    def blob(self) -> Blob:
        """How it stands."""
        return Blob(
            digest=self.digest,
            size_bytes=self.size_bytes,
            received_bytes=self.size_bytes if self.whole else self.received_bytes,
            state=BlobState.WHOLE if self.whole else BlobState.PARTIAL,
            created=self.created,
            used=self.used,
            holders=tuple(sorted(self.holders)),
        )

    def row(self, *, whole: bool) -> Put:
        """The row of one that is whole, or that grows."""
        self.written_use = self.used
        value = {"size": self.size_bytes, "created": self.created, "used": self.used, "own": self.own}
        kind = Kind.BLOB if whole else Kind.UPLOAD
        return Put(self.tenant, kind, self.digest, json.dumps(value, separators=(",", ":")).encode())

    def hold(self, holder: str) -> None:
        """Someone holds it, or once more."""
        self.holders[holder] += 1

    def let_go(self, holder: str) -> None:
        """Someone holds it no longer, or once less; nothing where it was not held."""
        self.holders[holder] -= 1
        if self.holders[holder] <= 0:
            del self.holders[holder]

    @contextmanager
    def held(self, holder: str) -> Iterator[None]:
        """Someone holds it as long as the block."""
        self.hold(holder)
        try:
            yield
        finally:
            self.let_go(holder)

    def check_free(self) -> None:
        """Refuse to go.

        Raises:
            BlobHeldError: Someone holds it.
        """
        if self.holders:
            holders = ", ".join(sorted(self.holders)[:5])
            raise BlobHeldError(
                f"blob sha256:{self.digest} is held by {holders}; it can be deleted when they have let go",
                metadata={"digest": f"sha256:{self.digest}", "holders": holders},
            )

    def missing(self, why: str) -> BlobNotFoundError:
        """That it is not there, and why."""
        return not_found(self.digest, why)


def not_found(digest: str, why: str) -> BlobNotFoundError:
    """That a blob is not there, and why."""
    return BlobNotFoundError(f"blob sha256:{digest} {why}", metadata={"digest": f"sha256:{digest}"})


@dataclass(slots=True, eq=False)
class Own:
    """What a tenant has."""

    entries: dict[str, Entry] = field(default_factory=dict)
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Left:
    """What the kernels before this one have left.

    Attributes:
        entries: The blobs.
        folder: The name of the folder that has their files; "" for none yet.
        damaged: Those whose rows cannot be read: their files stay.
    """

    entries: list[Entry]
    folder: str
    damaged: set[Key]


def read_left(store: Store) -> Left:
    """What a store has of blobs.

    Raises:
        StoreUnavailableError: It cannot be read.
    """
    left = Left([], next((record.value.decode() for record in store.records(Kind.FOLDER)), ""), set())

    def damaged(tenant: str, digest: str, error: Exception) -> None:
        log.error("the row of a blob is damaged, which is not known so", tenant=tenant, digest=digest, why=str(error))
        left.damaged.add((tenant, digest))

    for kind in (Kind.UPLOAD, Kind.BLOB):
        for record in store.records(kind, damaged):
            try:
                left.entries.append(
                    _entry(record.tenant, record.key, json.loads(record.value), whole=kind is Kind.BLOB)
                )
            except (ValueError, KeyError, TypeError) as error:  # of another version
                damaged(record.tenant, record.key, error)
    return left


def _entry(tenant: str, digest: str, value: dict[str, float], *, whole: bool) -> Entry:
    used = float(value["used"])
    return Entry(
        tenant=tenant,
        digest=digest,
        size_bytes=int(value["size"]),
        created=float(value["created"]),
        used=used,
        written_use=used,
        whole=whole,
        kept=True,
        own=bool(value.get("own", False)),
    )


async def tried(sweep: Callable[[], Awaitable[None]]) -> None:
    """Sweep, if that can be done now."""
    try:
        await sweep()
    except InferdError as error:
        log.warning("blobs cannot be swept now", why=error.message)
