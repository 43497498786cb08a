"""The local link to a worker: a socketpair with length-prefixed protobuf frames, and EOF the moment either end dies.

Descriptors of memories go with the first byte of the frame that speaks of them.
"""

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Sequence
from itertools import islice, takewhile
from typing import Protocol

from google.protobuf.message import DecodeError

from inferd.errors import words_of
from inferd.runtime.step_runs import is_plain, merged
from inferd.shared import ANCILLARY_BYTES, Arrivals, Memory, MemoryRefusedError, ancillary
from inferd_api.worker.v1 import worker_pb2 as wire

HEADER = struct.Struct("<I")
REST = 4.0
"""Of what taking frames with tokens cost: so long no other is read, so that they take a fifth of the time at most."""
LEAST_REST_S = 0.0005  # a timer is no more exact than that
MOST_REST_S = 0.005
TOGETHER = 64  # frames in one write, at most
ROOM_BYTES = 256 << 10
"""Read at once, into a place that stays: a new one for each read is as large as what is mapped anew each time."""

Arrived = tuple[Memory | MemoryRefusedError, ...]
"""The memories of a frame, or why one of them is none that may be read."""


def _is_alone(outgoing: tuple[memoryview, Sequence[Memory]]) -> bool:
    """Whether no memories go with a frame."""
    return not outgoing[1]


class OnFrame(Protocol):
    """Is told of a frame of a worker."""

    def __call__(self, frame: wire.WorkerFrame, memories: Arrived = (), /) -> None:
        """One has come, with so many memories."""


class OnClosed(Protocol):
    """Is told that no frame comes any more."""

    def __call__(self, why: str, /) -> None:
        """That is why."""


class LocalLink:
    """The kernel's end of a socketpair. Made by `connect`; everything happens on one event loop.

    `on_frame` is called for each frame in order; `on_closed` once, after the last frame, with the reason.

    Frames with tokens that come faster than they are taken are read together, and those of plain steps are handed on as
    one (see `step_runs`). Where taking them is cheap beside the steps, each is taken at once.

    Frames that are sent in one turn of the loop go in one write: each wakes the worker, which costs more than a frame.
    """

    def __init__(self, sock: socket.socket, *, frame_limit_bytes: int, on_frame: OnFrame, on_closed: OnClosed) -> None:
        self._sock = sock
        self._limit_bytes = frame_limit_bytes
        self._on_frame = on_frame
        self._on_closed = on_closed
        self._buffer = bytearray()
        self._room = memoryview(bytearray(ROOM_BYTES))
        self._arrivals = Arrivals()
        self._outgoing: deque[tuple[memoryview, Sequence[Memory]]] = deque()  # what was not written yet
        self._blocked = False  # the socket had no room for it
        self._paused = False
        self._loop = asyncio.get_running_loop()
        self._open = True

    @classmethod
    async def connect(
        cls, sock: socket.socket, *, frame_limit_bytes: int, on_frame: OnFrame, on_closed: OnClosed
    ) -> "LocalLink":
        """Take over the kernel's socket of the pair."""
        sock.setblocking(False)
        link = cls(sock, frame_limit_bytes=frame_limit_bytes, on_frame=on_frame, on_closed=on_closed)
        link._loop.add_reader(sock, link._read)
        return link

    def send(self, frame: wire.KernelFrame, memories: Sequence[Memory] = ()) -> None:
        """Send a frame and the memories that it speaks of; one to a dead worker is lost, as `on_closed` then tells."""
        if not self._open:
            return
        if memories:
            frame.memories = len(memories)
        data = frame.SerializeToString()
        self._outgoing.append((memoryview(HEADER.pack(len(data)) + data), memories))
        if len(self._outgoing) == 1:
            self._loop.call_soon(self._write)

    def pause(self) -> None:
        """Read no more, until `resume`: the worker waits when the socket is full. Again changes nothing."""
        if not self._paused:
            self._paused = True
            self._loop.remove_reader(self._sock)

    def resume(self) -> None:
        """Read on; again changes nothing."""
        if self._paused:
            self._paused = False
            self._go_on()

    def close(self) -> None:
        """Close this end; `on_closed` follows."""
        self._close("the kernel closed its link")

    def _write(self) -> None:
        """Send as much as there is room for."""
        try:
            while self._outgoing:
                frames, memories = self._next()
                self._drop(self._sock.sendmsg(frames, ancillary(memories)))
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self._close(f"the worker closed its link: {words_of(error)}")
            return
        if self._blocked is not bool(self._outgoing):
            self._blocked = not self._blocked
            if self._blocked:
                self._loop.add_writer(self._sock, self._write)
            else:
                self._loop.remove_writer(self._sock)

    def _next(self) -> tuple[list[memoryview], Sequence[Memory]]:
        """The frames that go in one write, and the memories of the first: those of others would come before them."""
        (first, memories), *others = islice(self._outgoing, TOGETHER)
        return [first, *(frame for frame, _ in takewhile(_is_alone, others))], memories

    def _drop(self, count: int) -> None:
        """Forget the bytes that were written; the memories of a frame that was begun are on their way."""
        while count and count >= len(frame := self._outgoing[0][0]):
            self._outgoing.popleft()
            count -= len(frame)
        if count:
            self._outgoing[0] = self._outgoing[0][0][count:], ()

    def _read(self) -> None:
        """Called by the loop; hands on every frame that is complete."""
        try:
            count, messages, flags, _ = self._sock.recvmsg_into([self._room], ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._close(f"the worker closed its link: {words_of(error)}")
            return
        if not count:
            self._close("the worker closed its link")
            return
        begun, frames, why = self._loop.time(), list[tuple[wire.WorkerFrame, Arrived]](), ""
        try:
            self._arrivals.add(messages, flags)
            self._buffer += self._room[:count]
            self._parse(frames)
        except (DecodeError, MemoryRefusedError) as error:
            why = f"a frame cannot be read: {error}"
        self._hand_on(frames)
        if why:
            self._close(why)
        elif frames and is_plain(frames[-1][0]):
            self._rest(REST * (self._loop.time() - begun))

    def _rest(self, rest_s: float) -> None:
        """Leave what comes meanwhile where it is: it is read together then, and costs less."""
        if rest_s >= LEAST_REST_S and self._open:
            self._loop.remove_reader(self._sock)
            self._loop.call_later(min(rest_s, MOST_REST_S), self._go_on)

    def _go_on(self) -> None:
        if self._open and not self._paused:
            self._loop.add_reader(self._sock, self._read)

    def _hand_on(self, frames: list[tuple[wire.WorkerFrame, Arrived]]) -> None:
        memories = {id(frame): given for frame, given in frames if given}
        all_frames = [frame for frame, _ in frames]
        try:
            for frame in merged(all_frames) if len(all_frames) > 1 else all_frames:
                if self._open:
                    self._on_frame(frame, memories.get(id(frame), ()))
        except Exception as error:  # noqa: BLE001 - as asyncio does for its own transports: a defect, and the link's end
            self._loop.call_exception_handler({"message": "a frame could not be handled", "exception": error})
            self._close(f"a frame could not be handled: {type(error).__name__}")

    def _parse(self, frames: list[tuple[wire.WorkerFrame, Arrived]]) -> None:
        """The frames that are complete; none after one that cannot be read.

        Raises:
            DecodeError, MemoryRefusedError: That is one.
        """
        buffer, start = self._buffer, 0
        while len(buffer) - start >= HEADER.size:
            (size,) = HEADER.unpack_from(buffer, start)
            if size > self._limit_bytes:
                raise DecodeError(f"a frame of {size} bytes exceeds limits.frame_bytes, which is {self._limit_bytes}")
            end = start + HEADER.size + size
            if len(buffer) < end:
                break
            with memoryview(buffer) as view:
                frame = wire.WorkerFrame.FromString(bytes(view[start + HEADER.size : end]))
            start = end
            frames.append((frame, self._arrivals.take(frame.memories) if frame.memories else ()))
        del buffer[:start]

    def _close(self, why: str) -> None:
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()
        self._outgoing.clear()
        self._arrivals.close()
        self._loop.call_soon(self._on_closed, why)
