"""Damaged requests for tasks of tensors, against a kernel with real workers.

    python tests/fuzz/infer_fuzz.py REQUESTS [FIRST]

Each ends well or with a typed error that is no defect, no worker dies, and what is good is computed as before. Prints
how many ended with which reason; the number of one that did not ends the run, and makes the same request again.
"""

import asyncio
import os
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from infer_wounds import MODELS, UPLOAD_BYTES, wounded

from inferd.server import Kernel
from inferd.testing.kernel import kernel_here, write_fake_model
from inferd.testing.spoilt_memory import HOWS
from inferd_api.v1 import task_service_pb2 as ts
from inferd_api.v1 import upload_service_pb2 as us
from inferd_api.v1.upload_service_pb2_grpc import UploadServiceStub
from inferd_client import AsyncClient
from inferd_client.errors import BackendFailedError

AT_ONCE = 32
DEADLINE_S = 60.0
FINE = frozenset(
    (
        *("INVALID_FIELD", "LIMIT_EXCEEDED", "UPLOAD_NOT_FOUND", "UNSUPPORTED_INPUT", "MODEL_NOT_FOUND"),
        *("SEQUENCE_NOT_FOUND", "TASK_EXPIRED"),
    )
)


class FoundError(AssertionError):
    """A request that did not end as it must."""


async def attack(kernel: Kernel, folder: Path, numbers: Iterable[int]) -> Counter[str]:
    """Send the requests of these numbers; how many ended with which reason.

    Raises:
        FoundError: One ended otherwise than it must, a worker has died, or what is good is not computed any more.
    """
    async with AsyncClient(kernel.addresses[0]) as client:
        for name in MODELS:
            await client.create_model(name, source=str(write_fake_model(folder, name, tensor=name, most_batch=8)))
            await client.load_model(name)
        await client.create_model("text", source=str(write_fake_model(folder, "text")))
        await client.load_model("text")
        before = {m.name: [i.instance_id for i in m.instances] async for m in client.list_models()}
        found: Counter[str] = Counter()
        waiting = iter(numbers)
        async with (
            grpc.aio.insecure_channel(kernel.addresses[0]) as channel,
            _uploaded(channel) as ids,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(AT_ONCE):
                group.create_task(_send_all(channel, waiting, found, ids))
        after = {m.name: [i.instance_id for i in m.instances] async for m in client.list_models()}
        if before != after:
            raise FoundError(f"workers have died: {before} became {after}")
        found += await _spoil(client, folder)
        summed = (await client.infer("add", {"a": ONE, "b": ONE}))["sum"].tolist()
        if summed != [[2.0]]:
            raise FoundError(f"1 and 1 are {summed}")
    return found


ONE = np.ones((1, 1), np.float32)
LARGE = np.ones((1, 150_000), np.float32)
SPOILT = 20  # requests for each way in which a memory can be wrong


async def _spoil(client: AsyncClient, folder: Path) -> Counter[str]:
    """Ask workers that give their outputs in memories which are not sealed, too short, elsewhere or none."""
    found: Counter[str] = Counter()
    for how in HOWS:
        path = write_fake_model(folder, how, tensor="identity", memory=how)
        await client.create_model(how, source=str(path))
        await client.infer(how, {"x": ONE})
        told = await asyncio.gather(*(client.infer(how, {"x": LARGE}) for _ in range(SPOILT)), return_exceptions=True)
        if wrong := [each for each in told if not isinstance(each, BackendFailedError)]:
            raise FoundError(f"outputs in a memory that is {how} ended with {wrong[0]!r}")
        if (await client.infer(how, {"x": ONE}))["y"].tolist() != [[1.0]]:
            raise FoundError(f"a worker whose memories are {how} computes no more")
        found[f"memory {how}"] += len(told)
        await client.unload_model(how)
    return found


@asynccontextmanager
async def _uploaded(channel: grpc.aio.Channel) -> AsyncIterator[tuple[str, ...]]:
    """The ids of a complete upload, of one of which a half has come, and of one that is over."""
    stub: Any = UploadServiceStub(channel)
    calls, ids = [], []
    for given in (UPLOAD_BYTES, UPLOAD_BYTES // 2, UPLOAD_BYTES):
        call = stub.Upload()
        await call.write(us.UploadRequest(start=us.UploadStart(size_bytes=UPLOAD_BYTES)))
        ids.append((await call.read()).accepted.upload_id)
        await call.write(us.UploadRequest(chunk=bytes(given)))
        calls.append(call)
    await calls[0].read()
    calls[2].cancel()
    yield tuple(ids)
    for call in calls:
        call.cancel()


async def _send_all(channel: grpc.aio.Channel, numbers: Any, found: Counter[str], uploads: tuple[str, ...]) -> None:
    call = channel.unary_stream("/inferd.v1.TaskService/RunTask")
    for number in numbers:
        data = wounded(number, uploads)
        try:
            ts.RunTaskRequest.FromString(data)
            whole = True
        except DecodeError:
            whole = False
        try:
            async with asyncio.timeout(DEADLINE_S):
                async for _ in call(data):
                    pass
            found["OK"] += 1
        except grpc.aio.AioRpcError as error:
            found[_reason(error, number, whole=whole)] += 1


def _reason(error: grpc.aio.AioRpcError, number: int, *, whole: bool) -> str:
    if not whole:
        return "no message"
    status = rpc_status.from_call(error)
    info = error_details_pb2.ErrorInfo()
    if status is None or not any(detail.Unpack(info) for detail in status.details):
        raise FoundError(f"request {number}: {error.code()} {error.details()} without a reason")
    if info.reason not in FINE:
        raise FoundError(f"request {number}: {info.reason} {error.details()}")
    return info.reason


async def main(count: int, first: int) -> None:
    """Attack a kernel of its own, and print what came of it."""
    os.environ["INFERD_BACKENDS"] = "[]"
    with tempfile.TemporaryDirectory() as folder:
        async with kernel_here(Path(folder), limits={"upload_idle_s": 1e6}) as kernel:
            found = await attack(kernel, Path(folder), range(first, first + count))
    print({"requests": count, **dict(found.most_common())})  # noqa: T201 - its result


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
