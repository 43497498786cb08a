"""Segments of indexes in memories that go to workers with each search: read once, and kept while there is room."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from inferd.runtime.blob_memories import BlobPart

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferd.core.document_index import Segment
    from inferd.runtime.blobs import Blobs
    from inferd.shared import Part

MOST_PARTS = 256  # that stay, however small they are: each has a descriptor


class IndexMemories:
    """What was searched last stays. One writer: the loop.

    Args:
        most_bytes: Of all that stay; those of the search under way do in any case.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._parts: OrderedDict[tuple[str, str], Part] = OrderedDict()

    async def read(self, blobs: Blobs, tenant: str, segments: Sequence[Segment]) -> list[Part]:
        """The files of segments, of each its documents and then its vectors, where it has any.

        Raises:
            InferdError: One is not there, or is damaged, or the system has no memory.
        """
        found = []
        for digest, size_bytes in (each for segment in segments for each in segment.files):
            part = self._parts.pop((tenant, digest), None)
            if part is None:
                part = await blobs.memories.read(tenant, BlobPart(digest, 0, size_bytes))
            self._parts[tenant, digest] = part
            found.append(part)
        self._shrink(len(found))
        return found

    def forget(self, tenant: str) -> None:
        """A tenant was shredded."""
        for key in [key for key in self._parts if key[0] == tenant]:
            del self._parts[key]

    def drop(self, tenant: str, segments: Sequence[Segment]) -> None:
        """Nobody will search these any more."""
        for segment in segments:
            for digest, _ in segment.files:
                self._parts.pop((tenant, digest), None)

    def _shrink(self, newest: int) -> None:
        total = sum(part.size_bytes for part in self._parts.values())
        while (total > self._most_bytes or len(self._parts) > MOST_PARTS) and len(self._parts) > newest:
            _, part = self._parts.popitem(last=False)
            total -= part.size_bytes
