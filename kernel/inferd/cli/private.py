"""A kernel of one command: started when none runs, ended with the command."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from inferd.cli.output import CommandError
from inferd.errors import present

if TYPE_CHECKING:
    from collections.abc import Iterator

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
LINE_BYTES = 1 << 20
ALONE = {"INFERD_STORE__URL": "memory:", "INFERD_DRAIN_S": "0", "INFERD_METRICS_LISTEN": ""}


class PrivateKernel(NamedTuple):
    """Where it listens, and its process id."""

    address: str
    pid: int


@contextmanager
def private_kernel() -> Iterator[PrivateKernel]:
    """A kernel that listens on a socket in a folder of its own; no process is left when the block ends.

    It runs in a session of its own, so that Ctrl-C reaches this process only, which then ends it in order. Should
    this process be killed, the kernel ends with it.

    Raises:
        CommandError: It did not start; the message ends with what it said last.
    """
    with tempfile.TemporaryDirectory(prefix="inferd-") as folder:
        address, log = f"unix:{folder}/kernel.sock", Path(folder) / "kernel.log"
        command = [sys.executable, "-m", "inferd", "serve", "--listen", address, "--output", "json"]
        command += ["--exit-with-parent", "--parent", str(os.getpid())]
        with log.open("wb") as errors:
            process = subprocess.Popen(
                command,
                # Nothing of it is to outlive the command, nor to take a port from a kernel that stays.
                env={**os.environ, **ALONE},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        try:
            _wait_until_ready(process, log)
            yield PrivateKernel(address, process.pid)
        finally:
            _end(process)


def _wait_until_ready(process: subprocess.Popen[bytes], log: Path) -> None:
    stdout = present(process.stdout)
    deadline = time.monotonic() + START_TIMEOUT_S
    said = b""
    while b"\n" not in said and len(said) < LINE_BYTES:
        left_s = deadline - time.monotonic()
        if left_s <= 0 or not select.select([stdout], [], [], left_s)[0]:
            raise _not_started(f"it was not ready within {START_TIMEOUT_S:.0f} s", log)
        chunk = os.read(stdout.fileno(), 1 << 16)
        if not chunk:
            raise _not_started(_told(said) or f"it ended with status {process.wait()}", log)
        said += chunk
    if "addresses" not in json.loads(said):
        raise _not_started(_told(said), log)


def _told(said: bytes) -> str:
    """The message of the error that the kernel told, if it did."""
    try:
        return str(json.loads(said)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return ""


def _not_started(why: str, log: Path) -> CommandError:
    last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
    return CommandError("\n  ".join([f"the private kernel did not start: {why}", *last]), reason="KERNEL_NOT_STARTED")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    finally:
        if process.stdout is not None:
            process.stdout.close()
