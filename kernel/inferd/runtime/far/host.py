"""A host whose agent is attached, as the kernel has it: what is asked of it, and what it tells."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import structlog
from google.protobuf.message import DecodeError

from inferd.core.host import MOST_DEVICES
from inferd.core.ids import DeviceId
from inferd.core.resources import DeviceCapacity
from inferd.errors import InvalidFieldError
from inferd.runtime.far.exchange import Exchange
from inferd.runtime.far.parcels import plain_words
from inferd.runtime.far.worker import FarWorker
from inferd.runtime.launcher import no_log
from inferd.runtime.local_launcher import log_name
from inferd_api.agent.v1 import agent_pb2 as wire

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferd.core.host import HostFacts
    from inferd.core.ids import HostId, InstanceId
    from inferd.runtime.far.parcels import Given
    from inferd.runtime.link import OnClosed, OnFrame

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What an agent says of its host.

    Attributes:
        name: Of the host.
        told: What the core is told of it.
        pid: Of the agent.
        log_folder: Where the logs of workers are.
    """

    name: HostId
    told: HostFacts
    pid: int = 0
    log_folder: str = ""


class Owner(Protocol):
    """Who has hosts."""

    def ready(self, host: FarHost, devices: tuple[DeviceCapacity, ...]) -> None:
        """A host takes workers."""

    def lose(self, host: FarHost, why: str) -> None:
        """A host is lost."""

    def used(self, host: FarHost, device_id: DeviceId) -> None:
        """A host has told how much of a device others hold."""


class FarHost:
    """One attached agent, over all its streams, from when it begins anew until it is lost. Is a `Launcher`.

    One writer: its owner, on one loop.

    Attributes:
        facts: What it says of itself.
        incarnation: Names the process of its agent.
        epoch: Names this time of it.
        principal: Who attached it.
        bounds: Of the link.
        control: The exchange of orders and reports.
        workers: Those that were not said to have ended, by launch.
        gone: Why it is lost; "" while it is not.
        devices: Those that it has said to have, as it calls them.
        used: How much of them others hold, as it has said last.
        told: What the core has been told of that, in bytes.
    """

    def __init__(
        self,
        facts: Facts,
        *,
        incarnation: int,
        epoch: int,
        principal: str,
        bounds: wire.LinkBounds,
        answer_s: float,
        owner: Owner,
    ) -> None:
        self.facts = facts
        self.incarnation = incarnation
        self.epoch = epoch
        self.principal = principal
        self.bounds = bounds
        self.workers: dict[int, FarWorker] = {}
        self.gone = ""
        self.devices: frozenset[DeviceId] = frozenset()
        self.used: dict[DeviceId, wire.DeviceUsed] = {}
        self.told: dict[DeviceId, int] = {}
        self._answer_s = answer_s
        self._owner = owner
        self._launches = self._questions = 0
        self._answers: dict[int, asyncio.Future[wire.LogPart]] = {}
        self._ready = False
        self.control = Exchange(
            bounds, on_frames=self._hear, on_closed=self._control_closed, most_held_bytes=bounds.held_bytes
        )

    @property
    def name(self) -> HostId:
        """Its name."""
        return self.facts.name

    # As a launcher.

    def log_of(self, instance_id: InstanceId) -> str:
        """Where the log of an instance's worker is, for people."""
        return f"{self.name}:{self.facts.log_folder}/{log_name(instance_id, pid=self.facts.pid)}"

    def silent_s(self) -> float | None:
        """Since when nothing was heard of its agent, in seconds."""
        return max(0.0, asyncio.get_running_loop().time() - self.control.heard_at)

    async def read_log(self, instance_id: InstanceId, offset_bytes: int, most_bytes: int) -> tuple[bytes, int]:
        """A part of the log of an instance's worker there, and how large that is now.

        Raises:
            InvalidFieldError: There is none, or the host does not say in time.
        """
        self._questions += 1
        number, most_bytes = self._questions, min(most_bytes, self.bounds.parcel_bytes)
        order = wire.ReadLog(
            question_id=number, instance_id=instance_id, offset_bytes=offset_bytes, most_bytes=most_bytes
        )
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        try:
            self._order(wire.ControlOrder(read_log=order))
            async with asyncio.timeout(self._answer_s):
                part = await answer
        except TimeoutError:
            raise no_log(instance_id, f"host {self.name!r} did not say within {self._answer_s:g} s") from None
        finally:
            del self._answers[number]
        if part.why:
            raise no_log(instance_id, f"on host {self.name!r}: {plain_words(part.why)}")
        return part.data[:most_bytes], part.size_bytes

    async def launch(self, instance_id: InstanceId, *, on_frame: OnFrame, on_closed: OnClosed) -> FarWorker:
        """Start a worker there.

        Raises:
            OSError: It could not be started, its agent does not say so in time, or the host is lost.
        """
        self._check()
        self._launches += 1
        worker = FarWorker(self, self._launches, instance_id, on_frame=on_frame, on_closed=on_closed)
        self.workers[worker.launch_id] = worker
        order = wire.LaunchWorker(launch_id=worker.launch_id, instance_id=instance_id)
        self._order(wire.ControlOrder(launch=order))
        try:
            async with asyncio.timeout(self._answer_s) as limit:
                await worker.started()
        except BaseException as error:  # cancelled, too: nothing is left behind
            if worker.launch_id in self.workers:
                self._order(wire.ControlOrder(end=wire.EndWorker(launch_id=worker.launch_id)))
            worker.given.set()  # nobody waits for that any more
            worker.exchange.close("it was given up")
            if limit.expired() and isinstance(error, TimeoutError):
                why = f"host {self.name!r} did not say within {self._answer_s:g} s (hosts.answer_s) that it runs"
                raise OSError(why) from None
            raise
        worker.given.set()
        return worker

    def _check(self) -> None:
        if self.gone:
            raise OSError(f"host {self.name!r} is lost: {self.gone}")

    # For its workers.

    def measure(self, worker: FarWorker) -> None:
        """Ask for the resident memory of one."""
        if worker.launch_id in self.workers:
            self._order(wire.ControlOrder(measure=wire.MeasureWorker(launch_id=worker.launch_id)))
        else:
            worker.note_measured(0)

    async def end(self, worker: FarWorker, *, went: bool, hangs: bool) -> str:
        """End one; how it ended. Where its host does not say so in time, that is lost."""
        if worker.launch_id in self.workers:
            order = wire.EndWorker(launch_id=worker.launch_id, went=went, hangs=hangs)
            self._order(wire.ControlOrder(end=order))
        try:
            async with asyncio.timeout(self._answer_s):
                return await worker.ended()
        except TimeoutError:
            self._owner.lose(self, f"its agent did not say within {self._answer_s:g} s that a worker has ended")
            return ""

    def _order(self, order: wire.ControlOrder) -> None:
        self.control.send(order.SerializeToString())

    # For its owner.

    def find(self, launch_id: int) -> FarWorker:
        """The worker of a launch.

        Raises:
            InvalidFieldError: The kernel has given it up.
        """
        worker = self.workers.get(launch_id)
        if worker is None or worker.exchange.closed:
            raise InvalidFieldError(f"no worker of launch {launch_id}: it was given up", field="launch_id")
        return worker

    def lost(self, why: str) -> None:
        """It is lost: so are its workers, and whatever it still says counts for nothing."""
        self.gone = self.gone or why
        self.control.close(why)
        for number in self._answers:
            self._answer(wire.LogPart(question_id=number, why=f"it is lost: {why}"))
        workers, self.workers = tuple(self.workers.values()), {}
        for worker in workers:
            worker.note_ended(wire.WorkerEnded(), f"host {self.name!r} is lost: {why}")

    def _control_closed(self, why: str) -> None:
        if not self.gone:
            self._owner.lose(self, why)

    def _hear(self, frames: Sequence[Given]) -> None:
        looked: dict[str, wire.DeviceUsed] = {}  # of what came together, the last one counts: each is looked into
        for data, _ in frames:
            if self.gone:
                return
            try:
                report = wire.ControlReport.FromString(data)
            except DecodeError as error:
                self._owner.lose(self, f"what its agent says cannot be read: {error}")
                return
            if not report.HasField("used"):
                self._obey(report)
            elif report.used.device_id in self.devices:
                looked[report.used.device_id] = report.used
        for used in looked.values():
            self._note_used(used)

    def _obey(self, report: wire.ControlReport) -> None:
        match report.WhichOneof("kind"):
            case "ready":
                self._begin(report.ready)
            case "log":
                self._answer(report.log)
            case "leaves":
                self._owner.lose(self, plain_words(report.leaves.why) or "its agent has ended")
            case "started" | "not_started" | "ended" | "measured" as kind:
                told = getattr(report, kind)
                if (worker := self.workers.get(told.launch_id)) is not None:
                    self._tell(worker, told)

    def _tell(self, worker: FarWorker, told: object) -> None:
        """Its host has said something of a worker."""
        match told:
            case wire.WorkerStarted():
                worker.note_started(told.pid)
            case wire.WorkerNotStarted():
                del self.workers[worker.launch_id]
                worker.note_failed(f"host {self.name!r} could not start it: {plain_words(told.why)}")
            case wire.WorkerEnded():
                del self.workers[worker.launch_id]
                told.how, told.tail = plain_words(told.how), plain_words(told.tail)
                worker.note_ended(told, f"it has ended on host {self.name!r}")
            case wire.WorkerMeasured():
                worker.note_measured(told.memory_bytes)

    def _answer(self, part: wire.LogPart) -> None:
        answer = self._answers.get(part.question_id)
        if answer is not None and not answer.done():
            answer.set_result(part)

    def _note_used(self, told: wire.DeviceUsed) -> None:
        if not self.gone:
            self.used[DeviceId(told.device_id)] = told
            self._owner.used(self, DeviceId(told.device_id))

    def _begin(self, ready: wire.HostReady) -> None:
        if self._ready or len(ready.devices) > MOST_DEVICES:
            return
        self._ready = True
        devices = (
            DeviceCapacity(device_id=DeviceId(each.device_id), memory_bytes=each.memory_bytes, cores=each.cores)
            for each in ready.devices
            if is_device_name(each.device_id)
        )
        found = tuple(devices)
        self.devices = frozenset(each.device_id for each in found)
        self._owner.ready(self, found)


def is_device_name(name: str) -> bool:
    """Whether a device may be called so: what stands before a "/" would be taken for a host."""
    return 0 < len(name) <= 64 and name.isascii() and name.isprintable() and "/" not in name and " " not in name  # noqa: PLR2004 - letters of a name
