"""The sockets that give tickets: whoever connects is told two lines, the ticket and how many seconds it holds.

Nothing is read, so that nobody can hold one up; what is sent fits into any buffer.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from inferd.runtime.tickets import name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from inferd.runtime.tickets import Tickets

PEER: Final = struct.Struct("iII")  # pid, uid and gid; see unix(7)
OVERFLOW: Final = Path("/proc/sys/kernel/overflowuid")
BACKLOG: Final = 1024  # that wait at once; the system may hold it to less (net.core.somaxconn)
AT_ONCE: Final = 16  # tickets, of those that wait, before the kernel goes on with what else it has to do
NAMES: Final = 1000  # of users, remembered
NAME_S: Final = 10.0  # for so long
PAUSE_S: Final = 0.1  # after a connection could not be taken: descriptors are short

log = structlog.get_logger()


class TicketDoor:
    """Gives tickets on any number of sockets, one at a time.

    Args:
        tickets: Makes them.
        give: Opens a socket to whom it is for.
    """

    def __init__(self, tickets: Tickets, give: Callable[[Path], None]) -> None:
        self._tickets = tickets
        self._give = give
        self._overflow = _overflow_uid()
        self._names: dict[int, tuple[str, float]] = {}  # and until when

    @contextmanager
    def opened(self, path: Path, private: Path) -> Iterator[None]:
        """Give tickets at a path until the block ends; what a kernel that died has left there is replaced.

        Args:
            path: Where.
            private: A name beside it that is free.

        Raises:
            OSError: It cannot be made.
        """
        with socket.socket(socket.AF_UNIX) as door:
            before = os.umask(0o177)
            try:
                door.bind(str(private))
            finally:
                os.umask(before)
            self._give(private)
            door.listen(BACKLOG)
            door.setblocking(False)
            private.replace(path)
            ours = path.stat().st_ino
            loop = asyncio.get_running_loop()
            serving = loop.create_task(self._serve(door), name="tickets")
            try:
                yield
            finally:
                serving.cancel()
                loop.remove_reader(door)  # now: what cancels it comes when the descriptor may be another's
                with suppress(FileNotFoundError):
                    if path.stat().st_ino == ours:
                        path.unlink()

    async def _serve(self, door: socket.socket) -> None:
        loop, given = asyncio.get_running_loop(), 0
        while True:
            try:
                connection, _ = await loop.sock_accept(door)
            except OSError as error:
                log.warning("a connection that asks for a ticket cannot be taken", why=error.strerror)
                await asyncio.sleep(PAUSE_S)
                continue
            with connection, suppress(OSError):  # it has gone already
                connection.send((await self._answer(connection)).encode())
            if not (given := (given + 1) % AT_ONCE):
                await asyncio.sleep(0)  # nothing before may have waited: the kernel has more to do

    async def _answer(self, connection: socket.socket) -> str:
        uid = uid_of(connection)
        if uid == self._overflow:
            return f"error: uid {uid} stands for users that this host cannot tell apart; use a key\n"
        ticket = self._tickets.issue(uid, await self._name(uid))
        return f"{ticket}\n{self._tickets.holds_s:g}\n"

    async def _name(self, uid: int) -> str:
        """The name of a user. It is remembered: one who asks in a loop keeps others waiting for as long as it takes."""
        name, until = self._names.get(uid, ("", 0.0))
        if until <= time.monotonic():
            name = await asyncio.to_thread(name_of, uid)
            if len(self._names) >= NAMES:
                self._names.clear()
            self._names[uid] = name, time.monotonic() + NAME_S
        return name


def uid_of(connection: socket.socket) -> int:
    """The user who has connected, as the system knows it."""
    _, uid, _ = PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER.size))
    return int(uid)


def _overflow_uid() -> int:
    """What the system calls a user of another user namespace who has no name in this one."""
    try:
        return int(OVERFLOW.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 65534
