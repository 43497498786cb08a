"""`inferd.v1.BlobService`."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

from inferd.errors import InvalidFieldError
from inferd.services.chunks import Chunks
from inferd.services.named import read_digest
from inferd.services.pages import name_of, size_of, token_of
from inferd.services.times import unix_time
from inferd_api.v1 import blob_pb2 as bp
from inferd_api.v1 import blob_service_pb2 as bs

if TYPE_CHECKING:
    from inferd.core.blob import Blob
    from inferd.runtime.front import blobs as front
    from inferd.services.calls import Call
    from inferd.services.extents import Extents

MOST_HOLDERS: Final = 16  # that are told


class Blobs:
    """Translates; see the proto for what each call means."""

    def __init__(self, blobs: front.Blobs, *, message_limit_bytes: int, extents: Extents) -> None:
        self._blobs = blobs
        self._chunks = Chunks(blobs, extents, message_limit_bytes=message_limit_bytes)

    async def PutBlob(self, _: Any, call: Call) -> None:  # noqa: N802 - the wire's name
        """Take a blob in chunks."""
        async with self._blobs.cut_short():
            start = await self._chunks.read(call, "nothing came")
            if start is None or start.WhichOneof("kind") != "start":
                raise InvalidFieldError("the first message has no start; say which blob follows", field="start")
            digest = read_digest(start.start.digest, "start.digest")
            async with self._blobs.giving(call.caller, digest, start.start.size_bytes) as giving:
                await self._chunks.take(call, giving, self._accepted)
                blob = await giving.finish()
            await call.write(bs.PutBlobResponse(complete=bs.PutBlobComplete(blob=write_blob(blob))))

    def _accepted(self, offset_bytes: int) -> bs.PutBlobResponse:
        accepted = bs.PutBlobAccepted(offset_bytes=offset_bytes, chunk_bytes=self._chunks.most_bytes)
        return bs.PutBlobResponse(accepted=accepted)

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
                for at in range(0, len(piece), self._chunks.most_bytes):
                    await call.write(bs.ReadBlobResponse(chunk=piece[at : at + self._chunks.most_bytes]))

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
