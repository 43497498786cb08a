"""What may be done with blobs."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, contextmanager

from inferd.core.blob import Blob
from inferd.core.index import Page
from inferd.errors import LimitExceededError, StoreUnavailableError
from inferd.runtime import blobs as kept
from inferd.runtime.blob_entry import Entry
from inferd.runtime.blob_memories import BlobPart
from inferd.runtime.blob_opening import blobs_of
from inferd.runtime.driver import Driver
from inferd.runtime.front.bounds import Bound, ByteBound
from inferd.runtime.front.caller import Caller
from inferd.shared import Part


class Giving:
    """A blob that is being given. One writer: the call that gives it."""

    def __init__(self, blobs: kept.Blobs, entry: Entry) -> None:
        self._blobs = blobs
        self._entry = entry

    @property
    def received_bytes(self) -> int:
        """How many bytes have come."""
        return self._entry.received_bytes

    @property
    def size_bytes(self) -> int:
        """How many there are to be."""
        return self._entry.size_bytes

    @property
    def complete(self) -> bool:
        """Whether all have."""
        return self._entry.complete

    async def add(self, chunk: bytes) -> None:
        """The next bytes have come.

        Raises:
            InferdError: As `inferd.runtime.blobs.Blobs.add`.
        """
        await self._blobs.add(self._entry, chunk)

    async def finish(self) -> Blob:
        """All bytes have come: the blob is kept when this returns.

        Raises:
            InferdError: As `inferd.runtime.blobs.Blobs.finish`.
        """
        return await self._blobs.finish(self._entry)


class Blobs:
    """Takes blobs, gives them back, and tells of them; each tenant has its own.

    Args:
        driver: Of the kernel.
        streams: Bounds the calls that give or read.
        tenant_streams: Bounds those of a tenant.
        idle_s: For so long nothing need come of a call that gives.
        reading: Bounds what is read for tasks and not theirs yet.
        most_bytes: Of that for one task, `limits.task_input_bytes`.

    Attributes:
        idle_s: Its argument.
    """

    def __init__(
        self,
        driver: Driver,
        *,
        streams: Bound,
        tenant_streams: Bound,
        idle_s: float,
        reading: ByteBound,
        most_bytes: int,
    ) -> None:
        self.idle_s = idle_s
        self._driver = driver
        self._streams = streams
        self._tenant_streams = tenant_streams
        self._reading = reading
        self._most_bytes = most_bytes

    @property
    def _kept(self) -> kept.Blobs:
        blobs = blobs_of(self._driver.keeper)
        if blobs is None:
            raise StoreUnavailableError(
                "this kernel keeps nothing, and so has no blobs: its store.url is memory:; name a store",
                metadata={"cause": "memory:"},
            )
        return blobs

    @contextmanager
    def _streaming(self, caller: Caller) -> Iterator[kept.Blobs]:
        self._driver.check_open()
        blobs = self._kept
        with self._streams.place(), self._tenant_streams.place(caller.tenant):
            yield blobs

    @asynccontextmanager
    async def giving(self, caller: Caller, digest: str, size_bytes: int) -> AsyncIterator[Giving]:
        """A blob that is given in the block, behind what has come of it before.

        Raises:
            InferdError: It is refused, see `inferd.runtime.blobs.Blobs.receiving`.
        """
        with self._streaming(caller) as blobs:
            async with blobs.receiving(caller.tenant, digest, size_bytes) as entry:
                yield Giving(blobs, entry)

    async def read(
        self, caller: Caller, digest: str, *, start: int, size_bytes: int | None
    ) -> AsyncGenerator[bytes, None]:
        """The bytes of a blob, checked.

        Raises:
            InferdError: As `inferd.runtime.blobs.Blobs.pieces`.
        """
        with self._streaming(caller) as blobs:
            async with aclosing(blobs.pieces(caller.tenant, digest, start=start, size_bytes=size_bytes)) as pieces:
                async for piece in pieces:
                    yield piece

    async def part(
        self, caller: Caller, digest: str, *, start: int, size_bytes: int, total_bytes: int
    ) -> tuple[BlobPart, Part]:
        """Bytes of a blob in a memory, for a task that names so many in all.

        Raises:
            LimitExceededError: They are too many, or those that are being read for other tasks are.
            InferdError: As `read`.
        """
        if total_bytes > self._most_bytes:
            raise LimitExceededError(
                f"the inputs name {total_bytes} bytes of blobs and limits.task_input_bytes is {self._most_bytes}; name"
                " fewer, or raise that setting of the kernel",
                metadata={
                    "bound": "limits.task_input_bytes",
                    "value": str(total_bytes),
                    "limit": str(self._most_bytes),
                },
                field="size_bytes",
            )
        memories, named = self._kept.memories, BlobPart(digest, start, size_bytes)
        with self._reading.place(caller.tenant, size_bytes):
            return named, await memories.read(caller.tenant, named)

    def get(self, caller: Caller, digest: str) -> Blob:
        """How a blob stands.

        Raises:
            BlobNotFoundError: The tenant has none.
        """
        return self._kept.get(caller.tenant, digest)

    def list(self, caller: Caller, *, after: str | None, size: int) -> Page[Blob]:
        """The tenant's blobs by digest, behind the digest `after`."""
        return self._kept.list(caller.tenant, after=after, size=size)

    async def remove(self, caller: Caller, digest: str) -> None:
        """Forget a blob.

        Raises:
            InferdError: As `inferd.runtime.blobs.Blobs.remove`.
        """
        await self._kept.remove(caller.tenant, digest)

    def cut_short(self) -> AbstractAsyncContextManager[None]:
        """Whatever the block waits for, it ends when the kernel closes.

        Raises:
            ShuttingDownError: It did.
        """
        return self._driver.closing.cut_short()
