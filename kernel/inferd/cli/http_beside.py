"""The gateway beside a kernel that `inferd serve --http` starts: a child that is started anew, and ends with it."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

import structlog

from inferd.addresses import UNIX
from inferd.cli.beside import end_child, run_again
from inferd.cli.http import check_packages
from inferd.cli.output import CommandError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferd.cli.output import Output

END_S = 10.0  # for the end of its answers

log = structlog.get_logger()


class HttpBeside:
    """Starts it once the kernel serves. One writer: the kernel's loop.

    Args:
        output: Whether its lines are JSON.
        listen: Where it listens, or "on" for where its settings say.

    Raises:
        CommandError: Its packages are missing, or it cannot listen at what is no address.
    """

    def __init__(self, output: Output, listen: str) -> None:
        host, _, port = listen.rpartition(":")
        if listen != "on" and not (host and port.isdecimal()):  # else it would end, and be started, for ever
            raise CommandError(
                f"--http is {listen!r}; it must be HOST:PORT, as 127.0.0.1:7413, or on or off",
                reason="SETTINGS_INVALID",
            )
        check_packages()
        self._form = "json" if output.json else "table"
        self._listen = "" if listen == "on" else listen
        self._task: asyncio.Task[None] | None = None

    def start(self, addresses: Sequence[str]) -> None:
        """The kernel serves; where it does so again, all is as it was."""
        if self._task is None or self._task.done():
            own = next((each for each in addresses if each.startswith(UNIX)), addresses[0])
            self._task = asyncio.get_running_loop().create_task(self._keep(own), name="HTTP gateway")

    async def _keep(self, own: str) -> None:
        await run_again(
            lambda: self._run(own),
            lambda code, pause_s: log.warning("the HTTP gateway ended", code=code, again_in_s=pause_s),
        )

    async def _run(self, own: str) -> int:
        """Run it once; its exit code."""
        listen = ("--listen", self._listen) if self._listen else ()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "inferd", "http", "--address", own, "-o", self._form, *listen),
            *("--parent", str(os.getpid())),
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is the kernel's, which ends it
        )
        try:
            return await process.wait()
        finally:
            await end_child(process, END_S)
