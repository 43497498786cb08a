"""Inputs of tasks that are too large for a message: given beforehand, in chunks.

The call of an upload stays open until its task has begun: so long the kernel keeps what was given. Where a kernel does
not know uploads, the task is sent as it is.
"""

from __future__ import annotations

import asyncio
import queue
from contextlib import asynccontextmanager, contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Final

import grpc
import grpc.aio

from inferd_api.v1.task_service_pb2 import RunOrder
from inferd_api.v1.tensor_pb2 import UploadedElements
from inferd_api.v1.upload_service_pb2 import UploadRequest, UploadResponse, UploadStart
from inferd_api.v1.upload_service_pb2_grpc import UploadServiceStub
from inferd_client.endings import Ending
from inferd_client.errors import KernelUnreachableError, LimitExceededError
from inferd_client.rpc_errors import from_rpc
from inferd_client.versions import is_lacking

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Sequence

    from inferd_api.v1.upload_service_pb2_grpc import UploadServiceAsyncStub

LARGE_BYTES: Final = 2 << 20
"""An order of more than so much is given in chunks; a kernel takes messages of 4 MiB unless it is told otherwise."""
LEAST_BYTES: Final = 4 << 10  # of a tensor that is worth it
TRIES: Final = 3  # of giving what a kernel has lost, with its call, before the task began


def is_large(run: RunOrder) -> bool:
    """Whether what can be given beforehand of an order is too much for a message; texts cannot."""
    return sum(len(tensor.data) for tensor in run.request.spec.infer.inputs) > LARGE_BYTES


def is_for_chunks(error: LimitExceededError, run: RunOrder) -> bool:
    """Whether a kernel refused an order since it takes smaller messages only: then nothing was begun."""
    told = error.metadata  # what a worker refuses names its log, too
    return (
        told.get("bound") == "limits.message_bytes"
        and "log" not in told
        and int(told["value"]) >= run.ByteSize()
        and bool(lean(run)[1])
    )


def lean(run: RunOrder) -> tuple[RunOrder, list[bytes]]:
    """An order without the elements that are given beforehand, which it names in an upload; and these."""
    order, data = RunOrder(), list[bytes]()
    order.CopyFrom(run)
    start = 0
    for tensor in order.request.spec.infer.inputs:
        elements = tensor.data
        if len(elements) >= LEAST_BYTES:
            tensor.uploaded.CopyFrom(UploadedElements(start=start, size_bytes=len(elements)))
            start += len(elements)
            data.append(elements)
    return order, data


def name_upload(order: RunOrder, upload_id: str) -> None:
    """Say which upload has what the order names."""
    for tensor in order.request.spec.infer.inputs:
        if tensor.HasField("uploaded"):
            tensor.uploaded.upload_id = upload_id


def chunks(data: Sequence[bytes], chunk_bytes: int) -> Iterator[UploadRequest]:
    """All of it, in pieces that fit into messages."""
    for elements in data:
        view = memoryview(elements)
        for start in range(0, len(view), chunk_bytes):
            yield UploadRequest(chunk=bytes(view[start : start + chunk_bytes]))


def _start(data: Sequence[bytes]) -> UploadRequest:
    return UploadRequest(start=UploadStart(size_bytes=sum(map(len, data))))


@contextmanager
def uploaded(
    channel: grpc.Channel, metadata: Sequence[tuple[str, str]], address: str, run: RunOrder
) -> Iterator[RunOrder]:
    """The order to give instead of one that is large, as long as the block.

    Raises:
        InferdError: There is no room for it, or the kernel is not there.
    """
    order, data = lean(run)
    outbox: queue.SimpleQueue[Iterable[UploadRequest] | None] = queue.SimpleQueue()
    outbox.put([_start(data)])
    requests = chain.from_iterable(iter(outbox.get, None))
    call = UploadServiceStub(channel).Upload(requests, metadata=tuple(metadata))
    try:
        try:
            accepted = _next(call, address).accepted
            outbox.put(chunks(data, accepted.chunk_bytes))
            _next(call, address)
            name_upload(order, accepted.upload_id)
        except grpc.RpcError as error:
            if not is_lacking(error):
                raise from_rpc(error, address) from None
            order = run
        yield order
    finally:
        outbox.put(None)
        call.cancel()


def _next(responses: Iterator[UploadResponse], address: str) -> UploadResponse:
    response = next(responses, None)
    if response is None:
        raise KernelUnreachableError(f"{address} ended an upload")
    return response


@asynccontextmanager
async def uploaded_async(
    channel: grpc.aio.Channel, metadata: Sequence[tuple[str, str]], address: str, run: RunOrder
) -> AsyncIterator[RunOrder]:
    """As `uploaded`."""
    order, data = lean(run)
    stub: UploadServiceAsyncStub = UploadServiceStub(channel)
    call = stub.Upload(metadata=tuple(metadata))
    ending = Ending(call)
    try:
        try:
            accepted = (await _give(call, address, [_start(data)])).accepted
            await _give(call, address, chunks(data, accepted.chunk_bytes))
            name_upload(order, accepted.upload_id)
        except grpc.RpcError as broken:
            error = await ending.of(broken)
            if not is_lacking(error):
                raise from_rpc(error, address) from None
            order = run
        yield order
    finally:
        call.cancel()


async def _give(
    call: grpc.aio.StreamStreamCall[UploadRequest, UploadResponse], address: str, requests: Iterable[UploadRequest]
) -> UploadResponse:
    """Send these, and wait for what comes of it."""
    try:
        for request in requests:
            await call.write(request)
    except asyncio.InvalidStateError:  # the call is over: reading says why
        pass
    response = await call.read()
    if not isinstance(response, UploadResponse):  # the end
        raise KernelUnreachableError(f"{address} ended an upload")
    return response
