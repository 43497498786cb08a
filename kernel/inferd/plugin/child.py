"""Running the child process that probes one plugin, and ending it with all that it started."""

import asyncio
import os
import re
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from inferd.plugin.cores import forbid_cores
from inferd.plugin.patience import patience

DOCUMENT_BYTES = 1 << 20  # most that a child may answer
STDERR_BYTES = 1 << 16  # how much is kept of the end of its standard error
TRACE_S = 1.0  # how long a process that hangs may take to write where it does
SECRET_WORDS = frozenset({"CREDENTIAL", "CREDENTIALS", "KEY", "PASSWD", "PASSWORD", "PGPASSWORD", "SECRET", "TOKEN"})
"""What names of variables with secrets have between their underscores."""
OURS = "INFERD_"  # the store with its password, credentials of clients, settings: nothing that a backend would need
FATAL = "Fatal Python error: "  # how faulthandler begins; see docs.python.org/3/library/faulthandler.html
FRAME = re.compile(r"^Current thread [^\n]*\n +(File \"[^\n]*)", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a child ended.

    Attributes:
        status: Its exit status; negative: the signal that ended it.
        document: What it answered, the last `DOCUMENT_BYTES` of it.
        stderr: The last `STDERR_BYTES` of its standard error.
        limit_s: The time that it took longer than, and was killed for; None when it ended by itself.
    """

    status: int
    document: bytes
    stderr: bytes
    limit_s: float | None = None

    @property
    def text(self) -> str:
        """What it wrote to its standard error."""
        return self.stderr.decode(errors="replace").strip()

    def __str__(self) -> str:
        """The ending of a child that gave no document of discovery, with where it was or its last line."""
        if self.limit_s is not None:
            how = f"took longer than {self.limit_s:g} s and was killed"
        elif self.status < 0:
            how = f"ended by signal {-self.status} ({signal.strsignal(-self.status)})"
        elif self.document:
            how = "answered with something that is no document of discovery"
        else:
            how = f"exited with status {self.status} before it answered"
        if frame := last_frame(self.text):
            return f"{how}; it was at {frame}"
        lines = self.text.splitlines()
        return f"{how}; its last line: {lines[-1].strip()}" if lines else how


def last_frame(text: str) -> str:
    """Where in its program a process was that a signal ended, by what faulthandler wrote; "" when it wrote nothing."""
    _, fatal, trace = text.rpartition(FATAL)
    found = FRAME.search(trace) if fatal else None
    return "" if found is None else found[1].strip()


async def abort(process: asyncio.subprocess.Process) -> None:
    """Have a process end that hangs, and write before where each of its threads is; it leaves no core behind.

    One that enabled faulthandler, that is. This takes at most `TRACE_S`; should it not be gone then, kill it.
    """
    with suppress(OSError):
        forbid_cores(process.pid)
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGABRT)
    with suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), TRACE_S)


def environment() -> dict[str, str]:
    """The variables that processes with backends are given: none of the kernel's own, and none with a secret."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(OURS) and not SECRET_WORDS & set(name.upper().split("_"))
    }


async def run(module: str, *, limit_s: float) -> Ending:
    """Run `inferd.plugin.probe` for a plugin to its end, or kill it after a time. Cancelling this kills it, too."""
    limit: float | None = None
    async with Pipe(DOCUMENT_BYTES) as answer, Pipe(STDERR_BYTES) as stderr:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "inferd.plugin.probe", module, str(answer.write_end), str(os.getpid())),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=stderr.write_end,
            pass_fds=(answer.write_end,),
            env=environment(),
            start_new_session=True,
        )
        try:
            answer.close_write_end()
            stderr.close_write_end()
            try:
                async with patience(limit_s):
                    await process.wait()
            except TimeoutError:
                limit = limit_s
                await abort(process)
        finally:
            # Not only when it is cancelled: what the plugin left behind would hold the pipes open.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            status = await process.wait()
        return Ending(status=status, document=await answer.read(), stderr=await stderr.read(), limit_s=limit)


class Pipe:
    """A pipe from a child. It is always read, so that the child never waits; the last `keep_bytes` are kept."""

    def __init__(self, keep_bytes: int) -> None:
        self._keep_bytes = keep_bytes
        self._kept = bytearray()
        self._ended = asyncio.Event()
        self._read_end, self.write_end = os.pipe()
        os.set_blocking(self._read_end, False)

    async def __aenter__(self) -> Self:
        asyncio.get_running_loop().add_reader(self._read_end, self._read_more)
        return self

    async def __aexit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._read_end)
        os.close(self._read_end)
        self.close_write_end()

    def close_write_end(self) -> None:
        """Close our copy of the child's end."""
        if self.write_end >= 0:
            os.close(self.write_end)
            self.write_end = -1

    async def read(self) -> bytes:
        """What was kept, once all copies of the child's end are closed, or soon: who left its group may hold one."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), TRACE_S)
        return bytes(self._kept)

    def _read_more(self) -> None:
        data = os.read(self._read_end, 1 << 16)
        self._kept += data
        del self._kept[: -self._keep_bytes]
        if not data:
            asyncio.get_running_loop().remove_reader(self._read_end)
            self._ended.set()
