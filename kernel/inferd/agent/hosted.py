"""A worker of a far kernel on this host: a local one, whose frames go by an exchange."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from google.protobuf.message import DecodeError

from inferd.agent.gathering import Gathering
from inferd.agent.ledger import Ledger
from inferd.errors import InferdError, ModelLoadError, words_of
from inferd.runtime.far.exchange import FRAMES_ACK_S, Exchange
from inferd.shared import Memory
from inferd_api.agent.v1 import agent_pb2 as wire
from inferd_api.worker.v1 import failure_pb2, load_pb2, sandbox_pb2
from inferd_api.worker.v1 import worker_pb2 as frames_pb

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from inferd.core.ids import InstanceId
    from inferd.runtime.far.parcels import Given
    from inferd.runtime.link import Arrived
    from inferd.runtime.local_launcher import LocalLauncher, LocalWorker

    Fetch = Callable[[int, str, str, Callable[[float], None]], Awaitable[tuple[Path, Path]]]
    """Where the model of a worker is on this host, and what of the cache that is; given where it is on the kernel's,
    and what that calls its files."""

log = structlog.get_logger()
SAY_S = 1.0  # between two words of how far a fetch is
WINDOWS = 2  # that a worker may be ahead of its connection before it has to wait


@dataclass(frozen=True, slots=True)
class Ended:
    """How a worker ended.

    Attributes:
        how: In words; "" for in order.
        tail: What its log says last.
    """

    how: str = ""
    tail: str = ""


class HostedWorker:
    """One worker. One writer: its agent.

    A worker whose connection is slow or broken goes on until `WINDOWS` are full; then it waits to be read, as it does
    for a local kernel that is behind.

    Attributes:
        launch_id: As the kernel names it.
        control: Where what becomes of it is told: of the epoch in which it was asked for.
        exchange: Of its frames.
        runs: Whether it was started.
        instance_id: The instance that it was started for.

    Args:
        host: Name of this host.
        identity: What it is, for the next kernel; None where it is not to outlive this one.
        bounds: Of the link.
        own: Files and folders of this agent, to which no link of a model may lead.
        fetch: Has the files of its model be on this host.
        leave: Is told once they are not needed any more.
        see: Is told what the kernel calls them where they are on this host as they are on the kernel's.
    """

    def __init__(
        self,
        launch_id: int,
        instance_id: InstanceId,
        *,
        host: str,
        bounds: wire.LinkBounds,
        control: Exchange,
        own: Sequence[str],
        fetch: Fetch,
        leave: Callable[[Path], None],
        see: Callable[[str], None],
        identity: wire.WorkerIdentity | None = None,
    ) -> None:
        self.launch_id = launch_id
        self.control = control
        self._kernels = 0  # that it was of
        self.exchange = self._connect(bounds)
        self.runs = False
        self.instance_id = instance_id
        self._identity = identity
        self._ledger = Ledger()
        self._gathering = Gathering(self._send)
        self._closed = ""  # why it says nothing more
        self._host = host
        self._own = own
        self._fetch = fetch
        self._leave = leave
        self._see = see
        self._place: Path | None = None  # of files that were fetched
        self._worker: LocalWorker | None = None
        self._starting: asyncio.Task[LocalWorker] | None = None
        self._ending: asyncio.Task[Ended] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._telling: asyncio.Task[None] | None = None
        self._held: list[tuple[frames_pb.KernelFrame, tuple[Memory, ...]]] = []

    def _connect(self, bounds: wire.LinkBounds) -> Exchange:
        """An exchange with a kernel that begins."""
        self._kernels += 1
        self._most_bytes = WINDOWS * bounds.window_bytes
        return Exchange(
            bounds,
            on_frames=self._obey,
            on_closed=partial(self._gone, self._kernels),
            on_room=self._look_at_room,
            ack_s=FRAMES_ACK_S,
        )

    async def start(self, launcher: LocalLauncher) -> int:
        """Start it; its process id.

        Raises:
            OSError: It could not be started.
            asyncio.CancelledError: It is to end.
        """
        self._starting = asyncio.create_task(
            launcher.launch(self.instance_id, on_frame=self._tell, on_closed=self._finish)
        )
        self._worker = await self._starting
        self.runs = True
        return self._worker.pid

    @property
    def pid(self) -> int:
        """Its process id; 0 before it runs."""
        return 0 if self._worker is None else self._worker.pid

    async def resident_bytes(self) -> int:
        """Its resident memory; 0 when it is gone."""
        return 0 if self._worker is None or self._ending is not None else await self._worker.resident_bytes()

    async def end(self, *, went: bool = False, hangs: bool = False) -> Ended:
        """Have nothing left of it, whatever happens meanwhile. Again gives the same."""
        if self._ending is None:
            self._ending = asyncio.create_task(self._end(went=went, hangs=hangs))
        return await asyncio.shield(self._ending)

    async def _end(self, *, went: bool, hangs: bool) -> Ended:
        self.exchange.close("it has ended")
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        try:
            return await self._end_process(went=went, hangs=hangs)
        finally:
            if self._place is not None:
                self._leave(self._place)

    async def _end_process(self, *, went: bool, hangs: bool) -> Ended:
        if self._worker is None:
            if self._starting is not None:
                self._starting.cancel()
                with suppress(asyncio.CancelledError, OSError):
                    self._worker = await self._starting
            if self._worker is None:
                return Ended()
        how = await self._worker.end(went=went, hangs=hangs)
        return Ended(how, await self._worker.tail())

    # Between two kernels.

    def hold(self) -> bool:
        """Outlive its kernel, of which it forgets all; False where there is nothing to outlive it.

        One that loads goes on with that. Nothing of what it still says reaches the next kernel before `adopt`.
        """
        link = None if self._worker is None else self._worker.link
        if link is None or self._ending is not None or self._identity is None:
            return False
        if self._closed or not (self._ledger.is_loaded or self._ledger.is_loading):
            return False
        self._kernels += 1
        self._gathering.drop()
        self.exchange.close("its kernel is gone")
        for frame in self._ledger.forget():
            self._pass_on(frame, ())
        link.resume()
        return True

    def describe(self, held_id: int) -> wire.HeldWorker | None:
        """What is told of it to the next kernel; None once it is gone."""
        if self._closed or self._ending is not None:
            return None
        return self._ledger.describe(held_id, self.instance_id, self._identity)

    def adopt(self, launch_id: int, *, control: Exchange, bounds: wire.LinkBounds) -> bool:
        """Be another kernel's; False where it has ended meanwhile."""
        if self._closed or self._ending is not None:
            return False
        self._gathering.drop()  # what it has said since of tasks of the kernel before
        self.launch_id, self.control, self.exchange = launch_id, control, self._connect(bounds)
        for frame in self._ledger.told_at_load:
            self.exchange.send(frame.SerializeToString())
        self._look_at_room()
        return True

    # From the worker.

    def _tell(self, frame: frames_pb.WorkerFrame, memories: Arrived = (), /) -> None:
        if not self._ledger.hear(frame):
            return
        given = [memory for memory in memories if isinstance(memory, Memory)]
        if len(given) < len(memories):
            refused = next(memory for memory in memories if not isinstance(memory, Memory))
            self._finish(f"it gave a memory that cannot be read: {refused}")
            return
        if self._gathering.take(frame, self.control.gather_us, frame_bytes=self.exchange.bounds.frame_bytes):
            return
        self.exchange.send(frame.SerializeToString(), given)
        self._look_at_room()

    def _send(self, frame: frames_pb.WorkerFrame) -> None:
        """Send steps that were gathered."""
        self.exchange.send(frame.SerializeToString())
        self._look_at_room()

    def _finish(self, why: str, /) -> None:
        """No frame follows."""
        self._closed = why or "it has closed its link"
        self._gathering.flush()
        self.exchange.finish(why)

    def _look_at_room(self) -> None:
        link = None if self._worker is None else self._worker.link
        if link is None:
            return
        if self.exchange.queued_bytes > self._most_bytes:
            link.pause()
        else:
            link.resume()

    # From the kernel.

    def _obey(self, frames: Sequence[Given]) -> None:
        for data, memories in frames:
            try:
                frame = frames_pb.KernelFrame.FromString(data)
            except DecodeError as error:
                self.exchange.close(f"a frame of the kernel cannot be read: {error}")
                return
            if frame.HasField("load"):
                self._looking = asyncio.create_task(self._look(frame))
            elif self._looking is not None and not self._looking.done():
                self._held.append((frame, memories))
            else:
                self._pass_on(frame, memories)

    async def _look(self, frame: frames_pb.KernelFrame) -> None:
        """Pass the order to load on, with what is of this host in it; what came behind it follows."""
        load = frame.load
        load.limits.sandbox.withheld.extend(self._own)
        try:
            if await asyncio.to_thread(_is_missing, load.path):
                await self._bring(load)
            else:
                self._see(load.file_version)
        except InferdError as error:
            self._refuse(load.path, error)
        except Exception as error:  # a defect: it ends this load, and no other
            log.exception("the files of a model could not be fetched", path=load.path)
            self._refuse(load.path, ModelLoadError(f"the files of the model cannot be fetched: {words_of(error)}"))
        else:
            self._pass_on(frame, ())
        held, self._held = self._held, []
        for each, memories in held:
            self._pass_on(each, memories)

    async def _bring(self, load: load_pb2.Load) -> None:
        """Have the files of the model be here; the kernel is told that this goes on, as of a load.

        Raises:
            InferdError: They cannot be.
        """
        if load.sandbox.looks:
            raise ModelLoadError("nothing is fetched for a plan; load it there, or plan it elsewhere")
        self._tell(frames_pb.WorkerFrame(begun=sandbox_pb2.Begun()))
        fraction = 0.0

        def tell(done: float) -> None:
            nonlocal fraction
            fraction = done

        async def say() -> None:
            while True:
                self._tell(frames_pb.WorkerFrame(load_progress=load_pb2.LoadProgress(fraction=fraction)))
                await asyncio.sleep(SAY_S)

        saying = asyncio.create_task(say())
        try:
            path, self._place = await self._fetch(self.launch_id, load.path, load.file_version, tell)
        finally:
            saying.cancel()
        load.path = str(path)

    def _refuse(self, path: str, error: InferdError) -> None:
        cause = (
            f"there is no {path} on host {self._host!r}, and it could not be fetched from the kernel: {error.message}"
        )
        facts = {"cause": cause, **error.metadata, "host": self._host, "path": path}
        failure = failure_pb2.Failure(
            reason=error.reason, message=f"the model cannot be loaded: {cause}", metadata=facts
        )
        self._tell(frames_pb.WorkerFrame(load_failed=load_pb2.LoadFailed(failure=failure)))

    def _pass_on(self, frame: frames_pb.KernelFrame, memories: Sequence[Memory]) -> None:
        if self._worker is not None:
            self._ledger.note(frame)
            self._worker.send(frame, memories)

    def _gone(self, kernel: int, why: str) -> None:
        """The exchange with a kernel is closed, and not by `end` or `hold`: it cannot go on."""
        if self._ending is None and kernel == self._kernels:
            self._telling = asyncio.create_task(self._tell_gone(why))

    async def _tell_gone(self, why: str) -> None:
        log.warning("a worker ends, whose frames cannot be carried", launch=self.launch_id, why=why)
        ended = await self.end()
        told = wire.WorkerEnded(launch_id=self.launch_id, how=f"its frames cannot be carried: {why}", tail=ended.tail)
        self.control.send(wire.ControlReport(ended=told).SerializeToString())


def _is_missing(path: str) -> bool:
    try:
        Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # whoever opens it says why it cannot be read
        return False
    return False
