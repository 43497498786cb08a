"""What is left of a request when its call was refused."""

import gc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import grpc
import pytest
from connection import Connection
from google.protobuf.message import Message

from inferd_api.v1 import model_pb2 as mp
from inferd_api.v1 import model_service_pb2 as ms
from inferd_api.v1 import task_service_pb2 as ts
from inferd_api.v1.task_pb2 import TaskSpec, TokenPrompt

LONG = TaskSpec(model="fake", tokens=TokenPrompt(token_ids=range(256)))
UNKNOWN = TaskSpec(model="nothing", prompt="hello")


async def run(to: Connection, spec: TaskSpec) -> None:
    async for _ in to.tasks.RunTask(ts.RunTaskRequest(spec=spec)):
        pass


CALLS: dict[str, Callable[[Connection], Awaitable[Any]]] = {
    "a stream, by the worker": lambda to: run(to, LONG),
    "a stream, before it began": lambda to: run(to, UNKNOWN),
    "a stream, by what must be given": lambda to: run(to, TaskSpec()),
    "a single call": lambda to: to.models.CreateModel(ms.CreateModelRequest(model=mp.Model(name="new", source="x"))),
}


@contextmanager
def garbage() -> Iterator[list[Any]]:
    """What becomes unreachable meanwhile and would have to wait for a collection."""
    found: list[Any] = []
    gc.collect()
    gc.disable()
    try:
        yield found
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found += gc.garbage
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.parametrize("refused", CALLS.values(), ids=CALLS)
async def test_a_refused_request_is_freed_at_once(
    connection: Connection, refused: Callable[[Connection], Awaitable[Any]]
) -> None:
    """However a call is refused, no frame that waits for the garbage collector holds what its client has sent."""
    await connection.create(context_tokens=64)
    await connection.models.LoadModel(ms.LoadModelRequest(name="fake"))
    with garbage() as found:
        for _ in range(3):
            with pytest.raises(grpc.aio.AioRpcError):
                await refused(connection)
        await connection.models.GetModel(ms.GetModelRequest(name="fake"))  # the refused ones are over on both sides
    frames = [each for each in found if isinstance(each, FrameType) and "/inferd/" in each.f_code.co_filename]
    held = [name for each in frames for name, value in each.f_locals.items() if isinstance(value, Message)]
    assert frames  # those of the calls themselves, without their requests
    assert held == []
