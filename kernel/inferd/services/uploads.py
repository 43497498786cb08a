"""`inferd.v1.UploadService`, and what tasks name of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import grpc

from inferd.errors import InferdError, InvalidFieldError, LimitExceededError
from inferd.services.named import Named, read_named
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1 import upload_service_pb2 as us

if TYPE_CHECKING:
    from inferd.runtime.front import uploads as front
    from inferd.runtime.front.blobs import Blobs
    from inferd.runtime.front.caller import Caller
    from inferd.services.calls import Call

CHUNK_BYTES: Final = 1 << 20
CHUNK_MARGIN_BYTES: Final = 64  # of the message around a chunk
MOST_UPLOADS: Final = 16  # of one task


class Uploads:
    """Translates; see the proto for what the call means."""

    def __init__(self, uploads: front.Uploads, *, message_limit_bytes: int) -> None:
        self._uploads = uploads
        self._chunk_bytes = min(CHUNK_BYTES, message_limit_bytes - CHUNK_MARGIN_BYTES)

    async def Upload(self, _: Any, call: Call) -> None:  # noqa: N802 - the wire's name
        """Receive bytes in chunks, and keep them while the call is open."""
        async with self._uploads.cut_short():
            start = await self._read(call)
            if start is None or start.WhichOneof("kind") != "start":
                raise InvalidFieldError("the first message has no start; say how many bytes follow", field="start")
            with self._uploads.open(call.caller, start.start.size_bytes) as upload:
                accepted = us.UploadAccepted(upload_id=upload.upload_id, chunk_bytes=self._chunk_bytes)
                await call.write(us.UploadResponse(accepted=accepted))
                while not upload.complete:
                    request = await self._read(call, upload)
                    if request is None or request.WhichOneof("kind") != "chunk":
                        raise InvalidFieldError(
                            f"the chunks end at {upload.received_bytes} of the {upload.size_bytes} bytes that "
                            "start.size_bytes states; send the rest",
                            field="chunk",
                        )
                    upload.add(request.chunk)
                    del request  # before the wait for the next one
                await call.write(us.UploadResponse(complete=us.UploadComplete()))
                if await self._read(call, upload) is not None:
                    raise InvalidFieldError("a message comes behind the last chunk; open another call", field="chunk")

    async def _read(self, call: Call, upload: front.Upload | None = None) -> us.UploadRequest | None:
        """The next message; None at the end.

        Raises:
            LimitExceededError: None came, and no task named the upload, for too long.
        """
        reading, idle_s = asyncio.ensure_future(call.read()), self._uploads.idle_s
        try:
            while True:
                used = 0 if upload is None else upload.used
                done, _ = await asyncio.wait({reading}, timeout=idle_s)
                if done:
                    request = reading.result()
                    return None if request is grpc.aio.EOF else request
                if upload is None or used == upload.used:
                    break
        finally:
            reading.cancel()
        have = "nothing" if upload is None else f"no chunk behind {upload.received_bytes} of {upload.size_bytes} bytes"
        have = "no task named the upload" if upload is not None and upload.complete else f"{have} came"
        raise LimitExceededError(
            f"{have} for {idle_s:g} s, which is limits.upload_idle_s; upload again",
            metadata={"bound": "limits.upload_idle_s", "value": f"{idle_s:g}", "limit": f"{idle_s:g}"},
        )


async def find_named(uploads: front.Uploads, blobs: Blobs, caller: Caller, spec: tp.TaskSpec) -> dict[int, Named]:
    """What the inputs of a task name in uploads and blobs, by their places.

    Raises:
        InvalidFieldError: They name too many, or more than one has.
        UploadNotFoundError, BlobNotFoundError: There is no such upload or blob.
        InferdError: A blob cannot be read.
    """
    named: dict[int, Named] = {}
    if not spec.HasField("infer"):
        return named
    if any(tensor.WhichOneof("elements") == "blob" for tensor in spec.infer.inputs):
        named = await read_named(blobs, caller, spec.infer)
    meant = {n: t.uploaded for n, t in enumerate(spec.infer.inputs) if t.WhichOneof("elements") == "uploaded"}
    if len(ids := {each.upload_id for each in meant.values()}) > MOST_UPLOADS:
        message = f"the inputs name {len(ids)} uploads; at most {MOST_UPLOADS}: give several tensors in one"
        raise InvalidFieldError(message, field="spec.infer.inputs")
    for place, each in meant.items():
        path = f"spec.infer.inputs[{place}].uploaded"
        try:
            upload = uploads.find(caller, each.upload_id)
            part = upload.part(each.start, each.size_bytes)
        except InferdError as error:
            error.field = f"{path}.{error.field or 'upload_id'}"
            raise
        named[place] = Named(part, upload.digest(part))
    return named
