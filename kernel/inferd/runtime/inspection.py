"""Finding out what a model needs, without loading it: a worker measures, tells and is ended."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import count
from typing import Any

from inferd.core.host import LOCAL_HOST, host_of
from inferd.core.ids import DeviceId, HostId, InstanceId
from inferd.core.model import ModelSpec
from inferd.core.resources import MemoryNeed
from inferd.errors import ModelLoadError, WorkerDiedError
from inferd.plugin.patience import patience
from inferd.runtime.frames import load_frame, read_failure, read_needs
from inferd.runtime.link import Arrived
from inferd.runtime.placement import advise
from inferd.runtime.supervisor import Supervisor
from inferd.runtime.worker import Worker
from inferd_api.worker.v1 import load_pb2
from inferd_api.worker.v1 import worker_pb2 as wire

CONCURRENT_INSPECTIONS = 2  # workers that measure at once, besides those that load
MOST_MEASURED = 4  # sizes of far devices on which a model is measured for one plan
PLAN = ".plan-"  # in the names of workers that measure, behind that of their model
ANSWERS = ("needs", "load_failed")


def measured_first(capacities: Mapping[DeviceId, int]) -> dict[DeviceId, int]:
    """Of these devices those on which a model is measured: all of the kernel's own host, far ones of a few sizes."""
    sizes = dict[int, None]()
    for device_id, size in capacities.items():
        if host_of(device_id) == LOCAL_HOST or len(sizes) < MOST_MEASURED:
            sizes[size] = None
    return {device_id: size for device_id, size in capacities.items() if size in sizes}


class Inspections:
    """Models that are being measured. Their workers are no instances: nobody else hears of them.

    Args:
        supervisor: Makes workers.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._places = asyncio.Semaphore(CONCURRENT_INSPECTIONS)
        self._numbers = count(1)

    async def inspect_all(
        self,
        spec: ModelSpec,
        *,
        limits: load_pb2.EngineLimits,
        capacities: Mapping[DeviceId, int],
        guess: MemoryNeed | None = None,
    ) -> dict[DeviceId, MemoryNeed]:
        """What a model needs on each of its devices; those of which as much may be given are alike and measured once.

        Where they cannot tell, as on a host that has to fetch the files first, it is taken for the `guess`.

        Raises:
            ModelLoadError, WorkerDiedError: As `inspect`.
        """
        alike: dict[int, DeviceId] = {}
        for device_id, capacity_bytes in capacities.items():
            alike.setdefault(capacity_bytes, device_id)
        try:
            async with asyncio.TaskGroup() as group:
                measured = {
                    size: group.create_task(
                        self.inspect(
                            spec,
                            device_id,
                            limits=limits,
                            capacity_bytes=size,
                            beside=_others(device_id, capacities)[: spec.span - 1],
                        )
                    )
                    for size, device_id in alike.items()
                }
        except ExceptionGroup as errors:
            if guess is not None and errors.subgroup(ModelLoadError) is not None:
                return dict.fromkeys(capacities, guess)
            raise errors.exceptions[0] from None
        return {device_id: measured[size].result() for device_id, size in capacities.items()}

    async def inspect(
        self,
        spec: ModelSpec,
        device_id: DeviceId,
        *,
        limits: load_pb2.EngineLimits,
        capacity_bytes: int,
        beside: Sequence[DeviceId] = (),
    ) -> MemoryNeed:
        """What a model needs on a device of which `capacity_bytes` may be given. Cancelling this ends the worker.

        One that spans devices needs as much of each of those `beside`.

        Raises:
            ModelLoadError: It cannot be loaded, as far as its metadata tell.
            WorkerDiedError: The worker died, or did not tell in the time that starting and a silent load may take.
        """
        async with self._places:
            instance_id = InstanceId(f"{spec.name}{PLAN}{next(self._numbers)}")
            load = load_frame(
                instance_id,
                spec,
                limits,
                device_id=device_id,
                capacity_bytes=capacity_bytes,
                checks=False,
                beside=beside,
            )
            return await self._inspect(spec, instance_id, load, host_of(device_id))

    async def _inspect(
        self, spec: ModelSpec, instance_id: InstanceId, load: wire.KernelFrame, host_id: HostId
    ) -> MemoryNeed:
        answer: asyncio.Future[wire.WorkerFrame] = asyncio.get_running_loop().create_future()

        def take(_: InstanceId, frame: wire.WorkerFrame, __: Arrived) -> None:
            if frame.WhichOneof("kind") in ANSWERS and not answer.done():
                answer.set_result(frame)

        worker = self._supervisor.make(instance_id, load, host_id=host_id, on_frame=take, on_memory=lambda *_: None)
        why = await self._live(worker, answer)
        where = {"log": worker.log_path}
        if not answer.done():
            message = f"the worker that measured model {spec.name!r} died: {why}"
            raise WorkerDiedError(message, metadata={"cause": why, **where})
        frame = answer.result()
        if frame.HasField("load_failed"):
            raise advise(read_failure(frame.load_failed.failure, where), spec)
        return read_needs(frame.needs)

    async def _live(self, worker: Worker, answer: asyncio.Future[wire.WorkerFrame]) -> str:
        """Run a worker until it has answered; why it ended if that was before."""
        times = self._supervisor.times
        limit_s = times.start_timeout_s + times.load_silence_s
        self._supervisor.measuring.add(worker)
        try:
            async with asyncio.TaskGroup() as group:
                life = group.create_task(worker.run(), name=f"worker {worker.instance_id}")
                either: set[asyncio.Future[Any]] = {life, answer}
                with suppress(TimeoutError):
                    async with patience(limit_s):
                        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                life.cancel()  # kills the process: it holds nothing that would have to be closed
        finally:
            self._supervisor.measuring.remove(worker)
        return f"it did not answer within {limit_s:g} s" if life.cancelled() else life.result()


def _others(device_id: DeviceId, among: Iterable[DeviceId]) -> list[DeviceId]:
    """The other devices of a host that may be used with one of it."""
    return [each for each in among if each != device_id and host_of(each) == host_of(device_id)]
