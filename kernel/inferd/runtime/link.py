"""The local link to a worker: a socketpair with length-prefixed protobuf frames, and EOF the moment either end dies."""

import asyncio
import socket
import struct
from collections.abc import Callable

from google.protobuf.message import DecodeError

from inferd_api.worker.v1 import worker_pb2 as wire

HEADER = struct.Struct("<I")


class LocalLink(asyncio.Protocol):
    """The kernel's end of a socketpair. Made by `connect`.

    `on_frame` is called for each frame in order; `on_closed` once, after the last frame, with the reason.
    """

    def __init__(
        self, *, frame_limit_bytes: int, on_frame: Callable[[wire.WorkerFrame], None], on_closed: Callable[[str], None]
    ) -> None:
        self._limit_bytes = frame_limit_bytes
        self._on_frame = on_frame
        self._on_closed = on_closed
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

    def data_received(self, data: bytes) -> None:
        """Called by the loop; hands on every frame that is complete."""
        buffer = self._buffer
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
                frame = wire.WorkerFrame.FromString(bytes(buffer[start + HEADER.size : end]))
            except DecodeError as error:
                self._reason = f"a frame cannot be decoded: {error}"
                self.close()
                break
            start = end
            self._on_frame(frame)
        del buffer[:start]

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop at EOF."""
        self._transport = None
        self._on_closed(f"{self._reason}: {exc}" if exc else self._reason)
