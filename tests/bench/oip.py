"""The Open Inference Protocol beside an empty service of grpc.aio: same client, same messages, in turns.

`oip.sequential` is the time of one request over that of the empty call; `oip.b32` and `oip.mib` are rates over its own.
`oip.shared` is the rate of 1 MiB there and back in shared memory of the system over that of the same in messages.
"""

import asyncio
import json
import os
import sys
import tempfile
import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
from infer import LARGEST, MIB, ROUNDS, Pair, empty_service, kernel_with_model, unary
from limits import Figure

from inferd.runtime.front.regions import FOLDER
from inferd_api.inference import grpc_service_pb2 as gp
from inferd_api.inference.grpc_service_pb2_grpc import GRPCInferenceServiceStub

KEY = f"inferd-bench-{uuid.uuid4().hex}"
CASES = {"sequential": (16, 1), "b32": (16, 32), "mib": (MIB // 4, 8), "shared": (MIB // 4, 8)}
WORDS = {
    "sequential": "16 floats, one after the other: time over that of an empty call",
    "b32": "16 floats, 32 in flight: rate over that of empty calls",
    "mib": "1 MiB there and back, 8 in flight: rate over that of empty calls",
    "shared": "1 MiB there and back in shared memory, 8 in flight: rate over that of the same in messages",
}


def figures(*, only: str) -> Iterator[Figure]:
    """`oip.…`."""
    if not any(f"oip.{name}".startswith(only) or only.startswith(f"oip.{name}") for name in CASES):
        return
    memory = FOLDER / KEY
    memory.write_bytes(bytes(2 * 8 * MIB))
    allowed = {"INFERD_INFERENCE__SHARED_MEMORY": json.dumps([KEY])}
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            empty_service() as empty,
            kernel_with_model(Path(folder), **allowed) as (address, _),
        ):
            yield from asyncio.run(_compare(address, empty, only))
    finally:
        memory.unlink()


async def _compare(address: str, empty: str, only: str) -> list[Figure]:
    async with (
        grpc.aio.insecure_channel(address, options=LARGEST) as ours,
        grpc.aio.insecure_channel(empty, options=LARGEST) as theirs,
    ):
        stub: Any = GRPCInferenceServiceStub(ours)
        await stub.SystemSharedMemoryRegister(
            gp.SystemSharedMemoryRegisterRequest(name="region", key=KEY, byte_size=2 * 8 * MIB)
        )
        one = theirs.unary_unary("/empty/One")
        pairs = {}
        for name, (floats, at_once) in CASES.items():
            if not f"oip.{name}".startswith(only):
                continue
            if name == "shared":
                places = iter(range(at_once))
                pairs[name] = Pair(_shared(stub, at_once, places), unary(infer(stub, request(floats)), at_once))
            else:
                asked = request(floats)
                pairs[name] = Pair(unary(infer(stub, asked), at_once), unary(_call(one, asked), at_once))
        for _ in range(ROUNDS):
            for pair in pairs.values():
                await pair.measure()
    return [_figure(name, pair) for name, pair in pairs.items()]


def _figure(name: str, pair: Pair) -> Figure:
    value = 1 / pair.ratio() if name == "sequential" else pair.ratio()
    return Figure(name=f"oip.{name}", value=round(value, 3), unit="x", detail=f"{WORDS[name]}; {pair.told()}")


def request(floats: int) -> gp.ModelInferRequest:
    request = gp.ModelInferRequest(model_name="x", raw_input_contents=[os.urandom(4 * floats)])
    request.inputs.add(name="x", datatype="FP32", shape=[1, floats])
    return request


def infer(stub: Any, request: gp.ModelInferRequest) -> Callable[[], Awaitable[None]]:
    async def run() -> None:
        await stub.ModelInfer(request)

    return run


def _call(method: Any, request: gp.ModelInferRequest) -> Callable[[], Awaitable[None]]:
    async def run() -> None:
        gp.ModelInferResponse.FromString(await method(request.SerializeToString()))

    return run


def _shared(stub: Any, at_once: int, places: Iterator[int]) -> Any:
    """So many requests at once, each with a place of its own for what goes in and what comes out."""
    free = list(places)

    async def run() -> None:
        place = free.pop()
        request = gp.ModelInferRequest(model_name="x")
        for tensor, start in (
            (request.inputs.add(name="x", datatype="FP32", shape=[1, MIB // 4]), 2 * place * MIB),
            (request.outputs.add(name="y"), (2 * place + 1) * MIB),
        ):
            tensor.parameters["shared_memory_region"].string_param = "region"
            tensor.parameters["shared_memory_byte_size"].int64_param = MIB
            tensor.parameters["shared_memory_offset"].int64_param = start
        await stub.ModelInfer(request)
        free.append(place)

    return unary(run, at_once)


if __name__ == "__main__":
    for figure in figures(only=sys.argv[1] if len(sys.argv) > 1 else ""):
        print(json.dumps(figure), flush=True)
