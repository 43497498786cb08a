"""`inferd lease run`: a program outside the kernel that runs under a lease."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from inferd.cli import guard
from inferd.cli.claim import describe
from inferd.cli.kernel import connected
from inferd.cli.output import CommandError, command_error
from inferd_client import AsyncClient, LeaseLostError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence

    from inferd.cli.output import Output
    from inferd_api.v1.lease_pb2 import Claim
    from inferd_client import HeldLease, LeaseOptions

LEASE_VARIABLE = "INFERD_LEASE"
LOST = 75  # EX_TEMPFAIL of sysexits.h: what failed may work another time
CANNOT_RUN, NOT_FOUND = 126, 127
KILLED = 128  # and the signal, as shells tell it
LOOKS = 12  # at what the kernel has confirmed, in a TTL

ENDING = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM})  # what ends the wait for a lease
TYPED = frozenset(
    {signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGWINCH}
)  # what a terminal sends to the program as well
PASSED_ON = ENDING | TYPED | {signal.SIGCONT, signal.SIGUSR1, signal.SIGUSR2}


def run_under_lease(
    output: Output,
    address: str,
    tenant: str,
    command: Sequence[str],
    *,
    claims: list[Claim],
    options: LeaseOptions,
    grace_s: float,
) -> int:
    """Run a program for as long as a lease holds; its exit code, or 75 when the lease was lost.

    Raises:
        CommandError: The lease was not granted.
    """
    path = shutil.which(command[0])
    if path is None:
        output.error(CommandError(f"there is no program {command[0]!r}", reason="PROGRAM_NOT_FOUND"))
        return NOT_FOUND
    with connected(address, tenant) as client:  # for its errors; a program and a lease at once take asyncio
        program = Program(output, [path, *command[1:]], grace_s=grace_s)
        return asyncio.run(program.run(client.address, tenant, claims, options))


class Program:
    """A program, its guard, and the signals that it is sent. Those before it runs end the wait for its lease."""

    def __init__(self, output: Output, command: Sequence[str], *, grace_s: float) -> None:
        self._output = output
        self._command = command
        self._grace_s = grace_s
        self._guard: socket.socket | None = None
        self._waiting: asyncio.Task[object] | None = None
        self._told: signal.Signals | None = None

    async def run(self, address: str, tenant: str, claims: list[Claim], options: LeaseOptions) -> int:
        """Wait for the lease, run the program, and release the lease; the exit code."""
        self._waiting = asyncio.current_task()
        loop = asyncio.get_running_loop()
        for number in PASSED_ON:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup leaves it: then it is no matter of ours
                loop.add_signal_handler(number, self._signalled, number)
        async with AsyncClient(address, tenant=tenant) as client:
            try:
                with self._output.status(f"waiting for {describe(claims)}") as say:
                    async with client.lease(*claims, **options) as lease:
                        say("")
                        code = await self._run(lease)
            except LeaseLostError as error:
                self._output.error(command_error(error))
                return LOST
            except asyncio.CancelledError:
                if self._told is None:
                    raise
                return KILLED + self._told
        self._tell({"exit_code": code})
        return code

    async def _run(self, lease: HeldLease) -> int:
        self._tell({"lease_id": lease.lease_id, "fencing_token": str(lease.fencing_token)})
        async with self._guarded(lease) as ours:
            try:
                return await self._follow(ours, lease)
            except asyncio.CancelledError:  # the lease is lost: signals do not cancel any more
                self._say(f"the lease is lost; {self._command[0]} gets SIGTERM")
                self._order("end")
                await self._follow(ours, lease)
                raise

    @asynccontextmanager
    async def _guarded(self, lease: HeldLease) -> AsyncGenerator[socket.socket]:
        """The program with its guard, which is told how long the lease holds; the socket to it."""
        guard.prctl(guard.PR_SET_CHILD_SUBREAPER, 1)  # should the guard be killed, what it guarded becomes ours
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._guard = ours  # what it is told before it runs waits for it
        telling = asyncio.create_task(self._tell_how_long(lease))
        try:
            with theirs:
                arguments = [str(theirs.fileno()), str(os.getpid()), str(self._grace_s), *self._command]
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-I", "-S", guard.__file__, *arguments),
                    env={**os.environ, LEASE_VARIABLE: lease.lease_id},
                    pass_fds=(theirs.fileno(),),
                )
            yield ours
            ours.shutdown(socket.SHUT_RDWR)  # by now it ends; should it not, this tells it to
            await process.wait()
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)
            self._sweep()
            ours.close()

    async def _tell_how_long(self, lease: HeldLease) -> None:
        """Tell the guard until when the lease holds, whenever the kernel has confirmed it."""
        told = None
        while True:
            if lease.confirmed != told and lease.ended is None:
                told = lease.confirmed
                self._order(f"until {told + lease.ttl_s}")
            await asyncio.sleep(lease.ttl_s / LOOKS)

    async def _follow(self, ours: socket.socket, lease: HeldLease) -> int:
        """Read what the guard says to its end; the program's exit code, as a shell tells it.

        Raises:
            LeaseLostError: The lease's time was over.
        """
        overdue = False
        async for words in _words(ours):
            match words:
                case ["failed", text]:
                    why = os.strerror(int(text))
                    self._output.error(CommandError(f"{self._command[0]}: {why}", reason="PROGRAM_NOT_RUN"))
                    return CANNOT_RUN
                case ["left", count]:
                    self._say(f"{self._command[0]} has ended; {count} that it left behind get SIGTERM")
                case ["overdue"]:
                    overdue = True
                    self._say(f"the lease's time is over; {self._command[0]} gets SIGTERM")
                case ["exit", text] if not overdue:
                    code = os.waitstatus_to_exitcode(int(text))
                    return code if code >= 0 else KILLED - code
        if overdue:
            raise lease.lost()
        self._output.error(CommandError("the guard of the program was killed", reason="GUARD_DIED"))
        return KILLED + signal.SIGKILL

    def _sweep(self) -> None:
        """Kill what a killed guard has left; there is nothing where it has ended in order."""
        while guard.send(signal.SIGKILL, guard.descendants(os.getpid())):
            pass

    def _signalled(self, number: signal.Signals) -> None:
        if self._guard is not None:
            if number not in TYPED or not typed():
                self._order(f"signal {int(number)}")
        elif number in ENDING and self._waiting is not None:
            self._told = number
            self._waiting.cancel()
        if number is signal.SIGTSTP:  # as the program: the shell is to see a stopped job
            os.kill(os.getpid(), signal.SIGSTOP)

    def _order(self, line: str) -> None:
        if self._guard is not None:
            with suppress(OSError):  # it has ended, or does not read: then its own clock is enough
                self._guard.send(f"{line}\n".encode())

    def _say(self, text: str) -> None:
        if not self._output.json:
            self._output.note(text)

    def _tell(self, facts: dict[str, object]) -> None:
        """Tell programs what goes on."""
        if self._output.json:
            self._output.line(facts)


async def _words(guarded: socket.socket) -> AsyncIterator[list[str]]:
    """The words of each line that the guard says. One that ended before it read an order has said all, too."""
    said = b""
    with suppress(ConnectionResetError):
        while chunk := await asyncio.get_running_loop().sock_recv(guarded, 1 << 12):
            *lines, said = (said + chunk).split(b"\n")
            for line in lines:
                yield line.decode().split()


def typed() -> bool:
    """Whether Ctrl-C on the terminal of this process reaches the program too, which then needs no copy of it."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
