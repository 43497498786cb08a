"""Damaged requests of the Open Inference Protocol, against a kernel with real workers and shared memory.

    python tests/fuzz/oip_fuzz.py REQUESTS [FIRST]

Each ends well or with a typed error that is no defect, alone or on a stream, which goes on behind it; no worker dies,
no descriptor is left, and what is good is computed as before. Prints how many ended with which reason; the number of
one that did not ends the run, and makes the same request again.
"""

import asyncio
import os
import struct
import sys
import tempfile
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from oip_wounds import MODELS, REGION_BYTES, wounded

from inferd.runtime.front.regions import FOLDER
from inferd.server import Kernel
from inferd.testing.kernel import kernel_here, write_fake_model
from inferd_api.inference import grpc_service_pb2 as gp
from inferd_api.inference.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from inferd_client import AsyncClient

AT_ONCE = 32
STREAMED = 8  # of so many requests one goes by a stream
DEADLINE_S = 60.0
KEY = f"inferd-fuzz-{uuid.uuid4().hex}"
FINE = frozenset(
    (
        *("INVALID_FIELD", "LIMIT_EXCEEDED", "UNSUPPORTED_INPUT", "MODEL_NOT_FOUND", "SEQUENCE_NOT_FOUND"),
        *("TASK_EXPIRED", "PROMPT_TOO_LONG", "OUTPUT_INVALID"),
    )
)
SETTINGS: dict[str, Any] = {"inference": {"shared_memory": (KEY,)}, "limits": {"retained_tasks": 100}}


class FoundError(AssertionError):
    """A request that did not end as it must."""


@asynccontextmanager
async def attacked(folder: Path) -> AsyncIterator[tuple[Kernel, grpc.aio.Channel]]:
    """A kernel with the models and a region, and a channel to it."""
    memory = FOLDER / KEY
    memory.write_bytes(bytes(REGION_BYTES))
    try:
        async with kernel_here(folder, **SETTINGS) as kernel, AsyncClient(kernel.addresses[0]) as client:
            for name in MODELS:
                behaviour = {} if name == "text" else {"tensor": name, "most_batch": 8}
                await client.create_model(name, source=str(write_fake_model(folder, name, **behaviour)))
                await client.load_model(name)
            async with grpc.aio.insecure_channel(kernel.addresses[0]) as channel:
                stub: Any = GRPCInferenceServiceStub(channel)
                await stub.SystemSharedMemoryRegister(
                    gp.SystemSharedMemoryRegisterRequest(name="region", key=KEY, byte_size=REGION_BYTES)
                )
                yield kernel, channel
    finally:
        memory.unlink()


async def attack(kernel: Kernel, channel: grpc.aio.Channel, numbers: range) -> Counter[str]:
    """Send the requests of these numbers; how many ended with which reason.

    Raises:
        FoundError: One ended otherwise than it must, a worker has died, or what is good is not computed any more.
    """
    async with AsyncClient(kernel.addresses[0]) as client:
        await _add(channel)
        before = {m.name: [i.instance_id for i in m.instances] async for m in client.list_models()}
        descriptors = _open_now()
        found: Counter[str] = Counter()
        waiting = iter(numbers)
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(_send_all(channel, waiting, found))
        after = {m.name: [i.instance_id for i in m.instances] async for m in client.list_models()}
    if before != after:
        raise FoundError(f"workers have died: {before} became {after}")
    await _add(channel)
    if (left := _open_now() - descriptors) > AT_ONCE:
        raise FoundError(f"{left} descriptors are left")
    return found


def _open_now() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def _add(channel: grpc.aio.Channel) -> None:
    request = gp.ModelInferRequest(model_name="add", raw_input_contents=[struct.pack("<f", 1)] * 2)
    for name in "ab":
        request.inputs.add(name=name, datatype="FP32", shape=[1, 1])
    request.outputs.add(name="sum")
    stub: Any = GRPCInferenceServiceStub(channel)
    if list((await stub.ModelInfer(request)).raw_output_contents) != [struct.pack("<f", 2)]:
        raise FoundError("1 and 1 are not 2")


async def _send_all(channel: grpc.aio.Channel, numbers: Iterator[int], found: Counter[str]) -> None:
    once = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    for number in numbers:
        data = wounded(number)
        try:
            gp.ModelInferRequest.FromString(data)
            whole = True
        except DecodeError:
            whole = False
        try:
            async with asyncio.timeout(DEADLINE_S):
                if whole and number % STREAMED == 0:
                    found[await _stream(channel, data, number)] += 1
                else:
                    gp.ModelInferResponse.FromString(await once(data))
                    found["OK"] += 1
        except grpc.aio.AioRpcError as error:
            found[_reason(error, number, whole=whole)] += 1


async def _stream(channel: grpc.aio.Channel, data: bytes, number: int) -> str:
    """Twice on a stream; each has an answer of its own, whatever becomes of the other."""
    call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")(iter((data, data)))
    told = [gp.ModelStreamInferResponse.FromString(each) async for each in call]
    failed = [each.error_message for each in told if each.error_message]
    if any("defect" in each or not each for each in failed):
        raise FoundError(f"request {number} on a stream: {failed}")
    decoupled = gp.ModelInferRequest.FromString(data).model_name == "text"
    if not decoupled and len(told) != 2:
        raise FoundError(f"request {number} had {len(told)} answers for two requests on a stream")
    return "refused on a stream" if failed else "OK on a stream"


def _reason(error: grpc.aio.AioRpcError, number: int, *, whole: bool) -> str:
    status = rpc_status.from_call(error)
    info = error_details_pb2.ErrorInfo()
    if status is None or not any(detail.Unpack(info) for detail in status.details):
        raise FoundError(f"request {number}: {error.code()} {error.details()} without a reason")
    if info.reason not in FINE:
        raise FoundError(f"request {number}: {info.reason} {error.details()}")
    return info.reason if whole else "no message"


async def main(count: int, first: int) -> None:
    """Attack a kernel of its own, and print what came of it."""
    os.environ["INFERD_BACKENDS"] = "[]"
    with tempfile.TemporaryDirectory() as folder:
        async with attacked(Path(folder)) as (kernel, channel):
            found = await attack(kernel, channel, range(first, first + count))
    print({"requests": count, **dict(found.most_common())})  # noqa: T201 - its result


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
