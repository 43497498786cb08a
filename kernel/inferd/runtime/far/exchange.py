"""Frames in both directions between a kernel and an agent, in order and each once, over one stream after the other."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from inferd.runtime.far.parcels import Assembly, BrokenExchangeError, closing, cut
from inferd_api.agent.v1 import agent_pb2 as wire

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from inferd.runtime.far.pace import Pace
    from inferd.runtime.far.parcels import Given, Piece
    from inferd.shared import Memory

ACK_S = 0.1
"""What was received is acknowledged after so long at the latest: until then it goes along with what is sent."""
FRAMES_ACK_S = 5.0
"""The same of the frames of a worker, for which nobody waits: before that questions after its health and their answers
take it along, and a message of its own costs as much as one with frames."""
ACK_PART = 4
"""And before that once more has come than this part of the window, so that who sends need not stop."""
MOST_PARCELS = 1024  # in one message, whoever sends it


class OnFrames(Protocol):
    """Is told of frames that have come."""

    def __call__(self, frames: Sequence[Given], /) -> None:
        """These have come, in their order."""


class Exchange:
    """One end. One writer: its owner, on one loop; both ends are alike.

    What is sent is held until the other end has acknowledged it, and sent again on the next stream where one broke:
    nothing is lost, and nothing comes twice. At most `window_bytes` are under way. What waits is bounded by its owner,
    who looks at `queued_bytes`, or fails it where it may hold no more (`most_held_bytes`).

    Args:
        bounds: Of the link.
        on_frames: Is told of frames.
        on_closed: Is told once that no frame comes any more, and why.
        on_room: Is told when less is queued than before.
        on_moved: Is told when something has come (True), or was acknowledged alone, be it a part of a frame.
        most_held_bytes: Most that may wait, memories left out, which are others' anyway; 0 for no bound.
        ack_s: When it acknowledges at the latest.
        pace: What the other end is told of gathering; None where that is nothing.

    Attributes:
        bounds: See there.
        gather_us: What the other end has said of gathering, in microseconds.
        received: The number of the last parcel that has come.
        acknowledged: That of the last one of its own that the other end has.
        heard_at: When anything came last, on the clock of the loop.
        queued_bytes: What is not acknowledged, memories too.
        held_bytes: The same without memories.
    """

    def __init__(
        self,
        bounds: wire.LinkBounds,
        *,
        on_frames: OnFrames,
        on_closed: Callable[[str], None],
        on_room: Callable[[], None] = lambda: None,
        on_moved: Callable[[bool], None] = lambda _came: None,
        most_held_bytes: int = 0,
        ack_s: float = ACK_S,
        pace: Pace | None = None,
    ) -> None:
        self.bounds = bounds
        self.gather_us = 0
        self._pace = pace
        self._ack_s = ack_s
        self._on_frames = on_frames
        self._on_closed = on_closed
        self._on_room = on_room
        self._on_moved = on_moved
        self._most_held_bytes = most_held_bytes
        self._assembly = Assembly(frame_limit_bytes=bounds.frame_bytes, memory_limit_bytes=bounds.memory_bytes)
        self.received = 0
        self.heard_at = asyncio.get_running_loop().time()
        self.queued_bytes = self.held_bytes = 0
        self.acknowledged = 0
        self._flying: deque[Piece] = deque()  # sent on this stream, behind that
        self._waiting: deque[Piece] = deque()  # behind those
        self._flying_bytes = 0
        self._owed_bytes = 0  # received, and not acknowledged yet
        self._owes = False  # it is time to
        self._timer: asyncio.TimerHandle | None = None
        self._work = asyncio.Event()  # for who writes
        self._over = asyncio.Event()  # of the stream
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether no frame comes or goes any more."""
        return self._closed

    @property
    def sent(self) -> int:
        """The number of the last parcel of its own, whether that is under way or waits."""
        return self.acknowledged + len(self._flying) + len(self._waiting)

    def send(self, frame: bytes, memories: Sequence[Memory] = ()) -> None:
        """Send a frame and its memories; lost when it is closed."""
        if self._closed:
            return
        for piece in cut(frame, memories, self.bounds.parcel_bytes):
            self._queue(piece)
        if self._most_held_bytes and self.held_bytes > self._most_held_bytes:
            self.close(
                f"more waits for its connection than hosts.held_bytes allows: {self.held_bytes} bytes, the limit is "
                f"{self._most_held_bytes}"
            )

    def finish(self, why: str) -> None:
        """No frame follows: the other end is told so behind the last one."""
        if not self._closed:
            self._queue(closing(why))

    def _queue(self, piece: Piece) -> None:
        self._waiting.append(piece)
        self._count(piece, 1)
        self._work.set()

    def _count(self, piece: Piece, sign: int) -> None:
        self.queued_bytes += sign * piece.size_bytes
        if piece.memory is None:
            self.held_bytes += sign * piece.size_bytes

    def close(self, why: str) -> None:
        """End it, and the stream that carries it; `on_closed` follows."""
        if self._closed:
            return
        self._closed = True
        self._over.set()
        self._flying.clear()
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
        asyncio.get_running_loop().call_soon(self._on_closed, why)

    async def run(
        self,
        heard: int,
        read: Callable[[], Awaitable[wire.Parcels | None]],
        write: Callable[[wire.Parcels], Awaitable[None]],
        *,
        beat_s: float | None = None,
    ) -> None:
        """Go on over a stream, until that ends, another one takes its place, or this is closed.

        Args:
            heard: The number of the last parcel of ours that the other end has, as it says.
            read: Gives what comes next on the stream; None at its end.
            write: Sends on the stream.
            beat_s: Something is sent so often at least; None for no bound.
        """
        self._over.set()
        over = self._over = asyncio.Event()
        self._work = asyncio.Event()
        if self._closed:
            return
        self.heard_at = asyncio.get_running_loop().time()
        self._begin_again(heard)
        await first_of(self._read(read, over), self._write(write, over, beat_s), over.wait())

    def _begin_again(self, heard: int) -> None:
        try:
            self._acknowledge(heard)
        except BrokenExchangeError as error:
            self.close(str(error))
        self._waiting.extendleft(reversed(self._flying))
        self._flying.clear()
        self._flying_bytes = 0
        self._work.set()

    def _acknowledge(self, number: int) -> None:
        if number - self.acknowledged > len(self._flying):
            raise BrokenExchangeError("the other end acknowledges what was not sent")
        before = self.queued_bytes
        while self.acknowledged < number:
            piece = self._flying.popleft()
            self.acknowledged += 1
            self._flying_bytes -= piece.size_bytes
            self._count(piece, -1)
        if self.queued_bytes < before:
            self._work.set()
            self._on_room()

    async def _read(self, read: Callable[[], Awaitable[wire.Parcels | None]], over: asyncio.Event) -> None:
        while (parcels := await read()) is not None and not over.is_set():
            try:
                self.take(parcels)
            except BrokenExchangeError as error:
                self.close(f"what came cannot be read: {error}")
            except Exception as error:  # noqa: BLE001 - as of the local link: a defect, and the end of this exchange
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "a frame could not be handled", "exception": error}
                )
                self.close(f"a frame could not be handled: {type(error).__name__}")

    def take(self, parcels: wire.Parcels) -> None:
        """Something has come on the stream.

        Raises:
            BrokenExchangeError: It is nothing that may come.
        """
        self.heard_at = asyncio.get_running_loop().time()
        self.gather_us = parcels.gather_us
        moved = parcels.parcels or parcels.received > self.acknowledged
        self._acknowledge(parcels.received)
        if moved:
            self._on_moved(bool(parcels.parcels))
        if not parcels.parcels:
            return
        self._check(parcels.parcels)
        known = self.received + 1 - parcels.first
        if known < 0:
            raise BrokenExchangeError(f"parcel {parcels.first} came behind parcel {self.received}")
        frames: list[Given] = []
        for parcel in parcels.parcels[known:]:
            self.received += 1
            self._owed_bytes += len(parcel.data)
            if (given := self._assembly.take(parcel)) is not None:
                frames.append(given)
        self._owe()
        if frames:
            self._on_frames(frames)
        if self._assembly.closed:
            self.close(self._assembly.closed)

    def _check(self, parcels: Sequence[wire.Parcel]) -> None:
        """Refuse what no other end sends: each parcel costs time of the loop, whether it carries anything or not."""
        if len(parcels) > MOST_PARCELS:
            raise BrokenExchangeError(f"{len(parcels)} parcels came in one message, which may have {MOST_PARCELS}")
        largest_bytes = max(len(parcel.data) for parcel in parcels)
        if largest_bytes > self.bounds.parcel_bytes:
            raise BrokenExchangeError(f"a parcel of {largest_bytes} bytes came; the most is {self.bounds.parcel_bytes}")

    def _owe(self) -> None:
        """Acknowledge in time: at once where the largest parcel may find no room beside what is owed."""
        window_bytes = self.bounds.window_bytes
        if self._owed_bytes > min(window_bytes // ACK_PART, window_bytes - self.bounds.parcel_bytes):
            self._pay()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._ack_s, self._pay)

    def _pay(self) -> None:
        self._owes = True
        self._work.set()

    async def _write(
        self, write: Callable[[wire.Parcels], Awaitable[None]], over: asyncio.Event, beat_s: float | None
    ) -> None:
        work = self._work
        while not over.is_set():
            work.clear()
            if (parcels := self._next()) is None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(beat_s):
                        await work.wait()
                    continue
                parcels = self._filled(wire.Parcels())
            await write(parcels)

    def _next(self) -> wire.Parcels | None:
        """What may be sent now; None for nothing."""
        parcels, size_bytes, window_bytes = wire.Parcels(), 0, self.bounds.window_bytes
        while self._waiting and len(parcels.parcels) < MOST_PARCELS:
            piece = self._waiting[0]
            if self._flying and self._flying_bytes + piece.size_bytes > window_bytes:
                break
            if parcels.parcels and size_bytes + piece.size_bytes > self.bounds.parcel_bytes:
                break
            if not parcels.parcels:
                parcels.first = self.acknowledged + len(self._flying) + 1
            parcels.parcels.append(piece.write())
            self._flying.append(self._waiting.popleft())
            self._flying_bytes += piece.size_bytes
            size_bytes += piece.size_bytes
        return self._filled(parcels) if parcels.parcels or self._owes else None

    def _filled(self, parcels: wire.Parcels) -> wire.Parcels:
        """What is sent, with what was received."""
        parcels.received = self.received
        if self._pace is not None:
            parcels.gather_us = self._pace.gather_us
        self._owed_bytes, self._owes = 0, False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return parcels


async def first_of(*works: Coroutine[object, object, object]) -> None:
    """Run several things until the first one ends, and end the others.

    Raises:
        BaseException: As that raises which ended first.
    """
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in tasks:
        if task in done:
            task.result()
