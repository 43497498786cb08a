"""Parts of blobs in memories that go on to workers: each once, for all tasks that name it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from inferd.errors import LimitExceededError, words_of
from inferd.runtime.elements import Held
from inferd.shared import Memory, Part

if TYPE_CHECKING:
    from inferd.runtime.blobs import Blobs
    from inferd.runtime.shared_work import SharedWork


LEAST_BYTES = 64 << 10  # of a tensor that is worth a blob


@dataclass(frozen=True, slots=True)
class BlobPart:
    """Bytes of a blob of a tenant.

    Attributes:
        digest: Of the blob, as hexadecimal digits.
        start: Of the first one.
        size_bytes: How many.
    """

    digest: str
    start: int
    size_bytes: int


class BlobMemories:
    """Memories that hold parts of blobs, as long as somebody has them. One writer: the loop.

    Args:
        blobs: Where the bytes are.
        inline_bytes: So many bytes of inputs, and of an output, may a record have itself.

    Attributes:
        inline_bytes: As given.
    """

    def __init__(self, blobs: Blobs, inline_bytes: int) -> None:
        self._blobs = blobs
        self.inline_bytes = inline_bytes
        self._memories: WeakValueDictionary[tuple[str, BlobPart], Memory] = WeakValueDictionary()

    async def read(self, tenant: str, part: BlobPart) -> Part:
        """A part of a blob, each byte of which was checked.

        Raises:
            InferdError: There is no such blob, it ends before, or is damaged.
            LimitExceededError: The system has no memory.
        """
        memory = self._memories.get((tenant, part))
        if memory is None:
            memory = self._memories[tenant, part] = await self._fill(tenant, part)
        return Part(memory, 0, part.size_bytes)

    async def keep(self, tenant: str, work: SharedWork, holder: str) -> tuple[list[BlobPart], SharedWork]:
        """Make blobs of what is in memories of a work, where that is too much for its record; they are held.

        Raises:
            InferdError: They cannot be kept; none is held.
        """
        rest = [each for each in work.work.shared if each.tensor not in work.blobs and each.size_bytes >= LEAST_BYTES]
        if sum(each.size_bytes for each in rest) <= self.inline_bytes:
            return [], work
        made: dict[int, BlobPart] = {}
        try:
            for each in rest:
                data = work.memories[each.memory].read(each.start, each.size_bytes)
                digest = await asyncio.to_thread(lambda given: sha256(given).hexdigest(), data)
                await self._blobs.put(tenant, digest, Held(data), holder)
                made[each.tensor] = BlobPart(digest, 0, each.size_bytes)
        except BaseException:
            for part in made.values():
                self._blobs.let_go(tenant, part.digest, holder)
            raise
        return list(made.values()), replace(work, blobs={**work.blobs, **made})

    async def _fill(self, tenant: str, part: BlobPart) -> Memory:
        try:
            memory, at = Memory.make(part.size_bytes), 0
            async for piece in self._blobs.pieces(tenant, part.digest, start=part.start, size_bytes=part.size_bytes):
                memory.write(at, piece)
                at += len(piece)
            memory.seal()
        except (OSError, AttributeError) as error:
            raise LimitExceededError(
                f"there is no memory for {part.size_bytes} bytes of blob sha256:{part.digest}: {words_of(error)}",
                metadata={"value": str(part.size_bytes)},
            ) from None
        return memory
