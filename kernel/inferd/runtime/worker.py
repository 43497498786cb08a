"""One worker, from its start to its certain end, on whatever host: what it says, and whether its heart beats."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from inferd.core.host import LOCAL_HOST
from inferd.core.ids import HostId, InstanceId
from inferd.core.resources import HOST_DEVICE
from inferd.core.vigil import Doing, Vigil, WorkerTimes
from inferd.errors import InferdError, words_of
from inferd.runtime.frames import proceed_frame, read_pulse, read_sandbox
from inferd.runtime.launcher import Launcher, WorkerLink
from inferd.runtime.link import Arrived
from inferd.runtime.opened_files import nothing_to_open
from inferd.runtime.signal import Signal
from inferd.shared import Memory
from inferd.skew import skew_words, works_with
from inferd_api.worker.v1 import sandbox_pb2
from inferd_api.worker.v1 import worker_pb2 as wire

log = structlog.get_logger()

if TYPE_CHECKING:
    from inferd.runtime.opened_files import Opening

TOLD_CHANGE = 0.01  # of the resident memory: a smaller one is not told
ASKED = 3.0  # a worker elsewhere that seems well is asked so often at least within the time that it may be silent


class Worker:
    """A worker and its link. One writer: the supervisor, through `run`, `send`, `proceed` and `stop`.

    `on_memory` is told the resident memory of a worker that computes on its host's processor, with each heartbeat that
    finds it changed, from when its model is loaded: loading takes more for a while. What a worker takes of another
    device is not seen in it.

    It is asked with each heartbeat. One of another host that is idle, or has told of a step since the last one, is
    spared some of these: to ask and to be answered costs the kernel as much as a step does.

    Attributes:
        instance_id: The instance that it holds.
        host_id: Where it runs.
        log_path: Where its standard output and error go, for people.
        memory_bytes: Its resident memory when it last said.
        load_fraction: How much of loading is done, 0 to 1.
        signature: What its model of tensors takes and gives, as the worker wrote it; b"" for others.
    """

    def __init__(
        self,
        instance_id: InstanceId,
        *,
        host_id: HostId,
        launcher: Launcher,
        load: wire.KernelFrame,
        times: WorkerTimes,
        on_frame: Callable[[InstanceId, wire.WorkerFrame, Arrived], None],
        on_memory: Callable[[InstanceId, int], None],
        opening: "Opening" = nothing_to_open,
    ) -> None:
        self.instance_id = instance_id
        self.host_id = host_id
        self.log_path = launcher.log_of(instance_id)
        self.memory_bytes = 0
        self.load_fraction = 0.0
        self.signature = b""
        self._launcher = launcher
        self._load = load
        self._times = times
        self._on_frame = on_frame
        self._on_memory = on_memory
        self._opening = opening
        self._loaded = False
        self._sandbox: sandbox_pb2.SandboxState | None = None
        self._memory_told = 0
        self._link: WorkerLink | None = None
        self._closed = ""  # why, once it is
        self._ended = ""  # why it is to end at once
        self._stopping = False
        self._order = wire.Stop()
        self._signal = Signal()  # of the three above
        self._vigil = Vigil(times, 0.0)  # begins when the process runs
        self._hangs = False
        self._pings = 0
        self._idle = self._got_on = False  # as it said last, and nothing was sent since; since the last heartbeat
        self._spared = 0  # heartbeats in a row
        far = host_id != LOCAL_HOST
        self._most_spared = max(0, int(times.heartbeat_timeout_s / times.heartbeat_s / ASKED) - 1) if far else 0

    @property
    def pid(self) -> int:
        """Its process id on its host; 0 before it runs."""
        return 0 if self._link is None else self._link.pid

    async def resident_bytes(self) -> int:
        """Its resident memory now, as far as that is known; 0 when it does not run. Of ranks it is what it has told."""
        if self._link is None:
            return 0
        measured = await self._link.resident_bytes()
        return max(measured, self.memory_bytes) if self._load.load.ranks else measured

    def send(self, frame: wire.KernelFrame, memories: Sequence[Memory] = ()) -> None:
        """Send a frame and the memories that it speaks of; lost when the worker is gone."""
        self._idle = False
        if self._link is not None:
            self._link.send(frame, memories)

    def proceed(self) -> None:
        """Let it load, once what it needs is reserved."""
        self._allow_silence(self._times.load_silence_s)
        self.send(proceed_frame())

    def stop(self, order: wire.Stop | None = None) -> None:
        """Have it end: in order, by force after `stop_timeout_s`; the first order counts."""
        if order is not None and not self._stopping:
            self._order = order
        self._stopping = True
        self._signal.notify()

    def end(self, why: str) -> None:
        """Have it end now, by force; `why` is how it ended."""
        self._ended = self._ended or why
        self._signal.notify()

    async def run(self) -> str:
        """Live through the whole life of the process; return how it ended. Nothing of it is left afterwards."""
        try:
            async with self._opening(self._load.load.path):
                return await self._run()
        except InferdError as error:
            return f"its files cannot be opened: {error.message}"

    async def _run(self) -> str:
        try:
            link = await self._launcher.launch(self.instance_id, on_frame=self._receive, on_closed=self._note_closed)
        except Exception as error:
            if not isinstance(error, OSError):  # a defect of whoever starts it: it ends this worker, and no other
                log.exception("a worker could not be started", instance_id=self.instance_id)
            return f"it could not be started: {words_of(error)}"
        self._link = link
        why, went, how = "the kernel gave it up", False, ""
        try:
            self._vigil = Vigil(self._times, asyncio.get_running_loop().time())
            why = await self._watch()
            went = bool(self._closed)  # by itself: what follows closes the link in any case
        finally:
            how = await link.end(went=bool(self._closed), hangs=self._hangs)
        return f"{(went and how) or why}{await link.tail()}"

    async def _watch(self) -> str:
        """Wait for the end of the link; the reason, if it had to be given up before that."""
        loop = asyncio.get_running_loop()
        while not self._closed and not self._stopping and not self._ended:
            await self._wait(self._times.heartbeat_s)
            if (why := self._vigil.beat(loop.time())) and not self._closed:
                self._hangs = True
                return why
            self._ask()
        if self._ended and not self._closed:
            return self._ended
        self.send(wire.KernelFrame(stop=self._order))
        deadline = loop.time() + self._times.stop_timeout_s
        while not self._closed and not self._ended and loop.time() < deadline:
            await self._wait(deadline - loop.time())
        return self._closed or self._ended or "it did not stop in time"

    def _ask(self) -> None:
        """Ask how it is, if it is its turn."""
        seems_well, self._got_on = self._idle or self._got_on, False
        self._spared = self._spared + 1 if seems_well and self._spared < self._most_spared else 0
        if not self._spared and self._link is not None:
            self._pings += 1
            self._link.send(wire.KernelFrame(ping=wire.Ping(nonce=self._pings)))

    async def _wait(self, limit_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._signal.wait(self._signal.version)

    def _receive(self, frame: wire.WorkerFrame, memories: Arrived = (), /) -> None:
        self._vigil.hear(asyncio.get_running_loop().time())
        kind = frame.WhichOneof("kind")
        if kind is None or kind == "pong":  # none: a part of a frame has come, or gone
            self._feel(frame)
            return
        if kind == "step":
            self._got_on = True
        elif kind == "hello":
            if not works_with(frame.hello.version):
                self._note_closed(skew_words("it", frame.hello.version))
                return
            self._allow_silence(self._times.start_timeout_s)  # in its sandbox it begins to import
            self.send(self._load)
        elif kind == "begun":
            self._allow_silence(self._times.load_silence_s)
            return
        elif kind == "sealed":  # before the model is opened; what comes after that, the model may have had said
            self._sandbox = frame.sealed if self._sandbox is None else self._sandbox
            return
        elif kind == "needs":  # it waits, for as long as it takes, and only its heart must beat
            self._allow_silence(self._times.heartbeat_timeout_s)
        elif kind == "load_progress":
            self.load_fraction = frame.load_progress.fraction
        elif kind == "loaded":
            self._allow_silence(self._times.heartbeat_timeout_s)
            self.load_fraction = 1.0
            self.memory_bytes = frame.loaded.memory_bytes
            self.signature = frame.loaded.signature
            self._loaded = True
            frame.loaded.sandbox.CopyFrom(self._sandbox or sandbox_pb2.SandboxState())
            log.info("the sandbox of a worker", instance_id=self.instance_id, sandbox=str(read_sandbox(frame.loaded)))
        self._on_frame(self.instance_id, frame, memories)

    def _feel(self, frame: wire.WorkerFrame) -> None:
        if frame.HasField("pong"):
            pulse = read_pulse(frame.pong)
            self._idle = pulse.doing is Doing.IDLE
            self._vigil.feel(pulse)
            self.memory_bytes = frame.pong.memory_bytes
            if self._loaded:
                self._tell_memory()

    def _allow_silence(self, limit_s: float) -> None:
        self._vigil.allow_silence(limit_s, asyncio.get_running_loop().time())

    def _tell_memory(self) -> None:
        on_host = self._load.load.device == HOST_DEVICE
        if on_host and abs(self.memory_bytes - self._memory_told) > TOLD_CHANGE * self._memory_told:
            self._memory_told = self.memory_bytes
            self._on_memory(self.instance_id, self.memory_bytes)

    def _note_closed(self, why: str, /) -> None:
        self._closed = self._closed or why
        self._signal.notify()
