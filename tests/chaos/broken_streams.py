"""Streams of the Open Inference Protocol that break at random moments, and what a kernel has left of them.

    python tests/chaos/broken_streams.py --streams 10000

Rounds of one kernel each, in this process; its clients are another process, which cancels, has deadlines, closes its
half and goes, drops its calls, or leaves all open while the kernel goes down. After the streams that break no task is
open; after the kernel there is no task of the loop, no descriptor, no process and no shared memory but those of before.
"""

import argparse
import asyncio
import gc
import json
import os
import random
import struct
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import psutil
import structlog

from inferd.runtime.front.regions import FOLDER
from inferd.services.inference.tensors import write_texts
from inferd.testing.kernel import kernel_here, write_fake_model
from inferd_api.inference import grpc_service_pb2 as gp
from inferd_api.inference.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1 import task_service_pb2 as ts
from inferd_api.v1.task_service_pb2_grpc import TaskServiceStub
from inferd_client import AsyncClient

HERE = str(Path(__file__).resolve())
ROUND = 250
AT_ONCE = 25
DEADLINE_S = 60.0
MOMENT_S = 0.04
KEY = f"inferd-streams-{uuid.uuid4().hex}"
FLOATS = 160_000
"""More than goes in a frame: such tensors are in memories between kernel and worker."""
MODELS: dict[str, dict[str, Any]] = {
    "text": {"step_s": 0.001},
    "slow": {"tensor": "identity", "step_s": 0.005},
    "repeat": {"tensor": "repeat", "step_s": 0.001},
}
HOW = ("cancel", "deadline", "half", "rude", "whole")
log = structlog.get_logger()
OPEN = (tp.TASK_STATE_QUEUED, tp.TASK_STATE_RUNNING, tp.TASK_STATE_SUSPENDED)


class LeftError(AssertionError):
    """Something was left behind."""


async def moment(seconds: float) -> None:
    """Let others go on for so long: the moments at which streams break are random."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.Event().wait()


def request(chosen: random.Random) -> gp.ModelInferRequest:
    """One that takes a while."""
    model = chosen.choice(tuple(MODELS))
    made = gp.ModelInferRequest(model_name=model)
    if model == "text":
        made.inputs.add(name="text_input", datatype="BYTES", shape=[1])
        made.inputs.add(name="stream", datatype="BOOL", shape=[1])
        made.raw_input_contents.extend((write_texts(["la"]), b"\1"))
        made.parameters["max_tokens"].int64_param = chosen.randint(1, 400)
    elif model == "repeat":
        made.inputs.add(name="count", datatype="FP32", shape=[])
        made.raw_input_contents.append(struct.pack("<f", chosen.randint(1, 40)))
    else:
        tensor = made.inputs.add(name="x", datatype="FP32", shape=[1, FLOATS])
        output = made.outputs.add(name="y")
        if chosen.random() < 0.5:
            _share(tensor, 0)
            _share(output, 4 * FLOATS)
        else:
            made.raw_input_contents.append(bytes(4 * FLOATS))
    return made


def _share(tensor: Any, start: int) -> None:
    tensor.parameters["shared_memory_region"].string_param = "region"
    tensor.parameters["shared_memory_byte_size"].int64_param = 4 * FLOATS
    tensor.parameters["shared_memory_offset"].int64_param = start


async def break_one(stub: Any, chosen: random.Random, found: Counter[str]) -> None:
    """Open a stream and break it in one of the ways."""
    how = chosen.choice(HOW)
    timeout_s = chosen.uniform(0.001, 2 * MOMENT_S) if how == "deadline" else None
    call = stub.ModelStreamInfer(timeout=timeout_s)
    try:
        for _ in range(chosen.randint(1, 6)):
            await call.write(request(chosen))
        if how in {"half", "whole"}:
            await call.done_writing()
        if how in {"deadline", "whole"}:
            while await call.read() is not grpc.aio.EOF:
                pass
        elif chosen.random() < 0.5:
            await call.read()
        else:
            await moment(chosen.uniform(0, MOMENT_S))
        found[how] += 1
    except grpc.aio.AioRpcError as error:
        found[f"{how}: {error.code().name}"] += 1
    except asyncio.InvalidStateError:  # a write behind the end of the call, which its deadline brought
        found[f"{how}: ended"] += 1
    finally:
        if how != "rude":  # whose call is dropped with all that refers to it
            call.cancel()


async def _some(stub: Any, numbers: Iterator[int], found: Counter[str]) -> None:
    for number in numbers:
        try:
            async with asyncio.timeout(DEADLINE_S):
                await break_one(stub, random.Random(number), found)
        except TimeoutError:  # the kernel says whether it has anything of it
            found["open at the client"] += 1


async def no_tasks(tasks: Any) -> None:
    """Wait until no task is open.

    Raises:
        LeftError: One is, for too long.
    """
    asked = ts.WatchTasksRequest(states=OPEN)
    try:
        async with asyncio.timeout(DEADLINE_S):
            call = tasks.WatchTasks(asked)
            async for told in call:
                if not told.more and not (await tasks.ListTasks(ts.ListTasksRequest(states=OPEN))).tasks:
                    call.cancel()
                    return
    except TimeoutError:
        left = (await tasks.ListTasks(ts.ListTasksRequest(states=OPEN))).tasks
        raise LeftError(f"{len(left)} tasks are open: {left[:1]}") from None


async def warm_up(folder: Path) -> None:
    """A kernel and a worker: after them this process has what it keeps, as tests keep what workers are forked of."""
    async with kernel_here(folder) as kernel, AsyncClient(kernel.addresses[0]) as client:
        await client.create_model("text", source=str(write_fake_model(folder, "text")))
        await client.load_model("text")


async def one_round(folder: Path, numbers: range, found: Counter[str]) -> None:
    """A kernel, the streams of these numbers, and some that are open as it goes down."""
    memory = FOLDER / KEY
    memory.write_bytes(bytes(8 * FLOATS))
    settings: dict[str, Any] = {
        "inference": {"shared_memory": (KEY,)},
        "limits": {"retained_tasks": 10},
        "drain_s": 0.2,
    }
    clients = None
    try:
        async with kernel_here(folder, **settings) as kernel:
            async with AsyncClient(kernel.addresses[0]) as client:
                for name, behaviour in MODELS.items():
                    await client.create_model(name, source=str(write_fake_model(folder, name, **behaviour)))
                    await client.load_model(name)
            words = (HERE, "--clients", kernel.addresses[0], KEY)
            clients = await asyncio.create_subprocess_exec(
                *(sys.executable, *words, "--first", str(numbers.start), "--streams", str(len(numbers))),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            found.update(await _told(clients, DEADLINE_S * (2 + len(numbers) / AT_ONCE)))
            async with grpc.aio.insecure_channel(
                kernel.addresses[0], options=(("grpc.use_local_subchannel_pool", 1),)
            ) as channel:
                await no_tasks(TaskServiceStub(channel))
            assert clients.stdin is not None
            clients.stdin.write(b"go down\n")
            await _told(clients)  # its last streams are open
            await moment(random.Random(numbers.start).uniform(0, MOMENT_S))
        found.update(await _told(clients))
        await clients.wait()
    finally:
        memory.unlink()
        if clients is not None and clients.returncode is None:
            clients.kill()
            await clients.wait()


async def _told(clients: asyncio.subprocess.Process, most_s: float = 4 * DEADLINE_S) -> dict[str, int]:
    """What the clients tell next.

    Raises:
        LeftError: They ended before, or tell nothing for too long.
    """
    assert clients.stdout is not None
    try:
        async with asyncio.timeout(most_s):
            line = await clients.stdout.readline()
    except TimeoutError:
        raise LeftError("the clients say nothing: a call of theirs does not end") from None
    if not line:
        raise LeftError("the clients have ended before their time")
    told: dict[str, int] = json.loads(line)
    return told


async def be_clients(address: str, numbers: range) -> None:
    """The other process: what came of each stream, then what came of those that were open as the kernel went down."""
    found: Counter[str] = Counter()
    channel = grpc.aio.insecure_channel(address)
    stub: Any = GRPCInferenceServiceStub(channel)
    await stub.SystemSharedMemoryRegister(
        gp.SystemSharedMemoryRegisterRequest(name="region", key=KEY, byte_size=8 * FLOATS)
    )
    waiting = iter(numbers)
    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(_some(stub, waiting, found))
    gc.collect()  # calls that were dropped end with that
    _say(found)
    await asyncio.to_thread(sys.stdin.readline)
    down: Counter[str] = Counter()
    last = [asyncio.create_task(_until_the_end(stub, random.Random(number), down)) for number in numbers[:10]]
    _say({})
    _, open_still = await asyncio.wait(last, timeout=DEADLINE_S)
    down["down: open at the client"] += len(open_still)
    _say(down)
    os._exit(0)  # calls that gRPC has lost would be waited for


def _say(told: Mapping[str, int]) -> None:
    print(json.dumps({key: count for key, count in told.items() if count}), flush=True)  # noqa: T201 - to the parent


async def _until_the_end(stub: Any, chosen: random.Random, found: Counter[str]) -> None:
    """A stream that asks for more until its kernel is gone."""
    call = stub.ModelStreamInfer()
    try:
        while True:
            await call.write(request(chosen))
            if await call.read() is grpc.aio.EOF:
                found["down: ended"] += 1
                return
    except grpc.aio.AioRpcError as error:
        found[f"down: {error.code().name}"] += 1
    except asyncio.InvalidStateError:  # a write behind the end of the call
        found["down: ended"] += 1


def held() -> dict[str, Any]:
    """What this process has: descriptors that are no part of gRPC's own, processes, files in shared memory."""
    gc.collect()
    opened = Counter[str]()
    for each in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            opened[str(each.readlink()).partition(":[")[0]] += 1
    return {
        "descriptors": opened,
        "processes": [str(each) for each in psutil.Process().children(recursive=True)],
        "shared": sorted(each.name for each in FOLDER.iterdir() if each.name.startswith(KEY)),
    }


async def check_left(before: dict[str, Any]) -> None:
    """Refuse what is left.

    Raises:
        LeftError: Something is.
    """
    until = time.monotonic() + DEADLINE_S
    while True:  # gRPC closes connections in threads of its own
        tasks = [each for each in asyncio.all_tasks() if each is not asyncio.current_task()]
        now = held()
        more = {
            "descriptors": dict(now["descriptors"] - before["descriptors"]),
            "processes": [each for each in now["processes"] if each not in before["processes"]],
            "shared": [each for each in now["shared"] if each not in before["shared"]],
            "tasks": [str(each) for each in tasks],
        }
        if not any(more.values()):
            return
        if time.monotonic() > until:
            raise LeftError(f"left behind: {more}")
        await moment(0.05)


async def run(streams: int, *, round_size: int = ROUND, first: int = 0) -> Counter[str]:
    """So many streams, in rounds; how they ended.

    Raises:
        LeftError: Something was left behind.
    """
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="streams-") as folder:
        await warm_up(Path(folder))
    before = held()
    for number in range(first, first + streams, round_size):
        with tempfile.TemporaryDirectory(prefix="streams-") as folder:
            await one_round(Path(folder), range(number, min(number + round_size, first + streams)), found)
        await check_left(before)
        log.info("a round has left nothing", streams=min(number + round_size, first + streams) - first, **found)
    return found


def main() -> None:
    """What the command line says; a line of JSON."""
    global KEY
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--round", type=int, default=ROUND, help="streams of a kernel")
    parser.add_argument("--clients", nargs=2, metavar=("ADDRESS", "KEY"))
    asked = parser.parse_args()
    if asked.clients:
        address, KEY = asked.clients  # as the parent has it
        asyncio.run(be_clients(address, range(asked.first, asked.first + asked.streams)))
        return
    os.environ["INFERD_BACKENDS"] = "[]"
    begun = time.monotonic()
    found = asyncio.run(run(asked.streams, round_size=asked.round, first=asked.first))
    sys.stdout.write(
        json.dumps({"streams": asked.streams, "left": 0, "s": round(time.monotonic() - begun), **found}) + "\n"
    )


if __name__ == "__main__":
    main()
