"""`inferd lease run`: a program outside the kernel that runs under a lease."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from typing import TYPE_CHECKING

from inferd.cli.claim import describe
from inferd.cli.kernel import connected
from inferd.cli.output import CommandError, command_error
from inferd_client import AsyncClient, LeaseLostError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferd.cli.output import Output
    from inferd_api.v1.lease_pb2 import Claim
    from inferd_client import HeldLease, LeaseOptions

LEASE_VARIABLE = "INFERD_LEASE"
LOST = 75  # EX_TEMPFAIL of sysexits.h: what failed may work another time
NOT_FOUND = 127
KILLED = 128  # and the signal, as shells tell it


def run_under_lease(
    output: Output, address: str, tenant: str, command: Sequence[str], *, claims: list[Claim], options: LeaseOptions
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
        program = Program(output, [path, *command[1:]])
        return asyncio.run(program.run(client.address, tenant, claims, options))


class Program:
    """A program and the signals that it is sent. Those that come before it runs end the wait for its lease."""

    def __init__(self, output: Output, command: Sequence[str]) -> None:
        self._output = output
        self._command = command
        self._process: asyncio.subprocess.Process | None = None
        self._waiting: asyncio.Task[object] | None = None
        self._told: signal.Signals | None = None

    async def run(self, address: str, tenant: str, claims: list[Claim], options: LeaseOptions) -> int:
        """Wait for the lease, run the program, and release the lease; the exit code."""
        self._waiting = asyncio.current_task()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
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
        self._tell({"lease_id": lease.lease_id, "fencing_token": lease.fencing_token})
        environment = {**os.environ, LEASE_VARIABLE: lease.lease_id}
        process = await asyncio.create_subprocess_exec(*self._command, env=environment)
        self._process = process
        try:
            code = await process.wait()
        except asyncio.CancelledError:  # the lease is lost: signals do not cancel any more
            if not self._output.json:
                self._output.note(f"the lease is lost; {self._command[0]} (pid {process.pid}) gets SIGTERM")
            self._send(signal.SIGTERM)
            await process.wait()
            raise
        return code if code >= 0 else KILLED - code

    def _signalled(self, number: signal.Signals) -> None:
        if self._process is not None:
            if not (number is signal.SIGINT and typed()):
                self._send(number)
        elif self._waiting is not None:
            self._told = number
            self._waiting.cancel()

    def _send(self, number: signal.Signals) -> None:
        assert self._process is not None  # noqa: S101 - the callers have seen that there is one
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def _tell(self, facts: dict[str, object]) -> None:
        """Tell programs on stderr what goes on: stdout is the program's."""
        if self._output.json:
            self._output.line(facts, err=True)


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
