"""Blobs: bytes that are given once and named by many tasks. `Blobs` and `AsyncBlobs` differ in `await` only.

What breaks is taken up again by itself, behind the last byte that the kernel has, also when it was started again.
"""

from __future__ import annotations

import asyncio
import queue
import time
from contextlib import suppress
from functools import cached_property
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import grpc

from inferd_api.v1.blob_service_pb2 import (
    DeleteBlobRequest,
    GetBlobRequest,
    ListBlobsRequest,
    PutBlobRequest,
    PutBlobResponse,
    PutBlobStart,
    ReadBlobRequest,
)
from inferd_api.v1.blob_service_pb2_grpc import BlobServiceStub
from inferd_client.channel import AsyncConnection, Connection
from inferd_client.endings import Ending
from inferd_client.errors import InferdError, KernelUnreachableError
from inferd_client.options import strict
from inferd_client.patience import PAUSE_S, Patience

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator
    from os import PathLike

    from inferd_api.v1.blob_pb2 import Blob
    from inferd_api.v1.blob_service_pb2_grpc import BlobServiceAsyncStub

    Source: TypeAlias = bytes | bytearray | memoryview | str | PathLike[str]
    """Bytes, or the path of a file."""
    Progress: TypeAlias = Callable[[int, int], None]
    """Is told how many bytes the kernel has, and how many there are."""

MOST_PAGE: Final = 1000  # blobs of one answer, the most that a kernel gives
DIGESTED_BYTES: Final = 1 << 20


class Given:
    """What is given: its size, its digest, and its bytes from any one on.

    Raises:
        OSError: The file cannot be read.
    """

    def __init__(self, source: Source) -> None:
        self._data: memoryview | None = None
        self._path = Path()
        if isinstance(source, bytes | bytearray | memoryview):
            self._data = memoryview(source).cast("B")
        else:
            self._path = Path(source)
        self.size_bytes = self._path.stat().st_size if self._data is None else self._data.nbytes
        digest = sha256()
        for chunk in self.chunks(0, DIGESTED_BYTES):
            digest.update(chunk)
        self.digest = f"sha256:{digest.hexdigest()}"

    @property
    def start(self) -> PutBlobRequest:
        """The first message."""
        return PutBlobRequest(start=PutBlobStart(digest=self.digest, size_bytes=self.size_bytes))

    def rest(self, response: PutBlobResponse) -> Iterator[PutBlobRequest]:
        """What follows, when the kernel has said what it has."""
        for chunk in self.chunks(response.accepted.offset_bytes, response.accepted.chunk_bytes):
            yield PutBlobRequest(chunk=chunk)

    def chunks(self, start: int, chunk_bytes: int) -> Iterator[bytes]:
        """The bytes from there on, so many at a time; no more than there were at first."""
        if self._data is not None:
            for at in range(start, self.size_bytes, chunk_bytes):
                yield bytes(self._data[at : at + chunk_bytes])
            return
        with self._path.open("rb") as file:
            file.seek(start)
            while start < self.size_bytes and (chunk := file.read(min(chunk_bytes, self.size_bytes - start))):
                start += len(chunk)
                yield chunk


class Chunked:
    """What is given as it comes: its bytes once, from the first on. Its iterator is used on another thread.

    Attributes:
        error: What was raised where they come from; the kernel hears of an end that is too early only.
    """

    def __init__(self, digest: str, size_bytes: int, chunks: Iterable[bytes]) -> None:
        self.size_bytes = size_bytes
        self.start = PutBlobRequest(start=PutBlobStart(digest=digest, size_bytes=size_bytes))
        self.error: Exception | None = None
        self._chunks = iter(chunks)

    def rest(self, response: PutBlobResponse) -> Iterator[PutBlobRequest]:
        """What follows, when the kernel has said what it has."""
        skip, most = response.accepted.offset_bytes, response.accepted.chunk_bytes
        try:
            for chunk in self._chunks:
                passed = min(skip, len(chunk))
                skip -= passed
                for at in range(passed, len(chunk), most):
                    yield PutBlobRequest(chunk=bytes(chunk[at : at + most]))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is raised where they are given
            self.error = error

    def check(self) -> None:
        """Raise what was raised where they come from."""
        if self.error is not None:
            raise self.error


@strict
class Blobs(Connection):
    """The blobs of a synchronous client."""

    @cached_property
    def _blobs(self) -> BlobServiceStub:
        return BlobServiceStub(self._channel)

    def put_blob(self, data: Source, *, progress: Progress | None = None) -> Blob:
        """Give bytes, or a file by its path, behind what the kernel has of them already; the blob.

        Raises:
            InferdError: It is refused, or the kernel was gone for long; asked for again it goes on.
            OSError: The file cannot be read.
        """
        given, patience = Given(data), Patience()
        while True:
            try:
                return self._put(given, patience, progress)
            except InferdError as error:
                patience.check(error)
                time.sleep(PAUSE_S)

    def put_chunks(
        self, digest: str, size_bytes: int, chunks: Iterable[bytes], *, progress: Progress | None = None
    ) -> Blob:
        """Give bytes as they come, whose digest is known: those that the kernel has are passed over; the blob.

        None of `chunks` is taken where the kernel has all of it. What broke is not taken up again by itself.

        Raises:
            InferdError: It is refused, or the kernel was gone; given again from the start it goes on.
            Exception: Whatever `chunks` raises.
        """
        given = Chunked(digest, size_bytes, chunks)
        try:
            return self._put(given, Patience(), progress)
        finally:
            given.check()

    def _put(self, given: Given | Chunked, patience: Patience, progress: Progress | None) -> Blob:
        outbox: queue.SimpleQueue[Iterator[PutBlobRequest] | None] = queue.SimpleQueue()
        outbox.put(iter([given.start]))
        requests = chain.from_iterable(iter(outbox.get, None))
        call, begun = self._blobs.PutBlob(requests, metadata=self._metadata_of(None)), False
        try:
            for response in call:
                patience.heard()
                if response.HasField("complete"):
                    return response.complete.blob
                if not begun:  # later ones say how far it is
                    outbox.put(given.rest(response))
                    outbox.put(None)
                    begun = True
                if progress is not None:
                    progress(response.accepted.offset_bytes, given.size_bytes)
        except grpc.RpcError as error:
            raise self._failure(error, given.start) from None
        finally:
            outbox.put(None)
            call.cancel()
        raise KernelUnreachableError(f"{self.address} ended the call that gave a blob")

    def read_blob(self, digest: str, *, offset_bytes: int = 0, size_bytes: int | None = None) -> Generator[bytes]:
        """The bytes of a blob from any one on, checked by the kernel."""
        patience = Patience()
        while True:
            request = ReadBlobRequest(digest=digest, offset_bytes=offset_bytes, size_bytes=size_bytes)
            try:
                for response in self._stream(self._blobs.ReadBlob, request):
                    patience.heard()
                    offset_bytes += len(response.chunk)
                    size_bytes = None if size_bytes is None else size_bytes - len(response.chunk)
                    yield response.chunk
            except InferdError as error:
                patience.check(error)
                time.sleep(PAUSE_S)
            else:
                return

    def get_blob(self, digest: str) -> Blob:
        """How a blob stands, and how much of it the kernel has."""
        return self._call(self._blobs.GetBlob, GetBlobRequest(digest=digest)).blob

    def list_blobs(self) -> Generator[Blob]:
        """The tenant's blobs by digest."""
        for page in self._pages(self._blobs.ListBlobs, ListBlobsRequest(page_size=MOST_PAGE)):
            yield from page.blobs

    def delete_blob(self, digest: str) -> None:
        """Forget a blob."""
        self._call(self._blobs.DeleteBlob, DeleteBlobRequest(digest=digest))


@strict
class AsyncBlobs(AsyncConnection):
    """The blobs of an asynchronous client; each method is as its namesake in `Blobs`."""

    @cached_property
    def _blobs(self) -> BlobServiceAsyncStub:
        return BlobServiceStub(self._channel)

    async def put_blob(self, data: Source, *, progress: Progress | None = None) -> Blob:
        """Give bytes, or a file by its path, behind what the kernel has of them already; the blob."""
        given, patience = await asyncio.to_thread(Given, data), Patience()
        while True:
            try:
                return await self._put(given, patience, progress)
            except InferdError as error:
                patience.check(error)
                await asyncio.sleep(PAUSE_S)

    async def put_chunks(
        self, digest: str, size_bytes: int, chunks: Iterable[bytes], *, progress: Progress | None = None
    ) -> Blob:
        """Give bytes as they come, whose digest is known; `chunks` is gone through on threads."""
        given = Chunked(digest, size_bytes, chunks)
        try:
            return await self._put(given, Patience(), progress)
        finally:
            given.check()

    async def _put(self, given: Given | Chunked, patience: Patience, progress: Progress | None) -> Blob:
        call = self._blobs.PutBlob(metadata=self._metadata_of(None))
        ending = Ending(call)
        giving: asyncio.Task[None] | None = None
        try:
            with suppress(asyncio.InvalidStateError):  # the call is over: reading says why
                await call.write(given.start)
            while isinstance(response := await call.read(), PutBlobResponse):
                patience.heard()
                if response.HasField("complete"):
                    return response.complete.blob
                if giving is None:
                    giving = asyncio.create_task(_give(call, given, response))
                if progress is not None:
                    progress(response.accepted.offset_bytes, given.size_bytes)
        except grpc.RpcError as error:
            raise await self._failure(await ending.of(error), given.start) from None
        finally:
            call.cancel()
            if giving is not None:
                giving.cancel()
                await asyncio.gather(giving, return_exceptions=True)
        raise KernelUnreachableError(f"{self.address} ended the call that gave a blob")

    async def read_blob(
        self, digest: str, *, offset_bytes: int = 0, size_bytes: int | None = None
    ) -> AsyncGenerator[bytes]:
        """The bytes of a blob from any one on, checked by the kernel."""
        patience = Patience()
        while True:
            request = ReadBlobRequest(digest=digest, offset_bytes=offset_bytes, size_bytes=size_bytes)
            try:
                async for response in self._stream(self._blobs.ReadBlob, request):
                    patience.heard()
                    offset_bytes += len(response.chunk)
                    size_bytes = None if size_bytes is None else size_bytes - len(response.chunk)
                    yield response.chunk
            except InferdError as error:
                patience.check(error)
                await asyncio.sleep(PAUSE_S)
            else:
                return

    async def get_blob(self, digest: str) -> Blob:
        """How a blob stands, and how much of it the kernel has."""
        return (await self._call(self._blobs.GetBlob, GetBlobRequest(digest=digest))).blob

    async def list_blobs(self) -> AsyncGenerator[Blob]:
        """The tenant's blobs by digest."""
        async for page in self._pages(self._blobs.ListBlobs, ListBlobsRequest(page_size=MOST_PAGE)):
            for blob in page.blobs:
                yield blob

    async def delete_blob(self, digest: str) -> None:
        """Forget a blob."""
        await self._call(self._blobs.DeleteBlob, DeleteBlobRequest(digest=digest))


async def _give(
    call: grpc.aio.StreamStreamCall[PutBlobRequest, PutBlobResponse], given: Given | Chunked, response: PutBlobResponse
) -> None:
    """Send all that follows; a call that is over says why where it is read."""
    rest = given.rest(response)
    try:
        while (request := await asyncio.to_thread(next, rest, None)) is not None:
            await call.write(request)
        await call.done_writing()
    except (asyncio.InvalidStateError, grpc.RpcError):
        pass
