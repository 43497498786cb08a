"""What a client on a shared socket says who it is by: tickets, taken from the socket beside it and renewed in time."""

from __future__ import annotations

import re
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Final

from inferd_client.errors import KernelUnreachableError, UnauthenticatedError

if TYPE_CHECKING:
    from pathlib import Path

BESIDE: Final = ".id"  # behind the name of a socket: that of the one that gives tickets for it
FORM: Final = re.compile(rb"(it_[0-9a-f]{64})\n([0-9]{1,6}(?:\.[0-9]{1,6})?)\n")
MOST_BYTES: Final = 4096
ASK_S: Final = 5.0  # how long that socket is waited for, where many ask
RENEW_S: Final = 1.0  # the same while the ticket before holds
TIME: Final = struct.Struct("@ll")  # struct timeval: seconds and microseconds
RENEWED_AFTER: Final = 2 / 3  # of the time that a ticket holds

Stamp = tuple[int, int]


class Tickets:
    """The ticket of a client. Safe to use from several threads.

    Args:
        path: Of the kernel's socket.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(path.name + BESIDE)
        self._lock = threading.Lock()
        self._ticket = ""
        self._renew_at = self._ends = 0.0
        self._from: Stamp | None = None

    @property
    def is_due(self) -> bool:
        """Whether a new one is to be taken: it is time, or another kernel is there than the one that gave it."""
        stamp = self._stamp()
        return stamp is not None and (stamp != self._from or time.monotonic() >= self._renew_at)

    def current(self) -> str:
        """The ticket; "" where the socket is its owner's alone and needs none, or where no kernel is there.

        Raises:
            UnauthenticatedError: The kernel gives this user none.
            KernelUnreachableError: So many ask for one that none was had in time.
        """
        if self.is_due:
            self.renew()
        return self._ticket

    def renew(self) -> None:
        """Take a new ticket. Where no kernel is there, the call that needs it says so.

        Raises:
            UnauthenticatedError: The kernel gives this user none.
            KernelUnreachableError: So many ask for one that none was had in time, and the one before holds no longer.
        """
        with self._lock:
            stamp = self._stamp()
            if not self.is_due or stamp is None:
                return  # another thread has
            holds = stamp == self._from and time.monotonic() < self._ends
            try:
                said = self._ask(RENEW_S if holds else ASK_S)
            except (BlockingIOError, TimeoutError):
                if not holds:
                    raise self._crowded() from None
                self._renew_at = min(self._ends, time.monotonic() + RENEW_S)
                return
            except OSError:
                return
            if (told := FORM.fullmatch(said)) is not None:
                self._ticket, self._from = told[1].decode(), stamp
                now, holds_s = time.monotonic(), float(told[2])
                self._renew_at, self._ends = now + holds_s * RENEWED_AFTER, now + holds_s
            elif said.startswith(b"error: "):
                raise UnauthenticatedError(f"no ticket: {said[7:].decode(errors='replace').strip()}")

    def _crowded(self) -> KernelUnreachableError:
        return KernelUnreachableError(
            f"no ticket: {self._path} gave none in {ASK_S:g} s; others may ask it for too many: try again, and see who "
            "does (ss -xp), or use a key (credential_file)",
            retry_after_s=RENEW_S,
        )

    def _ask(self, wait_s: float) -> bytes:
        """What the socket says.

        Args:
            wait_s: How long it is waited for, in seconds.

        Raises:
            BlockingIOError, TimeoutError: Nothing, in time.
            OSError: Nobody is there.
        """
        said, until = b"", time.monotonic() + wait_s
        with socket.socket(socket.AF_UNIX) as asked:
            # A timeout of Python's fails at once where the queue of the socket is full: this one waits for a place.
            asked.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, TIME.pack(int(wait_s), int(wait_s % 1 * 1e6)))
            asked.connect(str(self._path))
            while len(said) < MOST_BYTES:
                if (left_s := until - time.monotonic()) <= 0:
                    raise TimeoutError
                asked.settimeout(left_s)
                if not (part := asked.recv(MOST_BYTES)):
                    break
                said += part
        return said

    def _stamp(self) -> Stamp | None:
        """What tells one kernel's socket from the next one's; None where there is none."""
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_ctime_ns
