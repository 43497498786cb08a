"""The blobs that a kernel knows, by tenant and digest, and what they have together."""

from __future__ import annotations

from contextlib import contextmanager
from heapq import nsmallest
from typing import TYPE_CHECKING

from inferd.core.index import Page
from inferd.errors import InvalidFieldError
from inferd.runtime.blob_bounds import Held, check_room
from inferd.runtime.blob_entry import Own, not_found

if TYPE_CHECKING:
    from collections.abc import Iterator

    from inferd.core.blob import Blob
    from inferd.runtime.blob_bounds import BlobBounds
    from inferd.runtime.blob_entry import Entry, Key


class BlobBook:
    """Entries of blobs. One writer: `Blobs`.

    Attributes:
        entries: All of them.
    """

    def __init__(self) -> None:
        self.entries: dict[Key, Entry] = {}
        self._tenants: dict[str, Own] = {}
        self._bytes = 0
        self._staying: set[str] = set()  # who holds all that are whole

    def add(self, entry: Entry) -> None:
        """One more is known."""
        self.entries[entry.key] = entry
        own = self._tenants.setdefault(entry.tenant, Own())
        own.entries[entry.digest] = entry
        own.size_bytes += entry.room_bytes
        self._bytes += entry.room_bytes

    def forget(self, entry: Entry) -> None:
        """It is known no longer."""
        entry.gone = True
        del self.entries[entry.key]
        own = self._tenants[entry.tenant]
        del own.entries[entry.digest]
        own.size_bytes -= entry.room_bytes
        if not own.entries:
            del self._tenants[entry.tenant]
        self._bytes -= entry.room_bytes

    def of(self, tenant: str) -> list[Entry]:
        """All of a tenant."""
        return list(self._tenants.get(tenant, Own()).entries.values())

    def take_up(self, entry: Entry, size_bytes: int, bounds: BlobBounds) -> None:
        """Keep room for all of one that is given, or gone on with.

        Raises:
            InvalidFieldError: Another size was announced for it before.
            LimitExceededError: Room was kept for it no longer, and others have it.
        """
        if entry.size_bytes != size_bytes:
            raise InvalidFieldError(
                f"start.size_bytes is {size_bytes} and was {entry.size_bytes} when the blob was announced: one of both"
                " is not how many it has; delete it, or give it as it was announced",
                field="start.size_bytes",
            )
        if not entry.whole and entry.room_bytes < size_bytes:
            check_room(bounds, size_bytes, self.held(entry.tenant, without=entry))
            self.keep_room(entry, size_bytes)

    def keep_room(self, entry: Entry, room_bytes: int) -> None:
        """So much room is kept for one from now on."""
        more = room_bytes - entry.room_bytes
        entry.room_bytes = room_bytes
        self._tenants[entry.tenant].size_bytes += more
        self._bytes += more

    def held(self, tenant: str, *, without: Entry | None = None) -> Held:
        """What there is, of all and of a tenant, `without` one of its blobs."""
        theirs = self._tenants.get(tenant, Own())
        count, size_bytes = (1, without.room_bytes) if without is not None else (0, 0)
        return Held(
            self._bytes - size_bytes,
            len(self.entries) - count,
            theirs.size_bytes - size_bytes,
            len(theirs.entries) - count,
        )

    def find(self, tenant: str, digest: str) -> Entry:
        """A blob, whole or not.

        Raises:
            BlobNotFoundError: The tenant has none.
        """
        entry = self.entries.get((tenant, digest))
        if entry is None:
            raise not_found(digest, "is not there; give it first")
        return entry

    def whole(self, tenant: str, digest: str) -> Entry:
        """A blob of which all has come.

        Raises:
            BlobNotFoundError: There is none, or not all of it has come.
        """
        entry = self.find(tenant, digest)
        if not entry.whole:
            raise entry.missing(f"has {entry.received_bytes} of {entry.size_bytes} bytes yet; give the rest")
        return entry

    def page(self, tenant: str, *, after: str | None, size: int) -> Page[Blob]:
        """The tenant's blobs by digest, behind the digest `after`."""
        own = self._tenants.get(tenant, Own()).entries
        some = nsmallest(size + 1, (digest for digest in own if after is None or digest > after))
        return Page([own[digest].blob() for digest in some[:size]], more=len(some) > size)

    def became_whole(self, entry: Entry) -> None:
        """All of one has come, and its row says so."""
        entry.whole, entry.arrival = True, None
        for holder in self._staying:
            entry.hold(holder)

    @contextmanager
    def staying(self, holder: str) -> Iterator[None]:
        """All that are whole, or become so, are held until the block ends."""
        self._staying.add(holder)
        for entry in self.entries.values():
            if entry.whole:
                entry.hold(holder)
        try:
            yield
        finally:
            self._staying.discard(holder)
            for entry in self.entries.values():
                entry.let_go(holder)
