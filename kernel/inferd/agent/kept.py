"""Workers that outlive their kernel: kept until the next one goes on with them, or has them end."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from inferd.core.ids import InstanceId
from inferd_api.agent.v1 import agent_pb2 as wire

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from inferd.agent.hosted import HostedWorker

MOST_LOGS = 1000  # instances whose logs bear other names
DECIDE_S = 20.0  # a kernel that does not say for so long which workers stay goes on with none, or with no more

log = structlog.get_logger()


class KeptWorkers:
    """The workers that are no kernel's. One writer: the agent."""

    def __init__(self) -> None:
        self._logs: OrderedDict[InstanceId, InstanceId] = OrderedDict()  # of which instance, of those that have another
        self._workers: dict[int, HostedWorker] = {}
        self._count = 0
        self._settling: asyncio.Task[None] | None = None
        self._kept = frozenset[int]()
        self._decided = asyncio.Event()  # by the kernel of now

    def __bool__(self) -> bool:
        return bool(self._workers)

    def __iter__(self) -> Iterator[HostedWorker]:
        return iter(self._workers.values())

    def take(self, hosted: dict[int, HostedWorker]) -> None:
        """The kernel of these is gone: those that can outlive it are taken out of them."""
        self._decided, self._kept = asyncio.Event(), frozenset()
        for launch_id, worker in tuple(hosted.items()):
            if worker.hold():
                self._count += 1
                self._workers[self._count] = hosted.pop(launch_id)

    def note_log(self, instance_id: InstanceId, first: InstanceId) -> None:
        """The log of an instance bears the name of the one that its worker was first, whatever was called so before."""
        self._logs.pop(instance_id, None)
        if instance_id != first:
            self._logs[instance_id] = first
        if len(self._logs) > MOST_LOGS:
            self._logs.popitem(last=False)

    def log_name(self, instance_id: str) -> InstanceId:
        """Whose name the log of an instance bears."""
        return self._logs.get(InstanceId(instance_id), InstanceId(instance_id))

    def report(self, devices: Iterable[wire.DeviceFacts]) -> wire.ControlReport:
        """What the next kernel is told."""
        told = (worker.describe(held_id) for held_id, worker in self._workers.items())
        workers = [each for each in told if each is not None]
        log.info("workers were kept, and the kernel is asked which of them it goes on with", workers=len(workers))
        return wire.ControlReport(held=wire.WorkersHeld(devices=devices, workers=workers))

    def keep(self, held_ids: Collection[int]) -> None:
        """The kernel goes on with these alone."""
        self._kept = frozenset(held_ids)
        self._decided.set()

    async def decided(self) -> None:
        """Wait until the kernel has said which stay, and the others are gone."""
        decided = self._decided
        with suppress(TimeoutError):
            async with asyncio.timeout(DECIDE_S):
                await decided.wait()
        if decided is self._decided:  # else yet another kernel decides
            await self._end(held_id for held_id in self._workers if held_id not in self._kept)

    def settle(self) -> None:
        """The host is ready: those that were to stay, and that the kernel does not take up in time, end."""
        self._settling = asyncio.create_task(self._settle(self._decided), name="kept workers")

    async def _settle(self, decided: asyncio.Event) -> None:
        await asyncio.sleep(DECIDE_S)
        if decided is self._decided:
            await self._end(self._workers)

    def pop(self, order: wire.AdoptWorker) -> HostedWorker | None:
        """The kernel takes one up; None where it is not here."""
        return self._workers.pop(order.held_id, None)

    async def end(self) -> None:
        """Have nothing left of any of them."""
        if self._settling is not None:
            self._settling.cancel()
        await self._end(self._workers)

    async def _end(self, held_ids: Iterable[int]) -> None:
        ends = [self._workers.pop(held_id) for held_id in tuple(held_ids)]
        await asyncio.gather(*(worker.end() for worker in ends), return_exceptions=True)
