"""A worker on another host, as the kernel has it: its frames come and go by an exchange."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from inferd.runtime.far.exchange import FRAMES_ACK_S, Exchange
from inferd.runtime.step_runs import merged
from inferd_api.worker.v1 import worker_pb2 as frames_pb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferd.core.ids import InstanceId
    from inferd.runtime.far.host import FarHost
    from inferd.runtime.far.parcels import Given
    from inferd.runtime.link import OnClosed, OnFrame
    from inferd.shared import Memory
    from inferd_api.agent.v1 import agent_pb2 as wire

MOVED_S = 1.0  # between two words of it that its link gets on
MEASURE_S = 1.0  # how long the resident memory of one is waited for


class FarWorker:
    """A worker that an agent started, or is starting. One writer: its `FarHost`; one user: its `Worker`.

    Attributes:
        launch_id: Names it in the life of this kernel.
        instance_id: The instance that it holds, or is to measure for.
        exchange: Of its frames.
        given: Set once whoever asked for it has it: no frame is told before.
    """

    def __init__(
        self, host: FarHost, launch_id: int, instance_id: InstanceId, *, on_frame: OnFrame, on_closed: OnClosed
    ) -> None:
        self.launch_id = launch_id
        self.instance_id = instance_id
        self.exchange = Exchange(
            host.bounds,
            on_frames=self._take,
            on_closed=on_closed,
            on_moved=self._note_moved,
            most_held_bytes=host.bounds.held_bytes,
            ack_s=FRAMES_ACK_S,
        )
        self._told_at = 0.0
        self._asked = 0  # the parcel of the first ping since it was heard
        self.given = asyncio.Event()
        self._host = host
        self._on_frame = on_frame
        self._pid = 0
        loop = asyncio.get_running_loop()
        self._started: asyncio.Future[int] = loop.create_future()
        self._ended: asyncio.Future[wire.WorkerEnded] = loop.create_future()
        self._measured: asyncio.Future[int] | None = None

    # For its `Worker`.

    @property
    def pid(self) -> int:
        """Its process id on its host."""
        return self._pid

    def send(self, frame: frames_pb.KernelFrame, memories: Sequence[Memory] = ()) -> None:
        """Send a frame and the memories that it speaks of; lost when the worker is gone."""
        if memories:
            frame.memories = len(memories)
        self.exchange.send(frame.SerializeToString(), memories)
        if not self._asked and frame.HasField("ping"):
            self._asked = self.exchange.sent

    async def resident_bytes(self) -> int:
        """Its resident memory; 0 when it is gone, or its host does not say in time."""
        if self._measured is None or self._measured.done():
            self._measured = asyncio.get_running_loop().create_future()
            self._host.measure(self)
        try:
            async with asyncio.timeout(MEASURE_S):
                return await asyncio.shield(self._measured)
        except TimeoutError:
            return 0

    async def tail(self) -> str:
        """What its log says last, as a clause; "" when that is nothing, or its host is lost."""
        return self._ended.result().tail if self._ended.done() else ""

    async def end(self, *, went: bool, hangs: bool) -> str:
        """Have nothing left of it on its host; how it ended, "" when that was in order, or its host is lost."""
        try:
            return await self._host.end(self, went=went, hangs=hangs)
        finally:
            self.exchange.close("the kernel closed its link")

    # For its host.

    async def started(self) -> None:
        """Wait until it runs.

        Raises:
            OSError: It could not be started.
        """
        self._pid = await self._started

    async def ended(self) -> str:
        """Wait until it is gone; how it ended."""
        return (await asyncio.shield(self._ended)).how

    def note_started(self, pid: int) -> None:
        """It runs."""
        if not self._started.done():
            self._started.set_result(pid)

    def note_failed(self, why: str) -> None:
        """It could not be started."""
        if not self._started.done():
            self._started.set_exception(OSError(why))
            self._started.exception()  # whoever asked for it may be gone

    def note_ended(self, ended: wire.WorkerEnded, why: str) -> None:
        """It is gone."""
        self.note_failed(why)
        self.given.set()
        if not self._ended.done():
            self._ended.set_result(ended)
        self.note_measured(0)
        self.exchange.close(why)

    def note_measured(self, memory_bytes: int) -> None:
        """It takes so much."""
        if self._measured is not None and not self._measured.done():
            self._measured.set_result(memory_bytes)

    def _note_moved(self, came: bool, /) -> None:  # noqa: FBT001 - of a callback
        """Its link gets on: on a slow one, pings and its answers to them may be behind very much else.

        What is acknowledged tells no more once a ping is: it is the agent that does so, and the worker may be stopped.
        """
        if not came and self.exchange.acknowledged >= self._asked:
            return
        now = asyncio.get_running_loop().time()
        if self.given.is_set() and now - self._told_at > MOVED_S:
            self._told_at = now
            self._on_frame(frames_pb.WorkerFrame())

    def _take(self, given: Sequence[Given]) -> None:
        clock = asyncio.get_running_loop().time
        begun = clock()
        self._obey(given)
        self._host.pace.note((now := clock()) - begun, now)

    def _obey(self, given: Sequence[Given]) -> None:
        self._asked = 0
        memories: dict[int, tuple[Memory, ...]] = {}
        frames = []
        for data, parts in given:
            try:
                frame = frames_pb.WorkerFrame.FromString(data)
            except DecodeError as error:
                self.exchange.close(f"a frame cannot be read: {error}")
                break
            if frame.memories != len(parts):
                self.exchange.close(f"a frame speaks of {frame.memories} memories and {len(parts)} came")
                break
            if frame.HasField("load_failed"):
                self._name_host(frame)
            frames.append(frame)
            if parts:
                memories[id(frame)] = parts
        for frame in merged(frames) if len(frames) > 1 else frames:
            self._on_frame(frame, memories.get(id(frame), ()))

    def _name_host(self, frame: frames_pb.WorkerFrame) -> None:
        """A load that fails says where."""
        failure = frame.load_failed.failure
        if "host" not in failure.metadata:
            failure.metadata["host"] = self._host.name
            failure.message = f"on host {self._host.name!r}: {failure.message}"
