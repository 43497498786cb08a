"""Messages between processes of one worker: JSON and bytes behind their lengths, over a pair of sockets."""

from __future__ import annotations

import json
import select
import struct
import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import socket

MESSAGE_BYTES: Final = 256 << 20
"""Largest message."""

_HEADER: Final = struct.Struct("<II")


class LateError(Exception):
    """The other side did not answer in time."""


class LargeError(ValueError):
    """The other side has sent more than this one takes. The channel is of no more use.

    Attributes:
        size_bytes: Of its message.
    """

    def __init__(self, size_bytes: int, most_bytes: int) -> None:
        super().__init__(f"a message of {size_bytes} bytes is over the limit of {most_bytes}")
        self.size_bytes = size_bytes


class ClosedError(Exception):
    """The other side is gone."""


class Channel:
    """One end. One thread at a time uses it.

    Attributes:
        most_bytes: Largest message that it takes; nothing of a larger one is read.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.most_bytes = MESSAGE_BYTES

    @property
    def gone(self) -> bool:
        """Whether the other side has gone, though something that it said may not be read yet."""
        seen = select.poll()
        try:
            seen.register(self.sock, select.POLLRDHUP)
            return bool(seen.poll(0))
        except (OSError, ValueError):  # this side is closed
            return True

    def send(self, message: Any, data: bytes = b"", *, timeout_s: float | None = None) -> None:
        """Send a message, and bytes with it.

        Raises:
            LateError: The other side does not read. The channel is of no more use.
            ClosedError: The other side is gone.
        """
        text = json.dumps(message, separators=(",", ":")).encode()
        self.sock.settimeout(timeout_s)
        try:
            self.sock.sendall(b"".join((_HEADER.pack(len(text), len(data)), text, data)))
        except TimeoutError:
            raise LateError from None
        except OSError:
            raise ClosedError from None

    def receive(self, *, timeout_s: float | None = None) -> tuple[Any, bytes]:
        """The next message and the bytes that came with it.

        Raises:
            LateError: There is none in time. A part of it may have been read: then the channel is of no more use.
            ClosedError: The other side is gone.
            LargeError: It is over `most_bytes`.
        """
        until = None if timeout_s is None else time.monotonic() + timeout_s
        text_size, data_size = _HEADER.unpack(self._read(_HEADER.size, until))
        if text_size + data_size > self.most_bytes:
            raise LargeError(text_size + data_size, self.most_bytes)
        text = self._read(text_size, until)
        return json.loads(text), self._read(data_size, until) if data_size else b""

    def _read(self, size: int, until: float | None) -> bytes:
        data = bytearray()
        while len(data) < size:
            left_s = None if until is None else until - time.monotonic()
            try:
                if left_s is not None and left_s <= 0:
                    self.sock.settimeout(0)  # what is there already is not late
                else:
                    self.sock.settimeout(left_s)
                part = self.sock.recv(size - len(data))
            except (TimeoutError, BlockingIOError):
                raise LateError from None
            except OSError:
                raise ClosedError from None
            if not part:
                raise ClosedError
            data += part
        return bytes(data)
