"""A storm of requests: each key is sent many times, from several connections, while kernels are killed and follow.

Who sends does what any client would: what was not answered is sent again. Every answer of a key must name the one task
that it made, and in the end there must be one task for each key, for the last kernel and for the one after it.
"""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from inferd.testing.kernel import KernelProcess, kernel_process, write_fake_model
from inferd_api.v1 import model_pb2 as mp
from inferd_api.v1 import model_service_pb2 as ms
from inferd_api.v1 import sampling_pb2 as sp
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1 import task_service_pb2 as ts
from inferd_api.v1.model_service_pb2_grpc import ModelServiceStub
from inferd_api.v1.task_service_pb2_grpc import TaskServiceStub

SENDERS = 8  # calls under way on each connection
CALL_S = 30.0
SENT_AGAIN = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How large a storm is.

    Attributes:
        keys: How many there are.
        times: How often each is answered.
        connections: From how many it is sent.
        restarts: How many kernels are killed.
        seed: Of the order, and of when they are.
    """

    keys: int
    times: int
    connections: int
    restarts: int
    seed: int = 1


@dataclass(slots=True)
class Found:
    """What came of a storm. One writer: `Storm`.

    Attributes:
        tasks: The ids that were answered for each key.
        answers: How many calls were answered.
        unanswered: How many were not, by the status of their end.
        cut: Keys of which at least one call was cut off by a kill.
        known: The keys of the tasks that there are, once for each task; of the last kernel, and of the one after it.
        kills: Kernels that were killed.
        took_s: How long it took.
    """

    tasks: dict[str, set[str]] = field(default_factory=dict)
    answers: int = 0
    unanswered: Counter[str] = field(default_factory=Counter)
    cut: set[str] = field(default_factory=set)
    known: list[Counter[str]] = field(default_factory=list)
    kills: int = 0
    took_s: float = 0.0

    def wrong(self, size: Size) -> list[str]:
        """What is not as it has to be."""
        wrong = [f"key {key} was answered with {len(ids)} tasks" for key, ids in self.tasks.items() if len(ids) != 1]
        if self.answers != size.keys * size.times or self.kills != size.restarts:
            wrong.append(f"{self.answers} answers and {self.kills} kills")
        for number, known in enumerate(self.known):
            keys, tasks = len(known), known.total()
            if (keys, tasks) != (size.keys, size.keys):
                wrong.append(f"there are {tasks} tasks of {keys} keys, for kernel {number} of the last two")
            wrong += [f"key {key} has {count} tasks" for key, count in known.items() if count != 1]
        return wrong


class Storm:
    """Kernels with one store, one after the other, and who sends to them."""

    def __init__(self, size: Size, folder: Path, environment: dict[str, str]) -> None:
        self._size = size
        self._folder = folder
        bounds = {
            name: str(size.keys * 2)
            for name in (
                *("INFERD_LIMITS__TASKS", "INFERD_LIMITS__QUEUED_TASKS", "INFERD_LIMITS__DETACHED_TASKS"),
                *("INFERD_STORE__RETAINED_TASKS", "INFERD_SCHEDULER__TENANT_QUEUED", "INFERD_SCHEDULER__MODEL_QUEUED"),
            )
        }
        self._environment = {"INFERD_BACKENDS": "[]", "INFERD_SCHEDULER__TENANT_SHARE": "1000", **bounds, **environment}
        self._random = random.Random(size.seed)
        self._due = [str(key) for key in range(size.keys)] * size.times
        self._random.shuffle(self._due)
        self._serving = asyncio.Event()
        self._address = ""
        self._answered = asyncio.Condition()
        self.found = Found()

    async def run(self) -> Found:
        """The storm, to its end."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            kernels = group.create_task(self._kernels())
            senders = [group.create_task(self._connection(number)) for number in range(self._size.connections)]
            await asyncio.wait(senders)
            await kernels
        self.found.took_s = time.monotonic() - began
        return self.found

    @asynccontextmanager
    async def _kernel(self) -> AsyncIterator[KernelProcess]:
        with ExitStack() as stack:
            kernel = await asyncio.to_thread(
                stack.enter_context, kernel_process(self._folder, environment=self._environment)
            )
            self._address = kernel.address
            try:
                yield kernel
            finally:
                self._serving.clear()
                await asyncio.to_thread(stack.close)

    async def _kernels(self) -> None:
        """Each but the last is killed when so many calls were answered."""
        total = len(self._due)
        share = total / (self._size.restarts + 1)
        for number in range(self._size.restarts):
            until = int(share * (number + self._random.uniform(0.5, 1.0)))
            async with self._kernel() as kernel:
                if not number:
                    await self._create()
                self._serving.set()
                async with self._answered:
                    await self._answered.wait_for(lambda until=until: self.found.answers >= until)
                self._serving.clear()  # what is under way is cut off; what comes waits for the next one
                os.kill(kernel.pid, signal.SIGKILL)
                self.found.kills += 1
        for last in (True, False):
            async with self._kernel():
                if last:
                    self._serving.set()
                    async with self._answered:
                        await self._answered.wait_for(lambda: self.found.answers >= total)
                self.found.known.append(await self._list())

    async def _create(self) -> None:
        source = str(write_fake_model(self._folder, blocks=8192, max_sequences=64))
        async with grpc.aio.insecure_channel(self._address) as channel:
            model = mp.Model(name="fake", source=source)
            await ModelServiceStub(channel).CreateModel(ms.CreateModelRequest(model=model))

    async def _list(self) -> Counter[str]:
        """The keys of all tasks that there are, by their labels."""
        keys: Counter[str] = Counter()
        async with grpc.aio.insecure_channel(self._address) as channel:
            request = ts.ListTasksRequest(page_size=1000)
            while True:
                page = await TaskServiceStub(channel).ListTasks(request)
                keys.update(task.labels["key"] for task in page.tasks)
                if not page.next_page_token:
                    return keys
                request.page_token = page.next_page_token

    async def _connection(self, number: int) -> None:
        """Sends until all was answered; a new connection for each address that a kernel has."""
        channels: dict[str, grpc.aio.Channel] = {}

        async def stub() -> Any:
            await self._serving.wait()
            address = self._address
            if address not in channels:
                channels[address] = _channel(address)
            return TaskServiceStub(channels[address])

        async with asyncio.TaskGroup() as group:
            for _ in range(SENDERS):
                group.create_task(self._send(stub), name=f"sender of {number}")
        for channel in channels.values():
            await channel.close()

    async def _send(self, stub: Any) -> None:
        found = self.found
        while self._due:
            key = self._due.pop()
            spec = tp.TaskSpec(model="fake", prompt="la", sampling=sp.SamplingParams(max_tokens=2, temperature=0))
            spec.labels["key"] = key
            while True:
                try:
                    sent = (await stub()).CreateTask(ts.CreateTaskRequest(spec=spec, request_id=key), timeout=CALL_S)
                    task = (await sent).task
                    break
                except grpc.aio.AioRpcError as error:
                    if error.code() not in SENT_AGAIN:
                        raise
                    found.unanswered[error.code().name] += 1
                    found.cut.add(key)
            found.tasks.setdefault(key, set()).add(task.task_id)
            found.answers += 1
            async with self._answered:
                self._answered.notify_all()


def _channel(address: str) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(address, options=(("grpc.use_local_subchannel_pool", 1),))
