"""Running the child process that probes one plugin, and ending it with all that it started."""

import asyncio
import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

DOCUMENT_BYTES = 1 << 20  # most that a child may answer
STDERR_BYTES = 1 << 16  # how much is kept of the end of its standard error


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a child ended.

    Attributes:
        status: Its exit status; negative: the signal that ended it.
        document: What it answered, the last `DOCUMENT_BYTES` of it.
        stderr: The last `STDERR_BYTES` of its standard error.
    """

    status: int
    document: bytes
    stderr: bytes

    def __str__(self) -> str:
        """The ending of a child that gave no document of discovery, with its last line."""
        if self.status < 0:
            how = f"ended by signal {-self.status} ({signal.strsignal(-self.status)})"
        elif self.document:
            how = "answered with something that is no document of discovery"
        else:
            how = f"exited with status {self.status} before it answered"
        lines = self.stderr.decode(errors="replace").strip().splitlines()
        return f"{how}; its last line: {lines[-1].strip()}" if lines else how


async def run(module: str) -> Ending:
    """Run `inferd.plugin.probe` for a plugin to its end. Cancelling this kills it."""
    async with Pipe(DOCUMENT_BYTES) as answer, Pipe(STDERR_BYTES) as stderr:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "inferd.plugin.probe", module, str(answer.write_end), str(os.getpid())),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=stderr.write_end,
            pass_fds=(answer.write_end,),
            start_new_session=True,
        )
        try:
            answer.close_write_end()
            stderr.close_write_end()
            status = await process.wait()
        finally:
            # Not only when it is cancelled: what the plugin left behind would hold the pipes open.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        return Ending(status=status, document=await answer.read(), stderr=await stderr.read())


class Pipe:
    """A pipe from a child. It is always read, so that the child never waits; the last `keep_bytes` are kept."""

    def __init__(self, keep_bytes: int) -> None:
        self._keep_bytes = keep_bytes
        self._kept = bytearray()
        self._ended = asyncio.Event()
        self._read_end, self.write_end = os.pipe()
        os.set_blocking(self._read_end, False)

    async def __aenter__(self) -> Self:
        asyncio.get_running_loop().add_reader(self._read_end, self._take)
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
        """What was kept, once all copies of the child's end are closed."""
        await self._ended.wait()
        return bytes(self._kept)

    def _take(self) -> None:
        data = os.read(self._read_end, 1 << 16)
        self._kept += data
        del self._kept[: -self._keep_bytes]
        if not data:
            asyncio.get_running_loop().remove_reader(self._read_end)
            self._ended.set()
