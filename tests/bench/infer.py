"""Tensors through a model that does nothing, beside an empty service of grpc.aio: same client, same messages, in turns.

`infer.sequential` is the time of one request over that of the empty call; the others are rates over its rates. The
empty service gives back what it was sent; that of many tasks on one call is a stream that does so. Both have a process
of their own, as the kernel has. Requests ask for all events of a short task in one response (`several_events`).
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psutil
from limits import Figure

from inferd.testing.kernel import kernel_process, write_fake_model
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1 import task_service_pb2 as ts
from inferd_api.v1 import tensor_pb2 as pb
from inferd_api.v1.task_service_pb2_grpc import TaskServiceStub
from inferd_client import Client

ROUNDS = 7
ROUND_S = 1.5
MIB = 1 << 20
LARGEST = (("grpc.max_receive_message_length", 8 * MIB), ("grpc.max_send_message_length", 8 * MIB))
MOST_GROWTH_BYTES = 16 * MIB
REQUESTS = 10_000

Run = Callable[[float], Awaitable[int]]
"""Sends requests until an instant of `time.perf_counter`; how many were answered."""


@dataclass(slots=True)
class Pair:
    """The kernel and the empty service, measured in turns.

    Attributes:
        rates: Answers a second of both, by round.
    """

    kernel: Run
    empty: Run
    rates: list[tuple[float, float]] = field(default_factory=list)

    async def measure(self) -> None:
        """One round of each."""
        self.rates.append((await _rate(self.kernel), await _rate(self.empty)))

    def ratio(self) -> float:
        """The kernel's rate over the other's, the median of all rounds."""
        return statistics.median(ours / theirs for ours, theirs in self.rates)

    def told(self) -> str:
        """Both rates."""
        ours, theirs = (statistics.median(each) for each in zip(*self.rates, strict=True))
        return f"{ours:.0f}/s beside {theirs:.0f}/s, medians of {len(self.rates)} rounds in turns"


async def _rate(run: Run) -> float:
    begun = time.perf_counter()
    count = await run(begun + ROUND_S)
    return count / (time.perf_counter() - begun)


def figures(*, only: str) -> Iterator[Figure]:
    """`infer.…` and `memory.infer`."""
    if any(name.startswith(only) or only.startswith(name) for name in ("infer.",)):
        with (
            tempfile.TemporaryDirectory() as folder,
            empty_service() as empty,
            kernel_with_model(Path(folder)) as (address, _),
        ):
            yield from asyncio.run(_compare(address, empty, only))
    if "memory.infer".startswith(only):
        yield _memory()


@contextmanager
def kernel_with_model(folder: Path, **environment: str) -> Iterator[tuple[str, int]]:
    """The address of a kernel with the model, and its process."""
    with kernel_process(folder, environment=environment) as kernel, Client(kernel.address) as client:
        client.create_model("x", source=str(write_fake_model(folder, "x", tensor="identity", most_batch=32)))
        client.load_model("x")
        yield kernel.address, kernel.pid


@contextmanager
def empty_service() -> Iterator[str]:
    """The address of the empty service."""
    command = [sys.executable, str(Path(__file__).resolve()), "serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"127.0.0.1:{int(process.stdout.readline())}"
        process.terminate()


async def _serve() -> None:
    async def give_back(request: bytes, _: Any) -> bytes:
        return request

    async def give_all_back(_: Any, context: Any) -> None:
        while (request := await context.read()) is not grpc.aio.EOF:
            await context.write(request)

    server = grpc.aio.server(options=LARGEST)
    handlers = {
        "One": grpc.unary_unary_rpc_method_handler(give_back),
        "Many": grpc.stream_stream_rpc_method_handler(give_all_back),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("empty", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


async def _compare(address: str, empty: str, only: str) -> list[Figure]:
    async with (
        grpc.aio.insecure_channel(address, options=LARGEST) as ours,
        grpc.aio.insecure_channel(empty, options=LARGEST) as theirs,
    ):
        stub: Any = TaskServiceStub(ours)
        one, many = theirs.unary_unary("/empty/One"), theirs.stream_stream("/empty/Many")
        pairs = {}
        for name, floats, at_once in (("sequential", 16, 1), ("b32", 16, 32), ("mib", MIB // 4, 8)):
            request = _request(floats)
            pairs[name] = Pair(unary(_run_task(stub, request), at_once), unary(_call(one, request), at_once))
        pairs["tasks"] = Pair(_orders(stub, 32), _messages(many, 32))
        chosen = {name: pair for name, pair in pairs.items() if f"infer.{name}".startswith(only)}
        for _ in range(ROUNDS):
            for pair in chosen.values():
                await pair.measure()
    return [_figure(name, pair) for name, pair in chosen.items()]


WORDS = {
    "sequential": "16 floats, one after the other: time over that of an empty call",
    "b32": "16 floats, 32 in flight: rate over that of empty calls",
    "mib": "1 MiB there and back, 8 in flight: rate over that of empty calls",
    "tasks": "16 floats by RunTasks, 32 in flight: rate over that of messages of an empty stream",
}


def _figure(name: str, pair: Pair) -> Figure:
    value = 1 / pair.ratio() if name == "sequential" else pair.ratio()
    return Figure(name=f"infer.{name}", value=round(value, 3), unit="x", detail=f"{WORDS[name]}; {pair.told()}")


def _request(floats: int) -> ts.RunTaskRequest:
    tensor = pb.Tensor(name="x", element_type=1, shape=[1, floats], data=os.urandom(4 * floats))
    spec = tp.TaskSpec(model="x", infer=pb.InferInput(inputs=[tensor]))
    return ts.RunTaskRequest(spec=spec, several_events=True)


def _run_task(stub: Any, request: ts.RunTaskRequest) -> Callable[[], Awaitable[None]]:
    async def run() -> None:
        async for _ in stub.RunTask(request):
            pass

    return run


def _call(method: Any, request: ts.RunTaskRequest) -> Callable[[], Awaitable[None]]:
    async def run() -> None:
        ts.RunTaskRequest.FromString(await method(request.SerializeToString()))

    return run


def unary(call: Callable[[], Awaitable[None]], at_once: int) -> Run:
    """So many calls at once, each after its own last one."""

    async def one(until: float) -> int:
        count = 0
        while time.perf_counter() < until:
            await call()
            count += 1
        return count

    async def run(until: float) -> int:
        return sum(await asyncio.gather(*(one(until) for _ in range(at_once))))

    return run


def _orders(stub: Any, at_once: int) -> Run:
    request = _request(16)

    async def run(until: float) -> int:
        call, count, tag = stub.RunTasks(), 0, 0

        async def order(number: int) -> None:
            nonlocal tag
            orders = [
                ts.TaskOrder(tag=tag + n, run=ts.RunOrder(request=request)) for n in range(number)
            ]  # as many as have ended at once, in one message
            tag += number
            await call.write(ts.RunTasksRequest(orders=orders))

        await order(at_once)
        while time.perf_counter() < until:
            response = await call.read()
            ended = sum(update.event.HasField("finished") for update in response.updates)
            count += ended
            if ended:
                await order(ended)
        call.cancel()
        return count

    return run


def _messages(method: Any, at_once: int) -> Run:
    data = _request(16).SerializeToString()

    async def run(until: float) -> int:
        call, count = method(), 0
        for _ in range(at_once):
            await call.write(data)
        while time.perf_counter() < until:
            ts.RunTaskRequest.FromString(await call.read())
            count += 1
            await call.write(data)
        call.cancel()
        return count

    return run


def _memory() -> Figure:
    """By how much the kernel grows over many requests of 1 MiB, what it retains of them aside."""
    with (
        tempfile.TemporaryDirectory() as folder,
        kernel_with_model(Path(folder), INFERD_LIMITS__RETAINED_BYTES=str(4 * MIB)) as (address, pid),
    ):
        grown = asyncio.run(grow(address, pid, REQUESTS))
    most = f"at most {MOST_GROWTH_BYTES / MIB:g} MiB"
    detail = f"the kernel's own memory after {REQUESTS} requests of 1 MiB less that after 100; {most}"
    return Figure(name="memory.infer", value=round(grown / MIB, 2), unit="MiB", detail=detail)


async def grow(address: str, pid: int, requests: int) -> int:
    """By how many bytes a kernel's own memory and its descriptors' grow over so many requests of 1 MiB, after 100."""
    async with grpc.aio.insecure_channel(address, options=LARGEST) as channel:
        call = _run_task(TaskServiceStub(channel), _request(MIB // 4))
        left = iter(range(requests))

        async def some(numbers: Iterator[int]) -> None:
            for _ in numbers:
                await call()

        await asyncio.gather(*(some(iter(range(12))) for _ in range(8)))
        begun = psutil.Process(pid).memory_full_info().uss
        await asyncio.gather(*(some(left) for _ in range(8)))
    return int(psutil.Process(pid).memory_full_info().uss) - int(begun)


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        asyncio.run(_serve())
    else:
        for figure in figures(only=sys.argv[1] if len(sys.argv) > 1 else ""):
            print(json.dumps(figure), flush=True)
