"""`inferd.v1.BlobService`."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

import grpc

from inferd.errors import InvalidFieldError, LimitExceededError
from inferd.services.named import read_digest
from inferd.services.pages import name_of, size_of, token_of
from inferd.services.times import unix_time
from inferd.services.uploads import CHUNK_BYTES, CHUNK_MARGIN_BYTES
from inferd_api.v1 import blob_pb2 as bp
from inferd_api.v1 import blob_service_pb2 as bs

if TYPE_CHECKING:
    from inferd.core.blob import Blob
    from inferd.runtime.front import blobs as front
    from inferd.services.calls import Call

TOLD_BYTES: Final = 16 << 20  # between two messages that say how far a blob is
MOST_HOLDERS: Final = 16  # that are told


class Blobs:
    """Translates; see the proto for what each call means."""

    def __init__(self, blobs: front.Blobs, *, message_limit_bytes: int) -> None:
        self._blobs = blobs
        self._chunk_bytes = min(CHUNK_BYTES, message_limit_bytes - CHUNK_MARGIN_BYTES)

    async def PutBlob(self, _: Any, call: Call) -> None:  # noqa: N802 - the wire's name
        """Take a blob in chunks."""
        async with self._blobs.cut_short():
            start = await self._read(call, "nothing came")
            if start is None or start.WhichOneof("kind") != "start":
                raise InvalidFieldError("the first message has no start; say which blob follows", field="start")
            digest = read_digest(start.start.digest, "start.digest")
            async with self._blobs.giving(call.caller, digest, start.start.size_bytes) as giving:
                if not giving.complete:
                    await self._take(call, giving, start.start.size_bytes)
                blob = await giving.finish()
            await call.write(bs.PutBlobResponse(complete=bs.PutBlobComplete(blob=write_blob(blob))))

    async def _take(self, call: Call, giving: front.Giving, size_bytes: int) -> None:
        await self._tell(call, giving)
        told = giving.received_bytes
        while not giving.complete:
            request = await self._read(call, f"no chunk behind {giving.received_bytes} of {size_bytes} bytes came")
            if request is None or request.WhichOneof("kind") != "chunk":
                raise InvalidFieldError(
                    f"the chunks end at {giving.received_bytes} of the {size_bytes} bytes that start.size_bytes states;"
                    " what came stays: go on behind it",
                    field="chunk",
                )
            await giving.add(request.chunk)
            del request  # before the wait for the next one
            if giving.received_bytes - told >= TOLD_BYTES:
                await self._tell(call, giving)
                told = giving.received_bytes

    async def _tell(self, call: Call, giving: front.Giving) -> None:
        accepted = bs.PutBlobAccepted(offset_bytes=giving.received_bytes, chunk_bytes=self._chunk_bytes)
        await call.write(bs.PutBlobResponse(accepted=accepted))

    async def _read(self, call: Call, lacking: str) -> bs.PutBlobRequest | None:
        """The next message; None at the end.

        Raises:
            LimitExceededError: None came for too long.
        """
        idle_s = self._blobs.idle_s
        try:
            async with asyncio.timeout(idle_s):
                request = await call.read()
        except TimeoutError:
            raise LimitExceededError(
                f"{lacking} for {idle_s:g} s, which is blobs.idle_s; what came stays: go on behind it",
                metadata={"bound": "blobs.idle_s", "value": f"{idle_s:g}", "limit": f"{idle_s:g}"},
            ) from None
        return None if request is grpc.aio.EOF else request

    async def ReadBlob(self, request: bs.ReadBlobRequest, call: Call) -> None:  # noqa: N802 - the wire's name
        """Give the bytes of a blob."""
        digest = read_digest(request.digest, "digest")
        size_bytes = request.size_bytes if request.HasField("size_bytes") else None
        async with (
            self._blobs.cut_short(),
            aclosing(
                self._blobs.read(call.caller, digest, start=request.offset_bytes, size_bytes=size_bytes)
            ) as pieces,
        ):
            async for piece in pieces:
                for at in range(0, len(piece), self._chunk_bytes):
                    await call.write(bs.ReadBlobResponse(chunk=piece[at : at + self._chunk_bytes]))

    async def GetBlob(self, request: bs.GetBlobRequest, call: Call) -> bs.GetBlobResponse:  # noqa: N802 - the wire's name
        """How a blob stands."""
        digest = read_digest(request.digest, "digest")
        return bs.GetBlobResponse(blob=write_blob(self._blobs.get(call.caller, digest)))

    async def ListBlobs(self, request: bs.ListBlobsRequest, call: Call) -> bs.ListBlobsResponse:  # noqa: N802 - the wire's name
        """The tenant's blobs."""
        page = self._blobs.list(call.caller, after=name_of(request.page_token), size=size_of(request.page_size))
        return bs.ListBlobsResponse(
            blobs=[write_blob(blob) for blob in page.records],
            next_page_token=token_of(page, lambda blob: blob.digest),
        )

    async def DeleteBlob(self, request: bs.DeleteBlobRequest, call: Call) -> bs.DeleteBlobResponse:  # noqa: N802 - the wire's name
        """Forget a blob."""
        await self._blobs.remove(call.caller, read_digest(request.digest, "digest"))
        return bs.DeleteBlobResponse()


def write_blob(blob: Blob) -> bp.Blob:
    """A blob for the wire."""
    return bp.Blob(
        digest=f"sha256:{blob.digest}",
        size_bytes=blob.size_bytes,
        received_bytes=blob.received_bytes,
        state=bp.BlobState.ValueType(blob.state.value),
        create_time=unix_time(blob.created),
        use_time=unix_time(blob.used),
        holders=blob.holders[:MOST_HOLDERS],
    )
