"""The process that computes the next weights of a round: the kernel has no numpy, and its loop no time for it."""

from __future__ import annotations

import asyncio
import sys
from typing import Final

from inferd.errors import InternalError, LimitExceededError
from inferd.federation.parts import Parts
from inferd.plugin.child import environment

PROGRAM: Final = "inferd_federation.sums"  # what is run
_WORDS: Final = 500  # characters of what a process says that died


async def computed(parts: Parts, *, limit_s: float) -> Parts:
    """What the process makes of it: see `inferd_federation.sums`.

    Raises:
        LimitExceededError: It took longer than it may.
        InternalError: It died, or answered nothing that can be read.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", PROGRAM),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(),
    )
    try:
        async with asyncio.timeout(limit_s):
            _, given, said = await asyncio.gather(_give(process, parts), _all(process.stdout), _all(process.stderr))
            await process.wait()
    except TimeoutError:
        raise LimitExceededError(
            f"the weights of a round were not computed within {limit_s:g} s, which is federate.sum_s",
            metadata={"bound": "federate.sum_s", "limit": f"{limit_s:g}"},
        ) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    try:
        return Parts.read(given)
    except (ValueError, KeyError):
        last = said.decode(errors="replace").strip().rpartition("\n")[2][:_WORDS]
        raise InternalError(
            f"the process that computes the weights of a round ended with status {process.returncode}: {last}"
        ) from None


async def _give(process: asyncio.subprocess.Process, parts: Parts) -> None:
    """Write part by part, as the process reads: all at once would stop the kernel's loop, and need as much again."""
    if (stdin := process.stdin) is None:
        return
    try:
        for piece in parts.pieces():
            stdin.write(piece)
            await stdin.drain()
    except (BrokenPipeError, ConnectionResetError):
        return  # it died; what it said tells why
    finally:
        stdin.close()


async def _all(pipe: asyncio.StreamReader | None) -> bytes:
    return b"" if pipe is None else await pipe.read()
