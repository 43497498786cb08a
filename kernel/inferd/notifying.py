"""What a program tells the service manager that started it, by the protocol of sd_notify(3); standard library alone.

Without `NOTIFY_SOCKET`, as in a terminal or a container, nothing is told and nothing is begun.
"""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager, suppress
from typing import Final

_SOCKET, _PERIOD, _PROCESS = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"
_BEATS: Final = 3  # in the time after which a silent program is ended
_MICROSECONDS: Final = 1_000_000
_STATUS_CHARACTERS: Final = 500
_MARGIN_S: Final = 30.0  # for what comes after tasks have ended: workers, the store


class Notices:
    """Tells a service manager how this program stands. One writer: its event loop.

    Args:
        environment: Has where to tell it; those variables are taken out, so that no child tells in its name.

    Attributes:
        beat_s: Seconds between two signs of life; 0 where none are wanted.
    """

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        self._place = _place_of(environment.pop(_SOCKET, ""))
        period, process = environment.pop(_PERIOD, ""), environment.pop(_PROCESS, "")
        ours = process in ("", str(os.getpid()))
        self.beat_s = int(period) / _MICROSECONDS / _BEATS if ours and self._place and period.isdecimal() else 0.0

    def ready(self, status: str) -> None:
        """It serves, or does so again after `reloading`.

        Args:
            status: How it stands, for people.
        """
        self._tell("READY=1", _status(status))

    def status(self, text: str) -> None:
        """How it stands, for people."""
        self._tell(_status(text))

    def reloading(self) -> None:
        """It reads its configuration anew; `ready` ends that."""
        now = time.clock_gettime(time.CLOCK_MONOTONIC) * _MICROSECONDS
        self._tell("RELOADING=1", f"MONOTONIC_USEC={now:.0f}")

    def stopping(self, within_s: float = 0.0) -> None:
        """It ends.

        Args:
            within_s: How long what runs has for it, in seconds; the manager is to wait for that.
        """
        until = round((within_s + _MARGIN_S) * _MICROSECONDS)
        self._tell("STOPPING=1", f"EXTEND_TIMEOUT_USEC={until}", _status("ends what runs"))

    @asynccontextmanager
    async def beating(self) -> AsyncIterator[None]:
        """Give signs of life from the event loop until the block ends: a loop that hangs gives none."""
        beat = asyncio.create_task(self._beat(), name="signs of life") if self.beat_s else None
        try:
            yield
        finally:
            if beat is not None:
                beat.cancel()
                await asyncio.gather(beat, return_exceptions=True)

    async def _beat(self) -> None:
        while True:
            self._tell("WATCHDOG=1")
            await asyncio.sleep(self.beat_s)

    def _tell(self, *lines: str) -> None:
        if not self._place:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as told:
            told.setblocking(False)  # a manager that does not read holds nothing up
            told.sendto("\n".join(lines).encode(), self._place)


def _place_of(name: str) -> str:
    """The address of a socket as it is named: `@` stands for the first byte of an abstract one."""
    return f"\0{name[1:]}" if name.startswith("@") else name if name.startswith("/") else ""


def _status(text: str) -> str:
    return f"STATUS={' '.join(text.split())[:_STATUS_CHARACTERS]}"
