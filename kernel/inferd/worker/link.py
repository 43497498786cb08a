"""The worker's end of the local link: protobuf frames behind a 4-byte little-endian length.

Descriptors of memories come with the first byte of the frame that speaks of them.
"""

from __future__ import annotations

import socket
import struct
import threading
from typing import TYPE_CHECKING, Final

from inferd.shared import ANCILLARY_BYTES, Arrivals, Memory, ancillary
from inferd_api.worker.v1 import worker_pb2 as wire

if TYPE_CHECKING:
    from collections.abc import Sequence

_HEADER: Final = struct.Struct("<I")
_READ_BYTES: Final = 64 << 10


class Link:
    """`receive` belongs to one thread; `send` comes from any and blocks while the kernel does not read.

    Args:
        sock: Connected to the kernel.
        frame_limit_bytes: Of the largest frame that the kernel may send.
    """

    def __init__(self, sock: socket.socket, *, frame_limit_bytes: int) -> None:
        self._sock = sock
        self._limit_bytes = frame_limit_bytes
        self._buffer = bytearray()
        self._arrivals = Arrivals()
        self._lock = threading.Lock()  # of sending

    def receive(self) -> tuple[wire.KernelFrame, tuple[Memory, ...]] | None:
        """The next frame, and the memories that it speaks of; None when the kernel closed its end.

        Raises:
            ValueError: The frame is larger than it may be, or a memory is not sealed.
        """
        header = self._take(_HEADER.size)
        if header is None:
            return None
        (size,) = _HEADER.unpack(header)
        if size > self._limit_bytes:
            raise ValueError(f"a frame of {size} bytes exceeds limits.frame_bytes, which is {self._limit_bytes}")
        data = self._take(size)
        if data is None:
            return None
        frame = wire.KernelFrame.FromString(data)
        memories = []
        for memory in self._arrivals.take(frame.memories):
            if not isinstance(memory, Memory):
                raise memory
            memories.append(memory)
        return frame, tuple(memories)

    def _take(self, size: int) -> bytes | None:
        """So many bytes; None when there are not so many before the end."""
        buffer = self._buffer
        while len(buffer) < size:
            most = max(_READ_BYTES, size - len(buffer))
            data, messages, flags, _ = self._sock.recvmsg(most, ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
            self._arrivals.add(messages, flags)
            if not data:
                return None
            buffer += data
        taken = bytes(memoryview(buffer)[:size])
        del buffer[:size]
        return taken

    def send(self, frame: wire.WorkerFrame, memories: Sequence[Memory] = ()) -> None:
        """Send a frame, and what it says of memories with it.

        Raises:
            ConnectionError: The kernel is gone.
        """
        if memories:
            frame.memories = len(memories)
        data = frame.SerializeToString()
        message = memoryview(_HEADER.pack(len(data)) + data)
        with self._lock:
            sent = self._sock.sendmsg([message], ancillary(memories))
            if sent < len(message):
                self._sock.sendall(message[sent:])
