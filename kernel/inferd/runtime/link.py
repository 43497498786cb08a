"""The local link to a worker: a socketpair with length-prefixed protobuf frames, and EOF the moment either end dies."""

import asyncio
import socket
import struct
from collections.abc import Callable

from google.protobuf.message import DecodeError

from inferd.runtime.step_runs import is_plain, merged
from inferd_api.worker.v1 import worker_pb2 as wire

HEADER = struct.Struct("<I")
REST = 4.0
"""Of what taking frames with tokens cost: so long no other is read, so that they take a fifth of the time at most."""
LEAST_REST_S = 0.0005  # a timer is no more exact than that
MOST_REST_S = 0.005
ROOM_BYTES = 256 << 10
"""Read at once, into a place that stays: asyncio's own for each read is as large as what is mapped anew each time."""


class LocalLink(asyncio.BufferedProtocol):
    """The kernel's end of a socketpair. Made by `connect`.

    `on_frame` is called for each frame in order; `on_closed` once, after the last frame, with the reason.

    Frames with tokens that come faster than they are taken are read together, and those of plain steps are handed on as
    one (see `step_runs`). Where taking them is cheap beside the steps, each is taken at once.
    """

    def __init__(
        self, *, frame_limit_bytes: int, on_frame: Callable[[wire.WorkerFrame], None], on_closed: Callable[[str], None]
    ) -> None:
        self._limit_bytes = frame_limit_bytes
        self._on_frame = on_frame
        self._on_closed = on_closed
        self._room = memoryview(bytearray(ROOM_BYTES))
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._reason = "the worker closed its link"

    @classmethod
    async def connect(
        cls,
        sock: socket.socket,
        *,
        frame_limit_bytes: int,
        on_frame: Callable[[wire.WorkerFrame], None],
        on_closed: Callable[[str], None],
    ) -> "LocalLink":
        """Take over the kernel's socket of the pair."""
        link = cls(frame_limit_bytes=frame_limit_bytes, on_frame=on_frame, on_closed=on_closed)
        # A connected stream socket: connect_accepted_socket is the loop's way to adopt one, whoever accepted it.
        await asyncio.get_running_loop().connect_accepted_socket(lambda: link, sock)
        return link

    def send(self, frame: wire.KernelFrame) -> None:
        """Send a frame; one to a dead worker is lost, as `on_closed` then tells."""
        if self._transport is not None and not self._transport.is_closing():
            data = frame.SerializeToString()
            self._transport.write(HEADER.pack(len(data)) + data)

    def close(self) -> None:
        """Close this end; `on_closed` follows."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - narrows the type; a socket gives nothing else
        self._transport = transport

    def get_buffer(self, _: int) -> memoryview:
        """Called by the loop: where to put what comes."""
        return self._room

    def buffer_updated(self, count: int) -> None:
        """Called by the loop, which has put so many bytes there; hands on every frame that is complete."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        frames = self._read(self._room[:count])
        for frame in merged(frames) if len(frames) > 1 else frames:
            self._on_frame(frame)
        if frames and is_plain(frames[-1]):
            self._rest(REST * (loop.time() - begun))

    def _rest(self, rest_s: float) -> None:
        """Leave what comes meanwhile where it is: it is read together then, and costs less."""
        if rest_s >= LEAST_REST_S and self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()
            asyncio.get_running_loop().call_later(min(rest_s, MOST_REST_S), self._go_on)

    def _go_on(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _read(self, data: memoryview) -> list[wire.WorkerFrame]:
        """The frames that are complete with this; none after one that is too large or no frame."""
        buffer, frames = self._buffer, list[wire.WorkerFrame]()
        buffer += data
        start = 0
        while len(buffer) - start >= HEADER.size:
            (size,) = HEADER.unpack_from(buffer, start)
            if size > self._limit_bytes:
                self._reason = f"a frame of {size} bytes exceeds limits.frame_bytes, which is {self._limit_bytes}"
                self.close()
                break
            end = start + HEADER.size + size
            if len(buffer) < end:
                break
            try:
                with memoryview(buffer) as view, view[start + HEADER.size : end] as written:
                    frames.append(wire.WorkerFrame.FromString(bytes(written)))
            except DecodeError as error:
                self._reason = f"a frame cannot be decoded: {error}"
                self.close()
                break
            start = end
        del buffer[:start]
        return frames

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop at EOF."""
        self._transport = None
        self._on_closed(f"{self._reason}: {exc}" if exc else self._reason)
