"""What a client on a shared socket says who it is by: tickets, taken from the socket beside it and renewed in time."""

from __future__ import annotations

import re
import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from inferd_client.errors import UnauthenticatedError

if TYPE_CHECKING:
    from pathlib import Path

BESIDE: Final = ".id"  # behind the name of a socket: that of the one that gives tickets for it
FORM: Final = re.compile(rb"(it_[0-9a-f]{64})\n([0-9]{1,6}(?:\.[0-9]{1,6})?)\n")
MOST_BYTES: Final = 4096
ASK_S: Final = 1.0  # how long that socket is waited for
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
        self._renew_at = 0.0
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
        """
        if self.is_due:
            self.renew()
        return self._ticket

    def renew(self) -> None:
        """Take a new ticket. Where that cannot be, the call that needs it says why.

        Raises:
            UnauthenticatedError: The kernel gives this user none.
        """
        with self._lock:
            stamp = self._stamp()
            if not self.is_due or stamp is None:
                return  # another thread has
            said = b""
            with suppress(OSError):
                said = self._ask()
            if (told := FORM.fullmatch(said)) is not None:
                self._ticket, self._from = told[1].decode(), stamp
                self._renew_at = time.monotonic() + float(told[2]) * RENEWED_AFTER
            elif said.startswith(b"error: "):
                raise UnauthenticatedError(f"no ticket: {said[7:].decode(errors='replace').strip()}")

    def _ask(self) -> bytes:
        said = b""
        with socket.socket(socket.AF_UNIX) as asked:
            asked.settimeout(ASK_S)
            asked.connect(str(self._path))
            while len(said) < MOST_BYTES and (part := asked.recv(MOST_BYTES)):
                said += part
        return said

    def _stamp(self) -> Stamp | None:
        """What tells one kernel's socket from the next one's; None where there is none."""
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_ctime_ns
