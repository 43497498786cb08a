"""The worker's end of the local link: protobuf frames behind a 4-byte little-endian length."""

from __future__ import annotations

import struct
import threading
from typing import TYPE_CHECKING, Final

from inferd_api.worker.v1 import worker_pb2 as wire

if TYPE_CHECKING:
    import socket

_HEADER: Final = struct.Struct("<I")


class Link:
    """`receive` belongs to one thread; `send` comes from any and blocks while the kernel does not read.

    Args:
        sock: Connected to the kernel.
        frame_limit_bytes: Of the largest frame that the kernel may send.
    """

    def __init__(self, sock: socket.socket, *, frame_limit_bytes: int) -> None:
        self._sock = sock
        self._limit_bytes = frame_limit_bytes
        self._reader = sock.makefile("rb")
        self._lock = threading.Lock()  # of sending

    def receive(self) -> wire.KernelFrame | None:
        """The next frame; None when the kernel closed its end.

        Raises:
            ValueError: The frame is larger than it may be.
        """
        header = self._reader.read(_HEADER.size)
        if len(header) < _HEADER.size:
            return None
        (size,) = _HEADER.unpack(header)
        if size > self._limit_bytes:
            raise ValueError(f"a frame of {size} bytes exceeds limits.frame_bytes, which is {self._limit_bytes}")
        data = self._reader.read(size)
        return wire.KernelFrame.FromString(data) if len(data) == size else None

    def send(self, frame: wire.WorkerFrame) -> None:
        """Send a frame.

        Raises:
            ConnectionError: The kernel is gone.
        """
        data = frame.SerializeToString()
        with self._lock:
            self._sock.sendall(_HEADER.pack(len(data)) + data)
