"""An agent: attached to its kernel as long as that lives, and attached again when the connection was lost."""

from __future__ import annotations

import asyncio
import random
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

import grpc
import structlog

from inferd.agent.carrying import carry_all
from inferd.agent.fetching import Fetching
from inferd.agent.holding import Holding
from inferd.agent.hosted import HostedWorker
from inferd.agent.kept import KeptWorkers
from inferd.agent.metering import Metering
from inferd.agent.refusals import Refusals
from inferd.core.ids import InstanceId
from inferd.errors import InvalidFieldError, present, words_of
from inferd.runtime.far.exchange import Exchange, first_of
from inferd.runtime.local_launcher import LocalLauncher
from inferd.runtime.sandboxing import group_bounds
from inferd.runtime.signal import Signal
from inferd.skew import ADOPT
from inferd_api.agent.v1 import agent_pb2 as wire
from inferd_api.agent.v1 import agent_service_pb2 as service
from inferd_client import InferdError
from inferd_client.rpc_errors import from_rpc

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from inferd.agent.cache import Cache
    from inferd.agent.connection import KernelConnection, Kernels, KernelStream
    from inferd.agent.giving import Giving
    from inferd.agent.metering import Devices
    from inferd.runtime.far.parcels import Given

OPEN_S, OPEN_MOST_S = 1.0, 5.0
"""How long the kernel's first answer is waited for: at first, and where it does not come."""
TRY_S, TRY_MOST_S = 0.2, 2.0
"""Between two attempts: at first, and later."""
SLOWER = 1.5  # both of them, with each attempt
LEAVE_S = 1.0  # how long it is waited for that the kernel hears that this agent ends
SILENT_PART = 3  # a kernel that is silent for this part of the time after which a host is lost is connected to anew
SILENT_SPREAD = 0.5
"""And for up to this part of it longer, as each agent draws it: a busy kernel, which was silent to all of them, is not
connected to by all at once."""
STOPPED_S = 0.5  # a look that comes so much too late is one of a process that was stopped

log = structlog.get_logger()


class SilentError(Exception):
    """Nothing is heard of the kernel."""


class Watcher(Protocol):
    """Is told how an agent stands."""

    def attached(self, epoch: int, *, resumed: bool) -> None:
        """It is attached, and the kernel knows its devices; `resumed` where it goes on as before."""

    def detached(self, why: str) -> None:
        """It is not, and tries again."""


class Agent:
    """One host of a kernel. One writer: itself, on one loop.

    Args:
        facts: What the host is.
        kernels: Where its kernel may be.
        found: The devices of the host.
        log_folder: Where the logs of workers are.
        own: Files and folders of this agent, to which no link of a model may lead.
        cache: Where files of models are kept that are not on this host otherwise.
        watcher: Is told how it stands.
        giving: Gives files to other hosts, of which the facts tell; None where that is not done.

    Attributes:
        hosted: The workers, by launch.
        incarnation: Names this process.
    """

    def __init__(
        self,
        facts: wire.HostFacts,
        *,
        kernels: Kernels,
        found: Devices,
        log_folder: Path,
        own: Sequence[str] = (),
        cache: Cache,
        watcher: Watcher,
        giving: Giving | None = None,
    ) -> None:
        self.hosted: dict[int, HostedWorker] = {}
        self.incarnation = secrets.randbits(63) | 1
        self._facts = facts
        self._kernels = kernels
        self._newest = 0  # kernel that was seen, by its epoch
        self._kept = KeptWorkers()
        self._metering = Metering(found, self._pids, self._tell)
        self._log_folder = log_folder
        self._own = own
        self._holding = Holding(cache)
        self._fetching = Fetching(cache, kernels.connect, self._holding)
        self._watcher, self._giving = watcher, giving
        self._bounds = wire.LinkBounds()
        self._control: Exchange | None = None
        self._launcher: LocalLauncher | None = None
        self._kernel = self._epoch = 0
        self._changed = Signal()  # of `hosted`, and of what waits in `_control`
        self._group: asyncio.TaskGroup | None = None
        self._attached = self._leaving = False
        self._refusals = Refusals()

    async def run(self, ends: asyncio.Event) -> None:
        """Serve the kernel until `ends` is set; then nothing is left of any worker.

        Raises:
            InferdError: The kernel does not take it, and will not by trying again.
        """
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                serving = group.create_task(self._serve(), name="attached")
                await ends.wait()
                await self._leave()
                serving.cancel()
                if self._control is not None:
                    self._control.close("the agent ends")
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            self._metering.end()
            self._holding.end()
            await self._end_all()

    async def _serve(self) -> None:
        open_s, try_s, lost_at = OPEN_S, TRY_S, asyncio.get_running_loop().time()
        while True:
            why, was_attached = "the kernel ended the connection", False
            try:
                await self._attach(open_s)
            except grpc.aio.AioRpcError as error:
                failure = from_rpc(error, self._kernels.address)
                self._refusals.judge(error.code(), failure)
                why = failure.message
            except (SilentError, TimeoutError, OSError) as error:
                why = words_of(error) or "it did not answer"
            except InferdError as error:  # of a ticket
                why = error.message
            except Exception as error:  # a defect: it ends this connection, and the host begins anew
                log.exception("the connection to the kernel ends")
                why = f"a defect of this agent: {type(error).__name__}"
                if self._control is not None:
                    self._control.close(why)
            was_attached, self._attached = self._attached, False
            if not was_attached:
                self._kernels.turn()
            else:
                open_s, try_s, lost_at = OPEN_S, TRY_S, asyncio.get_running_loop().time()
            if not self._leaving:
                self._watcher.detached(why)
            await self._give_up_late(lost_at)
            await asyncio.sleep(try_s * random.uniform(0.5, 1.0))  # noqa: S311  # nosec B311 - many lose it at once
            open_s, try_s = min(OPEN_MOST_S, open_s * SLOWER), min(TRY_MOST_S, try_s * SLOWER)

    async def _give_up_late(self, lost_at: float) -> None:
        """Workers outlive their kernel for so long only."""
        if (self.hosted or self._kept) and asyncio.get_running_loop().time() - lost_at > self._bounds.grace_s:
            log.warning("the kernel is away for too long: its workers end", grace_s=self._bounds.grace_s)
            self._kernel = self._epoch = 0
            await self._end_all()

    async def _attach(self, open_s: float) -> None:
        """Be attached until the connection breaks."""
        async with self._kernels.connect() as control, self._kernels.connect() as frames:
            if self._control is not None and self._control.closed:
                self._control, self._kernel, self._epoch = None, 0, 0
            stream = await control.attach()
            try:
                received = 0 if self._control is None else self._control.received
                opening = service.AttachRequest(
                    opening=service.AttachOpening(
                        facts=self._facts, incarnation=self.incarnation, kernel=self._kernel, epoch=self._epoch
                    ),
                    parcels=wire.Parcels(received=received),
                )
                async with asyncio.timeout(open_s):
                    first = await stream.open(opening)
                if first is not None:
                    await self._serve_attached(stream, first, frames)
            finally:
                stream.cancel()

    async def _serve_attached(
        self, stream: KernelStream, first: service.AttachResponse, frames: KernelConnection
    ) -> None:
        welcome = first.welcome
        if 0 < welcome.kernel_epoch < self._newest:
            raise SilentError(
                f"a kernel of epoch {welcome.kernel_epoch} answered, and this agent has seen epoch {self._newest}:"
                " another one has followed it; where its store was restored from before, start the agent again"
            )
        self._newest = max(self._newest, welcome.kernel_epoch)
        resumed = (welcome.kernel, welcome.epoch) == (self._kernel, self._epoch) and self._control is not None
        if not resumed:
            self._begin_anew(welcome)
        control = present(self._control)
        self._attached = True
        self._refusals.end(taken=True)
        if resumed:
            self._watcher.attached(welcome.epoch, resumed=True)
        await first_of(
            control.run(
                first.parcels.received,
                stream.read,
                stream.writer(service.AttachRequest),
                beat_s=self._bounds.beat_s,
            ),
            self._attend(control),
            carry_all(frames, self.hosted, self._changed, self._opening),
        )

    def _opening(self, launch_id: int) -> service.CarryOpening:
        return service.CarryOpening(
            host=self._facts.name, incarnation=self.incarnation, epoch=self._epoch, launch_id=launch_id
        )

    def _fetch(
        self, launch_id: int, path: str, version: str, tell: Callable[[float], None]
    ) -> Awaitable[tuple[Path, Path]]:
        return self._fetching.fetch(self._opening(launch_id), path, version, tell)

    def _begin_anew(self, welcome: service.AttachWelcome) -> None:
        """The kernel knows of no worker of ours; those that have loaded are kept for it, if it can go on with them."""
        if self._control is not None:
            self._control.close("the host begins anew")
        bounds = self._bounds = welcome.bounds
        self._kernel, self._epoch = welcome.kernel, welcome.epoch
        control = self._control = Exchange(
            bounds, on_frames=self._obey, on_closed=lambda _: None, on_room=self._changed.notify
        )
        self._launcher = LocalLauncher(
            self._log_folder, frame_limit_bytes=bounds.frame_bytes, bounds=group_bounds(bounds.sandbox)
        )
        adopts = ADOPT in welcome.features
        if adopts:
            self._kept.take(self.hosted)
        self._spawn(self._get_ready(control, adopts=adopts), "getting ready")

    async def _get_ready(self, control: Exchange, *, adopts: bool) -> None:
        await self._end_all(kept=not adopts)
        if kept := bool(self._kept):  # what devices have to give is what it was before these took of it
            control.send(self._kept.report(self._metering.devices).SerializeToString())
            await self._kept.decided()
        else:
            await self._metering.look()
        held = await self._holding.versions()
        ready = wire.HostReady(devices=self._metering.devices, holds=held)
        _report(control, wire.ControlReport(ready=ready))
        while control.queued_bytes and not control.closed:  # until the kernel has heard of them
            await self._changed.wait(self._changed.version, limit_s=self._bounds.beat_s)
        if control.closed:
            return
        self._watcher.attached(self._epoch, resumed=False)
        self._metering.begin()
        if kept:
            self._kept.settle()

        self._holding.begin(held, lambda holds: _report(control, wire.ControlReport(holds=holds)))

    def _tell(self, report: wire.ControlReport) -> None:
        if self._control is not None:
            _report(self._control, report)

    def _pids(self) -> set[int]:
        return {worker.pid for worker in (*self.hosted.values(), *self._kept) if worker.pid}

    async def _attend(self, control: Exchange) -> None:
        """Break a connection of which nothing is heard: what it was may hold it up for very long.

        Raises:
            SilentError: It is one.
        """
        loop, beat_s = asyncio.get_running_loop(), self._bounds.beat_s
        most_s = silent_most_s(self._bounds)
        looked_at = loop.time()
        while True:
            await asyncio.sleep(beat_s)
            gap_s, looked_at = loop.time() - looked_at, loop.time()
            if gap_s > beat_s + STOPPED_S:
                control.heard_at = looked_at
            elif looked_at - control.heard_at > most_s:
                raise SilentError(f"nothing was heard of it for {looked_at - control.heard_at:.1f} s")

    async def _leave(self) -> None:
        """Tell the kernel that this host ends."""
        control, self._leaving = self._control, True
        if control is None or not self._attached:
            return
        _report(control, wire.ControlReport(leaves=wire.AgentLeaves(why="its agent was ended")))
        with suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                while control.queued_bytes and self._attached:
                    await self._changed.wait(self._changed.version, limit_s=LEAVE_S / 10)

    async def _end_all(self, *, kept: bool = True) -> None:
        """Have nothing left of any worker there is now; those that are kept may stay."""
        if kept:
            await self._kept.end()
        workers = tuple(self.hosted.values())
        await asyncio.gather(*(worker.end() for worker in workers), return_exceptions=True)
        for worker in workers:
            self._forget(worker)

    def _forget(self, worker: HostedWorker) -> None:
        if self.hosted.get(worker.launch_id) is worker:
            del self.hosted[worker.launch_id]

    def _spawn(self, work: Awaitable[None], name: str) -> None:
        async def run() -> None:
            try:
                await work
            except Exception:  # a defect: it ends one order, and no other
                log.exception("an order of the kernel could not be carried out", order=name)

        if self._group is not None:
            self._group.create_task(run(), name=name)

    def _obey(self, frames: Sequence[Given]) -> None:
        for data, _ in frames:
            order = wire.ControlOrder.FromString(data)
            match order.WhichOneof("kind"):
                case "launch":
                    self._spawn(self._launch(order.launch), "launch")
                case "end":
                    self._spawn(self._end(order.end), "end")
                case "measure":
                    self._spawn(self._measure(order.measure), "measure")
                case "read_log":
                    self._spawn(self._read_log(order.read_log), "read log")
                case "adopt":
                    self._spawn(self._adopt(order.adopt), "adopt")
                case "keep":
                    self._kept.keep(order.keep.held_ids)
                case "give" if self._giving is not None:
                    self._giving.allow(order.give)

    async def _launch(self, order: wire.LaunchWorker) -> None:
        control, launcher = self._control, self._launcher
        if control is None or launcher is None:
            return
        self._kept.note_log(InstanceId(order.instance_id), InstanceId(order.instance_id))
        worker = self.hosted[order.launch_id] = HostedWorker(
            order.launch_id,
            InstanceId(order.instance_id),
            host=self._facts.name,
            bounds=self._bounds,
            control=control,
            own=self._own,
            fetch=self._fetch,
            leave=self._fetching.cache.leave,
            see=self._holding.see,
            identity=order.identity if order.HasField("identity") else None,
        )
        try:
            pid = await worker.start(launcher)
        except (Exception, asyncio.CancelledError) as error:
            self._forget(worker)
            why = wire.WorkerNotStarted(launch_id=order.launch_id, why=words_of(error) or "it was given up")
            _report(control, wire.ControlReport(not_started=why))
            if not isinstance(error, OSError | asyncio.CancelledError):
                raise
            return
        _report(control, wire.ControlReport(started=wire.WorkerStarted(launch_id=order.launch_id, pid=pid)))
        self._changed.notify()

    async def _adopt(self, order: wire.AdoptWorker) -> None:
        """The kernel goes on with a worker that was kept for it."""
        worker, control = self._kept.pop(order), self._control
        if control is None:
            return
        if worker is None or not worker.adopt(order.launch_id, control=control, bounds=self._bounds):
            if worker is not None:
                await worker.end()
            why = wire.WorkerNotStarted(launch_id=order.launch_id, why="it has ended meanwhile")
            _report(control, wire.ControlReport(not_started=why))
            return
        self.hosted[order.launch_id] = worker
        self._kept.note_log(InstanceId(order.instance_id), worker.instance_id)
        _report(control, wire.ControlReport(started=wire.WorkerStarted(launch_id=order.launch_id, pid=worker.pid)))
        self._changed.notify()

    async def _end(self, order: wire.EndWorker) -> None:
        worker, control = self.hosted.get(order.launch_id), self._control
        ended = wire.WorkerEnded(launch_id=order.launch_id)
        if worker is not None:
            how = await worker.end(went=order.went, hangs=order.hangs)
            ended.how, ended.tail, control = how.how, how.tail, worker.control
            self._forget(worker)
        if control is not None:
            _report(control, wire.ControlReport(ended=ended))

    async def _measure(self, order: wire.MeasureWorker) -> None:
        worker, control = self.hosted.get(order.launch_id), self._control
        memory_bytes = 0 if worker is None else await worker.resident_bytes()
        measured = wire.WorkerMeasured(launch_id=order.launch_id, memory_bytes=memory_bytes)
        if control is not None:
            _report(control, wire.ControlReport(measured=measured))

    async def _read_log(self, order: wire.ReadLog) -> None:
        control, launcher, part = self._control, self._launcher, wire.LogPart(question_id=order.question_id)
        if control is None or launcher is None:
            return
        most_bytes = min(order.most_bytes, self._bounds.parcel_bytes)
        try:
            name = self._kept.log_name(order.instance_id)
            part.data, part.size_bytes = await launcher.read_log(name, order.offset_bytes, most_bytes)
        except InvalidFieldError as error:
            part.why = error.message
        _report(control, wire.ControlReport(log=part))


def silent_most_s(bounds: wire.LinkBounds) -> float:
    """How long a kernel may be silent before it is connected to anew; another time for each that asks."""
    least_s = max(2 * bounds.beat_s, bounds.detection_s / SILENT_PART)
    in_time_s = bounds.detection_s - bounds.beat_s  # it is looked at once in a beat
    most_s = max(least_s, min(least_s * (1.0 + SILENT_SPREAD), in_time_s))
    return random.uniform(least_s, most_s)  # noqa: S311  # nosec B311 - many ask


def _report(control: Exchange, report: wire.ControlReport) -> None:
    control.send(report.SerializeToString())
