"""A host whose agent is attached, as the kernel has it: what is asked of it, and what it tells."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Protocol

import structlog
from google.protobuf.message import DecodeError

from inferd.core.host import MOST_DEVICES, MOST_HELD
from inferd.core.ids import DeviceId
from inferd.core.resources import DeviceCapacity
from inferd.errors import InvalidFieldError
from inferd.runtime.far.adopting import Held
from inferd.runtime.far.exchange import Exchange
from inferd.runtime.far.pace import Pace
from inferd.runtime.far.parcels import plain_words
from inferd.runtime.far.worker import FarWorker
from inferd.runtime.launcher import NoLauncher, no_log
from inferd.runtime.local_launcher import log_name
from inferd_api.agent.v1 import agent_pb2 as wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from inferd.core.host import HostFacts
    from inferd.core.ids import HostId, InstanceId
    from inferd.runtime.far.identities import Identities
    from inferd.runtime.far.parcels import Given
    from inferd.runtime.launcher import Adopter
    from inferd.runtime.link import OnClosed, OnFrame

MOST_NOTED = 16_384  # models that a host has the files of, times its devices
VERSION = re.compile(r"[0-9a-f]{1,64}")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What an agent says of its host.

    Attributes:
        name: Of the host.
        told: What the core is told of it.
        pid: Of the agent.
        log_folder: Where the logs of workers are.
        packages: The distributions of its backends, with their versions, by their names.
        files: Where it gives files of models to other hosts; without an address it gives none.
    """

    name: HostId
    told: HostFacts
    pid: int = 0
    log_folder: str = ""
    packages: Mapping[str, str] = field(default_factory=dict)
    files: wire.FileServer = field(default_factory=wire.FileServer)


class Owner(Protocol):
    """Who has hosts."""

    def ready(self, host: FarHost, devices: tuple[DeviceCapacity, ...]) -> None:
        """A host takes workers."""

    def held(self, host: FarHost, held: Held) -> None:
        """A host will, and has kept some that it has."""

    def lose(self, host: FarHost, why: str) -> None:
        """A host is lost."""

    def used(self, host: FarHost, device_id: DeviceId) -> None:
        """A host has told how much of a device others hold."""

    def has_files(self, host: FarHost, before: frozenset[str], *, grown: bool) -> None:
        """A host has told what it has, by which it may have `grown`; it could give those `before` to others."""


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
        holds: The models whose files it has, as the kernel calls these; None where it does not say.
        identities: Says what workers are, for the next kernel; None where nobody does.
        gives: Those of them that it gives to other hosts.
        pace: How long its agent is to gather tokens.
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
        identities: Identities | None = None,
        pace: Pace | None = None,
    ) -> None:
        self.pace = Pace() if pace is None else pace
        self.identities = identities
        self._held: Held | None = None
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
        self.holds: frozenset[str] | None = None
        self.gives: frozenset[str] = frozenset()
        self._answer_s = answer_s
        self._owner = owner
        self._launches = self._questions = 0
        self._answers: dict[int, asyncio.Future[wire.LogPart]] = {}
        self._ready = False
        self.control = Exchange(
            bounds,
            on_frames=self._hear,
            on_closed=self._control_closed,
            most_held_bytes=bounds.held_bytes,
            pace=self.pace,
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
        identity = None if self.identities is None else self.identities.of(instance_id, self.facts.packages)

        def order(launch_id: int) -> wire.ControlOrder:
            launch = wire.LaunchWorker(launch_id=launch_id, instance_id=instance_id, identity=identity)
            return wire.ControlOrder(launch=launch)

        return await self._begin_worker(instance_id, order, on_frame, on_closed)

    async def adopt(
        self, held_id: int, instance_id: InstanceId, *, on_frame: OnFrame, on_closed: OnClosed
    ) -> FarWorker:
        """Go on with a worker that the host has kept.

        Raises:
            OSError: As of `launch`.
        """

        def order(launch_id: int) -> wire.ControlOrder:
            return wire.ControlOrder(
                adopt=wire.AdoptWorker(launch_id=launch_id, held_id=held_id, instance_id=instance_id)
            )

        return await self._begin_worker(instance_id, order, on_frame, on_closed)

    def adopter(self, held_id: int) -> Adopter:
        """See `Launcher`."""
        return NoLauncher(self.name) if self._held is None else self._held.adopter(held_id)

    async def _begin_worker(
        self,
        instance_id: InstanceId,
        order: Callable[[int], wire.ControlOrder],
        on_frame: OnFrame,
        on_closed: OnClosed,
    ) -> FarWorker:
        self._check()
        self._launches += 1
        worker = FarWorker(self, self._launches, instance_id, on_frame=on_frame, on_closed=on_closed)
        self.workers[worker.launch_id] = worker
        self._order(order(worker.launch_id))
        try:
            async with asyncio.timeout(self._answer_s) as limit:
                await worker.started()
        except BaseException as error:  # cancelled, too: nothing is left behind
            if worker.launch_id in self.workers:
                self._end_unknown(worker.launch_id)
                asyncio.get_running_loop().call_later(self._answer_s, self._give_up, worker)
            worker.given.set()  # nobody waits for that any more
            worker.exchange.close("it was given up")
            if limit.expired() and isinstance(error, TimeoutError):
                why = f"host {self.name!r} did not say within {self._answer_s:g} s (hosts.answer_s) that it runs"
                raise OSError(why) from None
            raise
        worker.given.set()
        return worker

    def _give_up(self, worker: FarWorker) -> None:
        """Nobody has said what became of it: it is forgotten, and ended should it be told of later."""
        if self.workers.get(worker.launch_id) is worker:
            del self.workers[worker.launch_id]
            worker.note_ended(wire.WorkerEnded(), "its host never said what became of it")

    def _end_unknown(self, launch_id: int) -> None:
        self._order(wire.ControlOrder(end=wire.EndWorker(launch_id=launch_id)))

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
            case "held":
                self._hold(report.held)
            case "log":
                self._answer(report.log)
            case "holds":
                self._note_holds(report.holds)
            case "leaves":
                self._owner.lose(self, plain_words(report.leaves.why) or "its agent has ended")
            case "started" | "not_started" | "ended" | "measured" as kind:
                told = getattr(report, kind)
                if (worker := self.workers.get(told.launch_id)) is not None:
                    self._tell(worker, told)
                elif kind == "started":  # it was given up since
                    self._end_unknown(told.launch_id)

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

    def _note_holds(self, told: wire.HostHolds) -> None:
        """What it has of files; of very many on very many devices some, since each is known of each device."""
        most = min(MOST_HELD, MOST_NOTED // max(1, len(self.devices)))
        fetched = islice(filter(VERSION.fullmatch, told.versions[min(told.near, MOST_HELD) :]), most)
        before, self.gives = self.gives, frozenset(fetched if self.facts.files.address else ())
        held, self.holds = self.holds or frozenset(), frozenset(islice(filter(VERSION.fullmatch, told.versions), most))
        self._owner.has_files(self, before, grown=not self.holds <= held)

    def give(self, ticket: bytes, folder: str, holds_s: float) -> None:
        """Have it let whoever has a ticket read a model for a while; for no time: not any more."""
        self._order(wire.ControlOrder(give=wire.GiveFiles(ticket=ticket, folder=folder, holds_s=holds_s)))

    def _begin(self, ready: wire.HostReady) -> None:
        if self._ready or len(ready.devices) > MOST_DEVICES:
            return
        self._ready = True  # with the devices that were told with kept workers: some of these hold them
        found = self._read_devices(ready.devices) if self._held is None else self._held.devices
        if ready.HasField("holds"):
            self._note_holds(ready.holds)
        self._owner.ready(self, found)

    def _hold(self, told: wire.WorkersHeld) -> None:
        """Workers were kept there: those that are adopted go on, and the others end."""
        if self._ready or self._held is not None or len(told.devices) > MOST_DEVICES:
            return
        self._held = Held(self, told, self._read_devices(told.devices))
        self._owner.held(self, self._held)

    def keep(self) -> None:
        """It is decided which of the workers that were kept are adopted: the others end."""
        kept = () if self._held is None else self._held.kept
        self._order(wire.ControlOrder(keep=wire.KeepWorkers(held_ids=kept)))

    def _read_devices(self, told: Iterable[wire.DeviceFacts]) -> tuple[DeviceCapacity, ...]:
        devices = (
            DeviceCapacity(device_id=DeviceId(each.device_id), memory_bytes=each.memory_bytes, cores=each.cores)
            for each in told
            if is_device_name(each.device_id)
        )
        found = tuple(devices)
        self.devices = frozenset(each.device_id for each in found)
        return found


def is_device_name(name: str) -> bool:
    """Whether a device may be called so: what stands before a "/" would be taken for a host."""
    return 0 < len(name) <= 64 and name.isascii() and name.isprintable() and "/" not in name and " " not in name  # noqa: PLR2004 - letters of a name
